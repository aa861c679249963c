"""Networks side by side as one graph, drawn from the members' own graphs, without torch: one picture in; `features` are
theirs, each member's scaled to the length 1, one after the other.

A picture comes at the side of the member that takes the largest; the others get it through a resize in the graph, so
that whoever runs the graph does the same. It knows neither stores nor weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from handful.bundle.heads import Floats
from services.trainer.architectures import ArchitectureRow
from services.trainer.worker.efficientnet_lite import IR_VERSION, OPSET
from services.trainer.worker.embedding import embed

# What a length is taken for that is less: of a picture that a member finds nothing in.
_SHORTEST = 1e-12


def draw(row: ArchitectureRow, bodies: Sequence[bytes]) -> bytes:
    """The graph of a row, of its members' graphs in their order."""
    drawn = _Drawing(row)
    models = [onnx.load_model_from_string(one) for one in bodies]
    sides = [model.graph.output[1].type.tensor_type.shape.dim[2].dim_value for model in models]
    blocks = [
        drawn.block(member, model, side, max(sides))
        for member, model, side in zip(row.members, models, sides, strict=True)
    ]
    for output, parts in zip(("features", "feature_map"), zip(*blocks, strict=True), strict=True):
        drawn.graph.node.append(helper.make_node("Concat", parts, [output], axis=1))
    return drawn.model(max(sides))


class _Drawing:
    """The graph of a row as it is drawn."""

    def __init__(self, row: ArchitectureRow) -> None:
        self._row = row
        self.graph = onnx.GraphProto(name=row.id)
        self._constant("channels", np.array([1], np.int64))
        self._constant("places", np.array([2, 3], np.int64))
        self._constant("shortest", np.array(_SHORTEST, np.float32))

    def block(self, member: ArchitectureRow, body: onnx.ModelProto, side: int, finest: int) -> tuple[str, str]:
        """What a member gives of the picture, features and their map, both divided by the features' length: the map's
        mean over its places is the features still. A map that is coarser than the finest is drawn as that.
        """
        name = member.id
        made = embed(self.graph, body, name, self._picture(member))
        length = self._add("ReduceL2", f"{name}/norm", made["features"], "channels", keepdims=1)
        length = self._add("Max", f"{name}/length", length, "shortest")
        features = self._add("Div", f"{name}/unit", made["features"], length)
        length = self._add("Unsqueeze", f"{name}/length_of_map", length, "places")
        feature_map = self._add("Div", f"{name}/unit_map", made["feature_map"], length)
        if side < finest:
            share = spread(side, finest)
            rows, columns = self._constant(f"{name}/rows", share), self._constant(f"{name}/columns", share.T)
            feature_map = self._add("MatMul", f"{name}/finer_rows", rows, feature_map)
            feature_map = self._add("MatMul", f"{name}/finer_map", feature_map, columns)
        return features, feature_map

    def _picture(self, member: ArchitectureRow) -> str:
        """The picture as a member takes it."""
        name, side, of = member.id, member.preprocessing.size, self._row.preprocessing.size
        if side == of:
            return "pixels"
        # Just above side / of: runtimes round down. With the side itself ONNX Runtime 1.32 loads no graph in integers.
        scale = np.nextafter(np.float32(side / of), np.float32(1))
        scales = self._constant(f"{name}/scales", np.array([1, scale, scale, 1], np.float32))
        floats = self._add("Cast", f"{name}/floats", "pixels", to=TensorProto.FLOAT)
        return self._add("Resize", f"{name}/pixels", floats, "", scales, mode="linear")

    def _constant(self, name: str, value: object) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def _add(self, kind: str, output: str, *inputs: str, **how: Any) -> str:
        self.graph.node.append(helper.make_node(kind, inputs, [output], **how))
        return output

    def model(self, rows: int) -> bytes:
        side, width = self._row.preprocessing.size, self._row.feature_width
        self.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, 3]))
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])
        feature_map = helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, ["n", width, rows, rows])
        self.graph.output.extend([features, feature_map])
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(self.graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="handful")
        checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def spread(side: int, finer: int) -> Floats:
    """float32[finer, side], which draws a line of so many places as one of more: each takes its share of those that it
    covers, and the mean stays what it was.
    """
    edges, finer_edges = np.arange(side + 1) / side, np.arange(finer + 1) / finer
    first = np.maximum(finer_edges[:-1, None], edges[None, :-1])
    last = np.minimum(finer_edges[1:, None], edges[None, 1:])
    share: Floats = (np.maximum(last - first, 0) * finer).astype(np.float32)
    return share
