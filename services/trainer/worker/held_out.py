"""What was answered to examples that no answer was fitted on, and from that how few wrong answers can be promised."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handful.bundle.error_control import groups_needed, min_confidence
from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import ErrorControl, ErrorRatePromise
from services.trainer.worker.cross_validation import Labels

# What is told of each model; whoever asks may ask for any other.
ERROR_RATES = (0.01, 0.05, 0.1)
# In a manifest; more are thinned out, which holds back a few answers more.
MAX_CONFIDENCES = 256
# So that a fifth, five times, is one.
_DIGITS = 9


@dataclass(frozen=True)
class HeldOut:
    """Probabilities float32[repeats, n, classes] at the temperature that is published, and int64[n] the classes of the
    examples and their groups. They are of models that were fitted without the example, on fewer, and not of the
    published one, so what is promised by them is near to what the theorem says of one model, and measured. A group
    counts as one example, and each of its own as a share of that: it stands for what may be asked next, which is like
    all of it.
    """

    probabilities: Floats
    labels: Labels
    groups: Labels

    def error_control(self) -> ErrorControl | None:
        """None where nothing was held out."""
        if not len(self.labels):
            return None
        confidences, wrong = self._confidences, self.probabilities.argmax(axis=2) != self.labels
        surest = confidences[wrong]
        order = np.argsort(-surest, kind="stable")
        surest, shares = surest[order], self._shares[wrong][order]
        held_back = np.append(np.unique(surest)[::-1], np.float32(0))
        surer = np.searchsorted(-surest, -held_back)  # how many are surer than that
        errors = np.append(0.0, np.cumsum(shares))[surer].round(_DIGITS)
        kept = np.unique(np.linspace(0, len(held_back) - 1, MAX_CONFIDENCES).round().astype(int))
        return ErrorControl(
            num_groups=self._num_groups, min_confidences=held_back[kept].tolist(), errors=errors[kept].tolist()
        )

    def promises(self, control: ErrorControl) -> list[ErrorRatePromise]:
        """What it costs to be wrong rarely."""
        return [self._promise(rate, min_confidence(control, rate)) for rate in ERROR_RATES]

    def _promise(self, rate: float, confidence: float | None) -> ErrorRatePromise:
        told = ErrorRatePromise(max_error_rate=rate, num_groups_needed=groups_needed(rate))
        if confidence is not None:
            told.min_confidence = confidence
            answered = self._shares[self._confidences > confidence].sum()
            told.answered = round(float(answered / self._num_groups), _DIGITS)
        return told

    @property
    def _confidences(self) -> Floats:
        """float32[repeats, n]."""
        confidences: Floats = self.probabilities.max(axis=2)
        return confidences

    @property
    def _num_groups(self) -> int:
        return len(np.unique(self.groups))

    @property
    def _shares(self) -> npt.NDArray[np.float64]:
        """float64[repeats, n]: how much of its group each answer is; they sum to the number of groups."""
        _, numbered, sizes = np.unique(self.groups, return_inverse=True, return_counts=True)
        shares = 1 / sizes[numbered] / len(self.probabilities)
        return np.tile(shares, (len(self.probabilities), 1))
