"""Heads: a few kilobytes that turn features into class probabilities."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handful.bundle.tensors import load, save
from handful.v1 import bundle_pb2

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LinearHead:
    """logits = normalise(features) x weight^T + bias.

    `weight` is float32[classes, feature_width], `bias` float32[classes], `mean` float32[feature_width]: the mean of the
    training features, zeros where features are used as they are.
    """

    normalization: "bundle_pb2.Head.Normalization.ValueType"
    weight: Floats
    bias: Floats
    mean: Floats

    def logits(self, features: Floats) -> Floats:
        """float32[n, classes] of float32[n, feature_width]."""
        logits: Floats = normalize(features, self.mean, self.normalization) @ self.weight.T + self.bias
        return logits

    def probabilities(self, features: Floats) -> Floats:
        """float32[n, classes] in [0, 1], each row summing to 1."""
        return softmax(self.logits(features))

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.bias.nbytes + self.mean.nbytes

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        return save({"bias": self.bias, "mean": self.mean, "weight": self.weight})

    @classmethod
    def from_bytes(cls, head: bundle_pb2.Head, data: bytes) -> "LinearHead":
        """ValueError where the file is none of ours."""
        try:
            tensors = load(data)
            weight, bias, mean = tensors["weight"], tensors["bias"], tensors["mean"]
        except Exception as problem:
            raise ValueError("not a head") from problem
        fits = weight.ndim == 2 and (bias.shape, mean.shape) == (weight.shape[:1], weight.shape[1:])  # noqa: PLR2004
        if not fits or any(tensor.dtype != np.float32 for tensor in (weight, bias, mean)):
            raise ValueError("not a head")
        return cls(head.normalization, weight, bias, mean)


def normalize(features: Floats, mean: Floats, normalization: "bundle_pb2.Head.Normalization.ValueType") -> Floats:
    """Features as the head takes them: as they are, or centred and scaled to the length sqrt(feature_width)."""
    if normalization == bundle_pb2.Head.NORMALIZATION_NONE:
        return features
    if normalization != bundle_pb2.Head.NORMALIZATION_CENTER_L2:
        raise ValueError(f"unknown normalization {normalization}")
    centred = features - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled: Floats = (centred * (np.sqrt(features.shape[1]) / np.maximum(length, 1e-12))).astype(np.float32)
    return scaled


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row of logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
