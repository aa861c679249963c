"""Whether two builds of a network compute the same: by their features of the same pixels."""

import numpy as np

from handful.bundle.heads import Floats
from handful.bundle.predictor import Pixels
from services.trainer.architectures import ArchitectureRow


class GraphDisagrees(Exception):
    """A graph does not compute what its network computes."""


# Two float32 runtimes differ by rounding: by 1e-6 of the largest feature with good weights, by 4e-4 with a body whose
# statistics are odd, as after few steps from random numbers. A wrong graph differs by as much as there is.
MAX_RELATIVE_DIFFERENCE = 1e-3


def sample(row: ArchitectureRow) -> Pixels:
    """Pixels to compare by: uint8[2, size, size, 3], always the same."""
    size = row.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def check(got: Floats, expected: Floats, row: ArchitectureRow) -> None:
    """GraphDisagrees where features of the same pixels are others than expected."""
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not difference <= MAX_RELATIVE_DIFFERENCE:
        raise GraphDisagrees(f"features of {row.id} differ by {difference:.1e} of their size")
