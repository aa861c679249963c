"""How near an export's answers come to the model's."""

from dataclasses import dataclass

import numpy as np

from handful.bundle.heads import Floats

# Below it float32 differs between machines.
LEAST = 1e-6


@dataclass(frozen=True)
class Nearness:
    """On how many inputs, the share of them whose best class is the model's, and the largest difference of a
    probability.
    """

    num: int
    top1_agreement: float
    max_abs_diff: float

    @classmethod
    def of(cls, answers: Floats, models: Floats) -> "Nearness":
        """Of probabilities, both float32[n, classes]."""
        agreement = float((answers.argmax(axis=1) == models.argmax(axis=1)).mean())
        return cls(len(models), agreement, float(np.abs(answers - models).max()))

    @property
    def flips(self) -> int:
        """How many best classes are others."""
        return round(self.num * (1 - self.top1_agreement))

    @property
    def said(self) -> float:
        """The largest difference in one digit, rounded up, 1e-6 where it is less: the same on all machines, mostly."""
        if self.max_abs_diff <= LEAST:
            return LEAST
        power = 10.0 ** np.floor(np.log10(self.max_abs_diff))
        return float(f"{np.ceil(self.max_abs_diff / power) * power:.0e}")
