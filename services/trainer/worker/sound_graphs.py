"""Graphs of the architectures for sounds, drawn from the bodies' own graphs, without torch: the windows of one piece
in; `features` float32[1, width] out, of every body the mean and the largest over its windows.
"""

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from handful.v1.bundle_pb2 import Backbone, Spectrogram
from services.shared.objects import ObjectStore
from services.trainer.architectures import backbone_id, weights_sha256
from services.trainer.sound_architectures import (
    PICTURE_BODY,
    PICTURES,
    SPEECH,
    SPEECH_EMBEDDING,
    SoundArchitectureRow,
    graph_input,
)
from services.trainer.worker import efficientnet_lite, stored_backbones
from services.trainer.worker.children import Children
from services.trainer.worker.efficientnet_lite import IR_VERSION, OPSET
from services.trainer.worker.embedding import embed
from services.trainer.worker.pretrained import PINNED, PretrainedWeights
from services.trainer.worker.pretrained.torch_files import Arrays

# Side by side, each body's features have the length 1 times this. Around their mean the speech embedding's vary a half
# to a third as much as the pictures', as a share of their length (benchmarks/sound.py prints what each is worth).
SHARES = {SPEECH: 3.0, PICTURES: 1.0}


def find(
    store: ObjectStore, weights: PretrainedWeights, row: SoundArchitectureRow, children: Children
) -> tuple[Backbone, bytes]:
    """The backbone of an architecture, with its graph: as it is stored, or built and stored. WeightsUnavailable."""
    backbone = describe(row)
    stored = stored_backbones.first(store, backbone)
    return stored if stored is not None else children.run(_build, store, weights, row, backbone)


def describe(row: SoundArchitectureRow) -> Backbone:
    """The backbone, without its graph."""
    digest = weights_sha256(tuple(row.weights.values()))
    return Backbone(
        backbone_id=backbone_id(row.id, row.preprocessing, digest),
        architecture=row.id,
        weights_sha256=digest,
        weights_origin="pretrained" if row.weights else "none",
        sound_preprocessing=row.preprocessing,
        feature_width=row.feature_width,
    )


def _build(
    store: ObjectStore, weights: PretrainedWeights, row: SoundArchitectureRow, backbone: Backbone
) -> tuple[Backbone, bytes]:
    graph, constants = draw(row, weights)
    return stored_backbones.keep(store, "backbones", backbone, graph, constants)


def draw(row: SoundArchitectureRow, weights: PretrainedWeights) -> tuple[bytes, Arrays]:
    """The graph, and its constants by name."""
    graph = onnx.GraphProto(name=row.id)
    blocks = [_block(graph, one, weights) for one in row.spectrograms]
    if len(blocks) > 1:
        blocks = [_scaled(graph, block, SHARES[one.name]) for block, one in zip(blocks, row.spectrograms, strict=True)]
        graph.node.append(helper.make_node("Concat", blocks, ["features"], axis=1))
    else:
        graph.node.append(helper.make_node("Identity", blocks, ["features"]))
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, row.feature_width]))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="handful")
    checker.check_model(model, full_check=True)
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    return model.SerializeToString(deterministic=True), constants


def _block(graph: onnx.GraphProto, spectrogram: Spectrogram, weights: PretrainedWeights) -> str:
    """Draws what becomes of an input: the name of float32[1, width]."""
    kind, shape = graph_input(spectrogram)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph.input.append(helper.make_tensor_value_info(spectrogram.name, number, [one or "n" for one in shape]))
    if spectrogram.layout == Spectrogram.LAYOUT_STATISTICS:
        return spectrogram.name
    if spectrogram.layout == Spectrogram.LAYOUT_WINDOWS:
        body = onnx.load_model_from_string(weights.graph(PINNED[SPEECH_EMBEDDING]))
    else:
        state = efficientnet_lite.state(PICTURE_BODY.network.name, weights.tensors(PICTURE_BODY))
        body = onnx.load_model_from_string(efficientnet_lite.graph(state, PICTURE_BODY))
    made = embed(graph, body, spectrogram.name, spectrogram.name)
    return _pooled(graph, next(made[name] for name in made if name != "feature_map"), spectrogram.name)


def _pooled(graph: onnx.GraphProto, output: str, name: str) -> str:
    """Mean and largest over the windows, of whatever shape a body gives of each."""
    flat, axis = f"{name}/flat", f"{name}/axis"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), axis))
    graph.node.append(helper.make_node("Flatten", [output], [flat], axis=1))
    graph.node.append(helper.make_node("ReduceMean", [flat, axis], [f"{name}/mean"], keepdims=1))
    graph.node.append(helper.make_node("ReduceMax", [flat, axis], [f"{name}/largest"], keepdims=1))
    graph.node.append(helper.make_node("Concat", [f"{name}/mean", f"{name}/largest"], [f"{name}/pooled"], axis=1))
    return f"{name}/pooled"


def _scaled(graph: onnx.GraphProto, block: str, length: float) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(length, np.float32), f"{block}/length"))
    graph.node.append(helper.make_node("LpNormalization", [block], [f"{block}/unit"], axis=1, p=2))
    graph.node.append(helper.make_node("Mul", [f"{block}/unit", f"{block}/length"], [f"{block}/scaled"]))
    return f"{block}/scaled"
