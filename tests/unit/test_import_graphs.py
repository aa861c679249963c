"""ONNX graphs and tensors that anyone may have sent: what is not plainly a backbone's is refused."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from safetensors.numpy import save

from handful.errors import InvalidArgument
from services.trainer.imports import graphs, tensors
from tests import whole_bundles

BACKBONE = whole_bundles.make().model.backbone
Change = Callable[[onnx.ModelProto], object]


def node(text: str) -> Change:
    return lambda model: model.graph.node.append(parser.parse_node(text))


def external(tensor: TensorProto, location: str = "/etc/passwd") -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def constant(model: onnx.ModelProto) -> None:
    value = external(numpy_helper.from_array(np.zeros(1, np.float32)))
    model.graph.node.append(helper.make_node("Constant", [], ["more"], value=value))


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Run", [], ["x"], domain="evil"))


def subgraph(model: onnx.ModelProto) -> None:
    """A branch whose tensor lies elsewhere."""
    inner = numpy_helper.from_array(np.zeros(1, np.float32), "inner")
    branch = helper.make_graph(
        [], "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])], [external(inner)]
    )
    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))  # noqa: FBT003
    model.graph.node.extend([condition, helper.make_node("If", ["yes"], ["x"], then_branch=branch, else_branch=branch)])


def endless(model: onnx.ModelProto) -> None:
    """A loop that never ends."""
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (float x) => (float y) {
        many = Constant<value = int64 {9223372036854775807}>()
        yes = Constant<value = bool {1}>()
        y = Loop(many, yes, x) <body = once (int64 i, bool go, float a) => (bool on, float b) {
            on = Identity(go)
            b = Identity(a)
        }>
    }"""
    model.graph.node.extend(parser.parse_model(text).graph.node)


def function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("", "Mine", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [])
    )


def sparse(model: onnx.ModelProto) -> None:
    values = external(numpy_helper.from_array(np.zeros(1, np.float32), "sparse"))
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def numbers(value: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        spread = numpy_helper.to_array(model.graph.initializer[0]).copy()
        spread[1, 5] = value
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(spread, "spread"))

    return change


E = "EXTERNAL_DATA"
U = "UNSUPPORTED_MODEL"
C = "CORRUPT_MODEL"
CHANGES: dict[str, tuple[Change, str]] = {
    "weights elsewhere": (lambda model: external(model.graph.initializer[0]), E),
    "weights above": (lambda model: external(model.graph.initializer[0], "../../secret"), E),
    "a name of elsewhere": (lambda model: model.graph.initializer[0].external_data.add(key="location", value="x"), E),
    "a constant elsewhere": (constant, E),
    "sparse weights elsewhere": (sparse, E),
    "a branch": (subgraph, U),
    "a loop": (endless, U),
    "a function": (function, U),
    "an operator of others": (foreign, U),
    "an operator that is none": (node("x = SystemCall(pixels)"), U),
    "another opset": (lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)), U),
    "an old opset": (lambda model: setattr(model.opset_import[0], "version", 5), U),
    "a new opset": (lambda model: setattr(model.opset_import[0], "version", 999), U),
    "a new format": (lambda model: setattr(model, "ir_version", 999), U),
    "another input": (lambda model: setattr(model.graph.input[0], "name", "picture"), U),
    "no feature map": (lambda model: model.graph.output.pop(), U),
    "another size": (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 225), U),
    "another width": (lambda model: setattr(model.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7), U),
    "floats in": (lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT), U),
    "a missing input of a node": (node("more = Relu(nothing)"), C),
    "a shape that cannot be": (node("more = MatMul(spread, spread)"), C),
    "a tensor that is cut": (lambda model: setattr(model.graph.initializer[0], "raw_data", b"123"), C),
    "no number": (numbers(np.nan), C),
    "no end": (numbers(np.inf), C),
}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidArgument) as caught:
        call()
    return caught.value.reason


def test_a_backbone_is_one() -> None:
    """The graph of a bundle passes."""
    graphs.check(whole_bundles.graph().SerializeToString(), BACKBONE)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_backbone_is_refused(change: str) -> None:
    """Data outside the file, code of others, loops, other ends, numbers that are none: each has its reason."""
    model = whole_bundles.graph()
    CHANGES[change][0](model)
    data = model.SerializeToString()
    assert refusal(lambda: graphs.check(data, BACKBONE)) == CHANGES[change][1]


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"no graph", bytes(100), b"\x08\x0a" * 50], ids=repr)
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    """Bytes that are no ONNX model are refused, whatever they are."""
    assert refusal(lambda: graphs.check(data, BACKBONE)) in {C, U}


def header(content: object, body: bytes = bytes(8), length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(start: int = 0, end: int = 8, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04cposix\nsystem\n",
        header({}, length=2**63),
        header({}, length=100_000_001),
        header({"a": one()}, length=10_000),
        header(b"[" * 100_000),
        header(b"not json"),
        header([]),
        header({"a": 3}),
        header({"a": one(dtype="F64"), "b": one()}),
        header({"a": one(end=16)}),
        header({"a": one(-8, 0)}),
        header({"a": one(0, 4)}),
        header({"a": one(0, 4, shape=(1,)), "b": one(0, 4, shape=(1,))}),
        header({"a": one(), "b": one(16, 24)}, bytes(24)),
        header({"a": one()}, bytes(9)),
        header({"a": one(shape=(2**40, 2**40))}),
        header({"a": one(shape=(-2,))}),
        header(b'{"a":' + json.dumps(one()).encode() + b',"a":' + json.dumps(one()).encode() + b"}"),
        header({f"t{number}": one(0, 0, shape=(0,)) for number in range(100_000)}, b""),
        save({"a": np.array([1, np.nan], np.float32)}),
        save({"a": np.array([1, -np.inf], np.float32)}),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_are_no_tensors_is_refused(data: bytes) -> None:
    """A wrong header, tensors that overlap or leave holes, and numbers that are none are refused."""
    assert refusal(lambda: tensors.read("head.safetensors", data)) == C


def test_tensors_are_read() -> None:
    """A file of the kinds of numbers that models have is read."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "floats": np.ones((2, 3), np.float32),
        "counter": np.array(7, np.int64),
        "bytes": np.zeros(5, np.uint8),
    }
    read = tensors.read("a.safetensors", save(arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
