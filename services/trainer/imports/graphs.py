"""ONNX graphs that anyone may have sent, looked through before a runtime sees them: nothing outside the file, no code
of others, no loops. What is left can only take time and memory, which the process that runs it has little of.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, numpy_helper, shape_inference

from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import Backbone
from services.trainer.sound_architectures import graph_input

MIN_OPSET = 13
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def check(data: bytes, backbone: Backbone) -> None:
    """InvalidArgument CORRUPT_MODEL, EXTERNAL_DATA or UNSUPPORTED_MODEL where this is no graph of such a backbone."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as problem:
        raise InvalidArgument("backbone.onnx is no ONNX model.", reason="CORRUPT_MODEL") from problem
    _check_outside(model)
    _check_operators(model)
    of_sounds = backbone.HasField("sound_preprocessing")
    (_check_sound_ends if of_sounds else _check_ends)(model, backbone)
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as problem:
        raise InvalidArgument("backbone.onnx is not a valid ONNX model.", reason="CORRUPT_MODEL") from problem
    _check_numbers(model)


def _check_outside(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise InvalidArgument("backbone.onnx names data outside of itself.", reason="EXTERNAL_DATA")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor; subgraphs and functions are refused, so there are none in them."""
    sparse = list(model.graph.sparse_initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for one in sparse:
        yield from (one.values, one.indices)
    yield from model.graph.initializer


def _check_operators(model: onnx.ModelProto) -> None:
    opsets = {one.domain: one.version for one in model.opset_import}
    known = set(opsets) == {""} and MIN_OPSET <= opsets[""] <= onnx.defs.onnx_opset_version()
    if not known or model.functions or model.training_info or model.ir_version > onnx.IR_VERSION:
        raise _unsupported("It needs a version of ONNX, or code, that this server does not have.")
    for node in model.graph.node:
        if node.domain or not onnx.defs.has(node.op_type, max_inclusive_version=opsets[""]):
            raise _unsupported("It has an operator that is not one of ONNX.")
        if any(attribute.type in _GRAPHS for attribute in node.attribute):
            raise _unsupported("It has a graph within the graph, which a backbone has not.")


def _check_sound_ends(model: onnx.ModelProto, backbone: Backbone) -> None:
    """Spectrograms in, features out."""
    expected = {one.name: graph_input(one) for one in backbone.sound_preprocessing.spectrograms}
    names = [one.name for one in model.graph.input]
    if names != [*expected] or [one.name for one in model.graph.output] != ["features"]:
        raise _unsupported("Its inputs and outputs are not those of a backbone.")
    expected["features"] = ("float32", (1, backbone.feature_width))
    for one in (*model.graph.input, *model.graph.output):
        kind, shape = expected[one.name]
        end = one.type.tensor_type
        number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        if end.elem_type != number or tuple(dim.dim_value for dim in end.shape.dim) != shape:
            raise _unsupported("Its inputs and outputs are not those of a backbone.")


def _check_ends(model: onnx.ModelProto, backbone: Backbone) -> None:
    """Pixels in, features and feature map out, as `Backbone.graph_sha256` has it."""
    size, width = backbone.preprocessing.size, backbone.feature_width
    ends = {one.name: one.type.tensor_type for one in (*model.graph.input, *model.graph.output)}
    if [one.name for one in model.graph.input] != ["pixels"] or {*ends} != {"pixels", "features", "feature_map"}:
        raise _unsupported("Its inputs and outputs are not those of a backbone.")
    shapes = {name: [dim.dim_value for dim in end.shape.dim] for name, end in ends.items()}
    numbers = {name: end.elem_type for name, end in ends.items()}
    expected = {
        "pixels": onnx.TensorProto.UINT8,
        "features": onnx.TensorProto.FLOAT,
        "feature_map": onnx.TensorProto.FLOAT,
    }
    if numbers != expected or shapes["pixels"][1:] != [size, size, 3] or shapes["features"][1:] != [width]:
        raise _unsupported("Its inputs and outputs are not those of a backbone.")


def _check_numbers(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise InvalidArgument("backbone.onnx has numbers that are not finite.", reason="CORRUPT_MODEL")


def _unsupported(problem: str) -> InvalidArgument:
    return InvalidArgument(f"backbone.onnx cannot be run here. {problem}", reason="UNSUPPORTED_MODEL")
