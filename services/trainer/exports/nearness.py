"""How near an export's answers to the golden inputs come to those that were stored with the model."""

from dataclasses import dataclass

import numpy as np

from handful.bundle.heads import Floats

# Below it float32 differs between machines.
LEAST = 1e-6


@dataclass(frozen=True)
class Nearness:
    """How many golden inputs there are, the share whose best class is the stored one, and the largest difference of a
    probability.
    """

    num_golden: int
    top1_agreement: float
    max_abs_diff: float

    @classmethod
    def of(cls, answers: Floats, stored: Floats) -> "Nearness":
        """Of probabilities, both float32[n, classes]."""
        agreement = float((answers.argmax(axis=1) == stored.argmax(axis=1)).mean())
        return cls(len(stored), agreement, float(np.abs(answers - stored).max()))

    @property
    def flips(self) -> int:
        """How many best classes are others."""
        return round(self.num_golden * (1 - self.top1_agreement))

    @property
    def said(self) -> float:
        """The largest difference in one digit, rounded up, 1e-6 where it is less: the same on all machines, mostly."""
        if self.max_abs_diff <= LEAST:
            return LEAST
        power = 10.0 ** np.floor(np.log10(self.max_abs_diff))
        return float(f"{np.ceil(self.max_abs_diff / power) * power:.0e}")
