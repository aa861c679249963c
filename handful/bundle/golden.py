"""Golden inputs: some pictures or sounds that lie in a bundle with the answers to them, so that whoever loads the model
sees whether it answers as where it was made.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from handful.bundle.heads import Floats
from handful.bundle.predictor import to_inputs, to_pixels
from handful.bundle.sounds import Inputs
from handful.v1.bundle_pb2 import Backbone as BackboneMessage

FILE = "golden.safetensors"
# Far above what float32 runtimes differ by, far below what anyone would notice.
MAX_DIFFERENCE = 1e-3
# Of 255. Decoders of JPEG round differently.
MAX_LEVELS = 4
MAX_INPUTS = 64
Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Golden:
    """Inputs of a backbone, each of one picture or sound, and float32[n, classes], the answers to them. Of pictures
    `levels` is by how much of 255 the first of them, read again from its file, differs from its input.
    """

    inputs: tuple[Inputs, ...]
    probabilities: Floats
    levels: int = 0

    @classmethod
    def from_bytes(cls, data: bytes, backbone: BackboneMessage) -> "Golden":
        """ValueError where the file is none of ours."""
        try:
            tensors = load(data)
            expected = tensors.pop("probabilities")
            _must(expected.dtype == np.float32 and expected.ndim == 2 and 0 < len(expected) <= MAX_INPUTS)  # noqa: PLR2004
            if backbone.HasField("sound_preprocessing"):
                return cls(_sounds(tensors, len(expected), backbone), expected)
            inputs, levels = _pictures(tensors, len(expected), backbone)
            return cls(inputs, expected, levels)
        except MemoryError:
            raise
        except Exception as problem:
            raise ValueError("no golden inputs") from problem

    def first(self) -> "Golden":
        """The first of them alone."""
        return replace(self, inputs=self.inputs[:1], probabilities=self.probabilities[:1])

    def difference(self, answer: Callable[[Inputs], Floats]) -> float:
        """The largest difference of a probability; `answer` gives float32[1, classes]. NaN where there is one."""
        answers = np.concatenate([answer(one) for one in self.inputs])
        return float(np.abs(answers - self.probabilities).max())


def _sounds(tensors: Tensors, count: int, backbone: BackboneMessage) -> tuple[Inputs, ...]:
    """They come as files, so that what makes inputs of them is tried too."""
    names = [f"sound_{place}" for place in range(count)]
    _must(set(tensors) == set(names))
    return tuple(to_inputs(tensors[name].tobytes(), backbone) for name in names)


def _pictures(tensors: Tensors, count: int, backbone: BackboneMessage) -> tuple[tuple[Inputs, ...], int]:
    """The pixels, and the levels by which those of the file that stands for the first of them differ."""
    size, kinds = backbone.preprocessing.size, {name: one.dtype.name for name, one in tensors.items()}
    _must(kinds == {"pixels": "uint8", "picture": "uint8"} and tensors["pixels"].shape == (count, size, size, 3))
    pixels = tensors["pixels"]
    seen = to_pixels(tensors["picture"].tobytes(), backbone.preprocessing)
    return tuple({"pixels": one[None]} for one in pixels), int(np.abs(seen.astype(int) - pixels[0]).max())


def _must(right: bool) -> None:  # noqa: FBT001 - as in a sentence
    if not right:
        raise ValueError("not what a model has")
