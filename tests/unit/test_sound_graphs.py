"""Graphs of the architectures for sounds: the one that is stored first wins, and has to agree with one's own."""

from collections.abc import Callable

import onnx
import pytest

from handful.bundle.manifest import sha256
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.imports import graphs
from services.trainer.sound_architectures import SOUND_ARCHITECTURES, SoundArchitectureRow
from services.trainer.worker import sound_graphs, stored_backbones
from services.trainer.worker.agreement import GraphDisagrees
from services.trainer.worker.pretrained import PretrainedWeights
from tests.unit.test_import_graphs import refusal

# It has no weights.
ROW = SOUND_ARCHITECTURES["log_mel_statistics"]
Change = Callable[[onnx.ModelProto], object]


def stored_by_another(store: FilesystemStore, change: Change) -> bytes:
    """The graph of a worker that was faster, and whose release draws it otherwise."""
    graph, constants = sound_graphs.draw(ROW, PretrainedWeights(store))
    model = onnx.load_model_from_string(graph)
    change(model)
    other = model.SerializeToString()
    stored_backbones.keep(store, "backbones", sound_graphs.describe(ROW), other, constants)
    return other


def build(store: FilesystemStore) -> str:
    """What a worker takes that found no graph and has drawn one when another's is there: the graph's SHA-256."""
    weights, backbone = PretrainedWeights(store), sound_graphs.describe(ROW)
    return sound_graphs._build(store, weights, ROW, backbone)[0].graph_sha256


def test_the_first_stored_graph_wins(store: FilesystemStore) -> None:
    """One that computes the same is taken, so that all features of a backbone come from one graph."""
    other = stored_by_another(store, lambda model: setattr(model, "producer_name", "another"))
    assert build(store) == sha256(other)


def test_a_first_graph_that_computes_something_else_is_noticed(store: FilesystemStore) -> None:
    """No features are computed with it."""
    stored_by_another(store, lambda model: setattr(model.graph.node[-1], "op_type", "Neg"))
    with pytest.raises(GraphDisagrees, match=ROW.id):
        build(store)


def input_dim(place: int, value: int) -> Change:
    return lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[place], "dim_value", value)


def input_type(number: int) -> Change:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", number)


CHANGES: dict[str, Change] = {
    "an input of pictures": input_type(onnx.TensorProto.UINT8),
    "an input of doubles": input_type(onnx.TensorProto.DOUBLE),
    "one sound after another": input_dim(0, 2),
    "more bands": input_dim(1, 516),
    "one more dimension": lambda model: model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1),
    "no shape": lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
    "another width": lambda model: setattr(model.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7),
    "another name": lambda model: setattr(model.graph.input[0], "name", "sound"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_imported_graphs_with_other_ends_are_refused(store: FilesystemStore, change: str) -> None:
    """Numbers and shapes of every input and of the features have to be those of the architecture."""
    model = onnx.load_model_from_string(sound_graphs.draw(ROW, PretrainedWeights(store))[0])
    CHANGES[change](model)
    backbone = sound_graphs.describe(ROW)
    assert refusal(lambda: graphs.check(model.SerializeToString(), backbone)) == "UNSUPPORTED_MODEL"


@pytest.mark.parametrize("row", SOUND_ARCHITECTURES.values(), ids=lambda row: row.id)
def test_the_graphs_of_this_release_are_taken(store: FilesystemStore, row: SoundArchitectureRow) -> None:
    """What is drawn here may be imported."""
    graph, _ = sound_graphs.draw(row, PretrainedWeights(store))
    graphs.check(graph, sound_graphs.describe(row))
