"""A merged graph in 8-bit integers, but for its head. Ranges are taken over the golden inputs, of pictures in several
views each: nothing else of the data lies in a bundle. It does not know how much that changes.
"""

from collections.abc import Iterator

import numpy as np
import onnx

from handful.bundle import golden
from handful.bundle.sounds import Inputs
from services.trainer import quantizing
from services.trainer.exports.bundle import Bundle

# What most of a network's time goes into; the head has none of them.
_OPERATORS = ["Conv", "Add", "Clip", "Relu", "MatMul"]


def to_integers(bundle: Bundle, graph: bytes) -> bytes:
    """The graph with the same inputs and outputs, about a quarter as large; what comes before its first convolution is
    left alone. Raises what the library raises.
    """
    model = onnx.load_model_from_string(graph)
    for node in model.graph.node:
        node.name = node.output[0]
    first = next((place for place, node in enumerate(model.graph.node) if node.op_type == "Conv"), 0)
    before = [node.name for node in model.graph.node[:first]]
    inputs = golden.Golden.from_bytes(bundle.files[golden.FILE], bundle.model.backbone).inputs
    shown = iter(inputs) if bundle.of_sounds else (view for one in inputs for view in views(one))
    made = quantizing.statically(model, shown, _OPERATORS, nodes_to_exclude=before)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def views(picture: Inputs) -> Iterator[Inputs]:
    """The picture, uint8[1, side, side, 3], mirrored, darker, brighter, with more contrast, upside down, and its middle
    twice as large; all as large as it is.
    """
    (pixels,) = picture.values()
    levels = pixels.astype(np.float32)
    side = pixels.shape[1]
    at = side // 4 + np.arange(side) // 2
    middle = levels[:, at][:, :, at]
    seen = (levels, levels[:, :, ::-1], levels * 0.6, levels * 1.4, levels * 1.5 - 64, levels[:, ::-1], middle)
    for view in seen:
        yield dict.fromkeys(picture, np.ascontiguousarray(view.clip(0, 255).astype(np.uint8)))
