"""A backbone's float32 graph in 8-bit integers: the weights of each channel by their largest, each activation by its
range over pictures that are drawn here. So a graph that all projects share holds nothing of anyone's pictures.

It knows neither stores nor recipes.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handful.bundle import runtime
from handful.bundle.predictor import Pixels
from handful.bundle.sounds import Inputs

if TYPE_CHECKING:
    from onnx import ModelProto

# What makes the integers, for a backbone's id: the number counts changes of what is written here.
QUANTIZER = f"qdq1-onnxruntime{runtime.VERSION}"
NUM_PICTURES = 24
# Chequers of so many squares a side, and how strong they are at most; the last are of single pixels.
_CHEQUERS = ((2, 32), (4, 24), (8, 16), (16, 12), (32, 8), (0, 4))
_LEVELS = 255
_OPERATORS = ["Conv", "Add", "Clip"]
# Pixels less 128 as uint8 is pixels: the one input that is no float, so that nothing is rounded that might be halfway.
_CENTRED, _ZERO = "centred", 128.0
_AS_PIXELS = {"scale": np.array(1, np.float32), "zero_point": np.array(_ZERO, np.uint8)}


def quantize(graph: bytes, shown: Iterable[Pixels] | None = None) -> bytes:
    """The graph with the same inputs and outputs, which stay uint8 and float32; ranges are those over some inputs, by
    default the pictures that are drawn here. ValueError where it does not begin as graphs of ours do.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    for node in model.graph.node:
        node.name = node.output[0]
    _fold(model)
    (pixels,) = model.graph.input
    size = pixels.type.tensor_type.shape.dim[1].dim_value
    made = statically(
        model,
        ({pixels.name: one} for one in (pictures(size) if shown is None else shown)),
        _OPERATORS,
        nodes_to_exclude=[_CENTRED],
        extra_options={"TensorQuantOverrides": {_CENTRED: [_AS_PIXELS]}},
    )
    _take_pixels(made)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def statically(model: "ModelProto", shown: Iterator[Inputs], operators: list[str], **options: object) -> "ModelProto":
    """A graph, whose nodes have names, with integers in the operators of those kinds; ranges are those over what is
    shown, inputs by name. Options are those of ONNX Runtime's `quantize_static`.
    """
    # After `runtime`, which keeps ONNX Runtime from telling of its use.
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    add_pre_process_metadata(model)  # there is nothing to simplify first, and it says otherwise in every log
    with tempfile.TemporaryDirectory(prefix="handful-") as folder:
        written = Path(folder) / "graph.onnx"
        quantization.quantize_static(
            model,
            written,
            _reader(quantization, shown),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Weights of seven bits: products of eight overflow on processors without VNNI, which then answer otherwise.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=operators,
            **options,
        )
        made = onnx.load_model(written)
    del made.metadata_props[:]
    made.producer_name, made.producer_version = "handful", ""
    return made


def pictures(size: int) -> Iterator[Pixels]:
    """uint8[1, size, size, 3] each: chequers of many sizes over each other, in random colours. They are the same on
    every machine: bits of PCG64 and whole numbers alone.
    """
    for number in range(NUM_PICTURES):
        bits = np.random.PCG64(number)
        canvas = np.zeros((size, size, 3), np.int64)
        for squares, strength in _CHEQUERS:
            side = squares or size
            at = np.arange(size) * side // size
            colours = _below(bits, 1 + _LEVELS, side * side * 3).reshape(side, side, 3)
            canvas += _below(bits, 1 + strength, 1) * colours[at][:, at]
        lowest, highest = canvas.min(), canvas.max()
        yield ((canvas - lowest) * _LEVELS // max(highest - lowest, 1)).astype(np.uint8)[None]


def _below(bits: np.random.PCG64, limit: int, count: int) -> Any:
    """int64[count] in [0, limit)."""
    return (bits.random_raw(count) >> np.uint64(40)).astype(np.int64) % limit


def _reader(quantization: Any, shown: Iterator[Inputs]) -> Any:
    """The inputs as the library wants them."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Inputs | None:
            return next(shown, None)

    return Reader()


def _fold(model: "ModelProto") -> None:
    """Scaling and normalisation become part of the first convolution, which then takes pixels less 128."""
    from onnx import numpy_helper

    first = list(model.graph.node[:5])
    if [node.op_type for node in first] != ["Transpose", "Cast", "Mul", "Add", "Conv"]:
        raise ValueError("a graph begins otherwise than those that integers are made of")
    _, cast, scaled, shifted, convolution = first
    constants = {one.name: one for one in model.graph.initializer}
    names = (scaled.input[1], shifted.input[1], *convolution.input[1:])
    scale, offset, weight, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in names)
    folded = {
        names[1]: np.full((1, 1, 1, 1), -_ZERO),
        names[2]: weight * scale,
        names[3]: bias + (weight * (offset + _ZERO * scale)).sum(axis=(1, 2, 3)),
    }
    for name, array in folded.items():
        constants[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    model.graph.node.remove(scaled)
    model.graph.initializer.remove(constants[names[0]])
    shifted.input[0], shifted.output[0], shifted.name, convolution.input[0] = cast.output[0], *[_CENTRED] * 3


def _take_pixels(model: "ModelProto") -> None:
    """Pixels less 128, in steps of 1 from -128 on, are the pixels themselves: what made them so is left out."""
    made_by = {node.output[0]: node for node in model.graph.node}
    read_by = {node.input[0]: node for node in model.graph.node}
    quantized, cast = read_by[_CENTRED], made_by[made_by[_CENTRED].input[0]]
    read_by[quantized.output[0]].input[0] = cast.input[0]
    for node in (cast, made_by[_CENTRED], quantized):
        model.graph.node.remove(node)
