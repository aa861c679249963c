"""Whether two builds of a network compute the same: by their features of the same picture or sound."""

import numpy as np

from handful.bundle import sounds
from handful.bundle.heads import Floats
from handful.bundle.predictor import Pixels, spectrograms
from handful.bundle.sounds import Inputs
from handful.v1.bundle_pb2 import Backbone


class GraphDisagrees(Exception):
    """A graph does not compute what its network computes."""


# Two float32 runtimes differ by rounding: by 1e-6 of the largest feature with good weights, by 4e-4 with a body whose
# statistics are odd, as after few steps from random numbers. A wrong graph differs by as much as there is.
MAX_RELATIVE_DIFFERENCE = 1e-3


def sample(size: int) -> Pixels:
    """Pixels to compare by: uint8[2, size, size, 3], always the same."""
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def inputs(backbone: Backbone) -> Inputs:
    """What a graph of the backbone takes of two pictures, or of two seconds of noise: always the same."""
    if not backbone.HasField("sound_preprocessing"):
        return {"pixels": sample(backbone.preprocessing.size)}
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    return sounds.inputs(noise, 16_000, spectrograms(backbone.sound_preprocessing))


def check(got: Floats, expected: Floats, architecture: str) -> None:
    """GraphDisagrees where features of the same input are others than expected."""
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not difference <= MAX_RELATIVE_DIFFERENCE:
        raise GraphDisagrees(f"features of {architecture} differ by {difference:.1e} of their size")
