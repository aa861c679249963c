"""EfficientNet-Lite (TensorFlow authors, 2020; https://github.com/tensorflow/tpu) from arrays: the state dict of its
body as timm names it, and its ONNX graph, without torch. Torch's network is another build of the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from services.trainer.architectures import ArchitectureRow
from services.trainer.worker.pretrained.torch_files import Arrays

OPSET = 18
IR_VERSION = 10
# Blocks of each stage by the network's name in timm, and the stride of a stage's first block.
BLOCKS = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_NORM = ("weight", "bias", "running_mean", "running_var")
_NORM_EPSILON = 1e-3
_LARGEST = 6.0  # of ReLU6
_CLASSIFIER_TENSORS = 2


@dataclass(frozen=True)
class _Convolution:
    """A convolution with its normalisation, by their names in a state dict."""

    name: str
    norm: str
    stride: int = 1
    # ReLU6 after it.
    activated: bool = True
    # Where it is the last of a block whose input is added to its output.
    adds: bool = False


def state(name: str, tensors: Arrays) -> Arrays:
    """The body's state dict, by timm's names, of an official weights file: that names its tensors otherwise and lists
    them in the same order, with the classifier last. Its counters of batches are 0, as nothing has been trained here.
    """
    theirs = [array for array in tensors.values() if array.ndim > 0][:-_CLASSIFIER_TENSORS]
    convolutions, each = list(_convolutions(name)), 1 + len(_NORM)
    if len(theirs) != each * len(convolutions):
        raise ValueError(f"the weights file has {len(theirs)} tensors, {name} {each * len(convolutions)}")
    ours: Arrays = {}
    for index, one in enumerate(convolutions):
        names = (f"{one.name}.weight", *(f"{one.norm}.{part}" for part in _NORM))
        ours |= dict(zip(names, theirs[index * each :], strict=False))
        ours[f"{one.norm}.num_batches_tracked"] = np.zeros((), np.int64)
    return ours


def graph(body: Arrays, row: ArchitectureRow) -> bytes:
    """The body of a state dict as one ONNX file: `pixels` uint8[n, size, size, 3] in, with a free n; `features`
    float32[n, width] and `feature_map` float32[n, width, rows, columns] out. Normalisation of batches is folded into
    the weights.
    """
    drawn = _Drawing()
    drawn.pixels(row)
    size, block_input = row.preprocessing.size, drawn.last
    for one in _convolutions(row.network.name):
        size = drawn.convolve(one, body, size)
        if one.adds:
            drawn.add("Add", block_input)
        if not one.activated:
            block_input = drawn.last
    drawn.nodes[-1].output[0] = "feature_map"
    drawn.constant("space", np.array([2, 3], np.int64))
    drawn.nodes.append(helper.make_node("ReduceMean", ["feature_map", "space"], ["features"], keepdims=0))
    model: bytes = drawn.model(row, size).SerializeToString()
    return model


def _convolutions(name: str) -> Iterator[_Convolution]:
    """In the order of computing, which is that of the state dict."""
    yield _Convolution("network.conv_stem", "network.bn1", stride=2)
    for stage, (blocks, first_stride) in enumerate(zip(BLOCKS[name], _STRIDES, strict=True)):
        for block in range(blocks):
            at, stride = f"network.blocks.{stage}.{block}", 1 if block else first_stride
            if stage == 0:
                yield _Convolution(f"{at}.conv_dw", f"{at}.bn1", stride)
                yield _Convolution(f"{at}.conv_pw", f"{at}.bn2", activated=False)
            else:
                yield _Convolution(f"{at}.conv_pw", f"{at}.bn1")
                yield _Convolution(f"{at}.conv_dw", f"{at}.bn2", stride)
                yield _Convolution(f"{at}.conv_pwl", f"{at}.bn3", activated=False, adds=block > 0)
    yield _Convolution("network.conv_head", "network.bn2")


class _Drawing:
    """A graph as it is drawn, node after node; `last` names the value that the next one takes."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = "pixels"
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(_LARGEST))

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *others: str, **how: Any) -> None:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *others], [output], **how))
        self.last = output

    def pixels(self, row: ArchitectureRow) -> None:
        """(pixel / 255 - mean) / std, per channel."""
        mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (row.mean, row.std))
        self.add("Transpose", perm=[0, 3, 1, 2])
        self.add("Cast", to=TensorProto.FLOAT)
        self.add("Mul", self.constant("scale", 1 / (255 * std)))
        self.add("Add", self.constant("offset", -mean / std))

    def convolve(self, one: _Convolution, body: Arrays, size: int) -> int:
        """The convolution of a map of that many rows and columns; how many its output has."""
        weight, bias = _folded(one, body)
        names = self.constant(f"{one.name}.weight", weight), self.constant(f"{one.name}.bias", bias)
        kernel, smaller = weight.shape[2], -(-size // one.stride)
        # TensorFlow's SAME: as much as the output needs, and of an odd number the larger part below and to the right.
        missing = max((smaller - 1) * one.stride + kernel - size, 0)
        before, after = missing // 2, missing - missing // 2
        group = weight.shape[0] if weight.shape[1] == 1 else 1
        strides, pads = [one.stride] * 2, [before, before, after, after]
        self.add("Conv", *names, kernel_shape=[kernel] * 2, strides=strides, pads=pads, group=group)
        if one.activated:
            self.add("Clip", "zero", "six")
        return smaller

    def model(self, row: ArchitectureRow, size: int) -> ModelProto:
        side, width = row.preprocessing.size, row.feature_width
        pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, 3])
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])
        feature_map = helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, ["n", width, size, size])
        body = helper.make_graph(self.nodes, row.id, [pixels], [features, feature_map], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="handful")


def _folded(one: _Convolution, body: Arrays) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weight and bias of the convolution and its normalisation in one, computed in float64."""
    weight = body[f"{one.name}.weight"].astype(np.float64)
    gain, shift, mean, variance = (body[f"{one.norm}.{part}"].astype(np.float64) for part in _NORM)
    scale = gain / np.sqrt(variance + _NORM_EPSILON)
    return (weight * scale[:, None, None, None]).astype(np.float32), (shift - mean * scale).astype(np.float32)
