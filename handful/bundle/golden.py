"""Golden inputs: some pictures or sounds that lie in a bundle with the answers to them, so that whoever loads the model
sees whether it answers as where it was made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
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
            expected = tensors["probabilities"]
            if backbone.HasField("sound_preprocessing"):
                files = [tensors[f"sound_{place}"].tobytes() for place in range(len(expected))]
                return cls(tuple(to_inputs(file, backbone) for file in files), expected)
            pixels, picture = tensors["pixels"], tensors["picture"].tobytes()
            levels = np.abs(to_pixels(picture, backbone.preprocessing).astype(int) - pixels[0]).max()
            return cls(tuple({"pixels": one[None]} for one in pixels), expected, int(levels))
        except MemoryError:
            raise
        except Exception as problem:
            raise ValueError("no golden inputs") from problem

    def difference(self, answer: Callable[[Inputs], Floats]) -> float:
        """The largest difference of a probability; `answer` gives float32[1, classes]. NaN where there is one."""
        answers = np.concatenate([answer(one) for one in self.inputs])
        return float(np.abs(answers - self.probabilities).max())
