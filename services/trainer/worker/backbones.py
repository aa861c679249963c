"""Backbones as graphs: found in the store, or built from their network and stored with its weights.

The first stored graph of a backbone wins, so that all features of a backbone come from one graph. A graph is built in a
child process, whose memory goes with it: torch stays out of a worker that fits heads (`benchmarks/line.py`). The graph
of an EfficientNet-Lite is drawn from its arrays, without torch; of any other network, torch exports it.
"""

import threading
from typing import TYPE_CHECKING

import structlog

from handful.v1.bundle_pb2 import (
    BACKBONE_PRECISION_INT8,
    WEIGHTS_PRETRAINED,
    Backbone,
    BackboneMember,
    ImagePreprocessing,
    Recipe,
)
from services.shared.objects import ObjectStore, StoreUnavailable
from services.trainer import input_sizes, quantizing
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS, ArchitectureRow, backbone_id, weights_sha256
from services.trainer.worker import stored_backbones
from services.trainer.worker.agreement import GraphDisagrees
from services.trainer.worker.children import ChildLost, Children
from services.trainer.worker.parts import NoTorch, NoYolo, need_torch, need_yolo
from services.trainer.worker.pretrained import Place, PretrainedWeights, WeightsUnavailable, offered
from services.trainer.worker.pretrained.torch_files import Arrays

if TYPE_CHECKING:
    import torch

log = structlog.get_logger()


# Exporting takes half a minute of both cores, after a download at times; whoever asks meanwhile waits for it instead.
_building = threading.Lock()


def find(
    store: ObjectStore,
    weights: PretrainedWeights,
    recipe: Recipe,
    preprocessing: ImagePreprocessing,
    project: str,
    children: Children,
) -> tuple[Backbone, bytes]:
    """The backbone that a recipe names, with its graph: shared by all projects, or the project's where it is random."""
    with _building:
        if recipe.backbone_precision != BACKBONE_PRECISION_INT8:
            return _found(store, weights, recipe, preprocessing, project, children)
        backbone = _quantized(input_sizes.row(recipe), preprocessing)
        stored = stored_backbones.first(store, backbone)
        if stored is not None:
            return stored
        known, _ = _found(store, weights, recipe, preprocessing, project, children)
        return children.run(_quantize, store, known, backbone)


def _found(
    store: ObjectStore,
    weights: PretrainedWeights,
    recipe: Recipe,
    preprocessing: ImagePreprocessing,
    project: str,
    children: Children,
) -> tuple[Backbone, bytes]:
    """As `find`, in float32."""
    row = input_sizes.row(recipe)
    if recipe.weights == WEIGHTS_PRETRAINED:
        backbone = _describe(row, preprocessing, _offered(row), "pretrained")
        stored = stored_backbones.first(store, backbone) or _copied(store, row, backbone)
        if stored is not None:
            return stored
        if row.members:
            members = [
                _found(store, weights, _pretrained(one), one.preprocessing, project, children)[0] for one in row.members
            ]
            return children.run(_join, store, row, backbone, members)
    if row.network.library == ULTRALYTICS:
        return _build_apart(store, weights, recipe, preprocessing, project, children)
    return children.run(_build, store, weights, recipe, preprocessing, project)


def fetch(weights: PretrainedWeights, row: ArchitectureRow, children: Children) -> None:
    """Has the pretrained weights here when it returns; the memory of reading them stays in a child.
    WeightsUnavailable.
    """
    _offered(row)
    with _building:
        for one in row.networks:
            place = weights.places()[one.id]
            if place == Place.SOURCE:
                children.run(weights.fetch, one)
            elif place == Place.NOWHERE:
                weights.fetch(one)


def is_stored(store: ObjectStore, row: ArchitectureRow) -> bool:
    """Whether the backbone of the pretrained weights lies in the store: those who need no more than features need no
    weights then. WeightsUnavailable where none are offered.
    """
    return stored_backbones.described(store, _describe(row, row.preprocessing, _offered(row), "pretrained")) is not None


def _build(
    store: ObjectStore, weights: PretrainedWeights, recipe: Recipe, preprocessing: ImagePreprocessing, project: str
) -> tuple[Backbone, bytes]:
    from services.trainer.worker import efficientnet_lite

    row = input_sizes.row(recipe)
    if recipe.weights != WEIGHTS_PRETRAINED:
        return store_body(store, build_body(recipe, weights), row, preprocessing, project=project, origin="random")
    if row.network.name not in efficientnet_lite.BLOCKS:
        return store_body(store, build_body(recipe, weights), row, preprocessing, project=None, origin="pretrained")
    state = efficientnet_lite.state(row.network.name, weights.tensors(row))
    backbone = _describe(row, preprocessing, _offered(row), "pretrained")
    return stored_backbones.keep(store, "backbones", backbone, efficientnet_lite.graph(state, row), state)


def _join(
    store: ObjectStore, row: ArchitectureRow, backbone: Backbone, members: list[Backbone]
) -> tuple[Backbone, bytes]:
    """The backbone of networks side by side, made of theirs, which are stored; it is for a child."""
    from safetensors.numpy import load

    from services.trainer.worker import side_by_side

    graphs: list[bytes] = []
    state: Arrays = {}
    for one in members:
        graph, weights = stored_backbones.files(store, one)
        graphs.append(graph)
        state |= {f"{one.architecture}/{name}": array for name, array in load(weights).items()}
    return stored_backbones.keep(store, "backbones", backbone, side_by_side.draw(row, graphs), state)


def _build_apart(
    store: ObjectStore,
    weights: PretrainedWeights,
    recipe: Recipe,
    preprocessing: ImagePreprocessing,
    project: str,
    children: Children,
) -> tuple[Backbone, bytes]:
    """A backbone that Ultralytics builds, in its own process."""
    from services.trainer.worker.yolo import bodies

    row = input_sizes.row(recipe)
    need_yolo(row)
    pretrained = recipe.weights == WEIGHTS_PRETRAINED
    tensors = weights.tensors(row) if pretrained else None
    graph, state = bodies.export(children, row, tensors, recipe.seed)
    whose, origin = (None, "pretrained") if pretrained else (project, "random")
    return store_graph(store, graph, state, row, preprocessing, project=whose, origin=origin)


def prepare(store: ObjectStore, weights: PretrainedWeights, architecture: str, children: Children) -> None:
    """Has the default backbone ready before the first run asks for it; a run that finds it missing builds it itself."""
    row = ARCHITECTURES[architecture]
    try:
        find(store, weights, _pretrained(row), row.preprocessing, project="", children=children)
    except (WeightsUnavailable, NoTorch, NoYolo, GraphDisagrees, StoreUnavailable, ChildLost, MemoryError) as problem:
        log.warning("backbone not prepared", architecture=architecture, problem=str(problem))


def build_body(recipe: Recipe, weights: PretrainedWeights) -> "torch.nn.Module":
    """The network without its classifier, with the weights the recipe asks for. WeightsUnavailable, or
    NoTorch.
    """
    row = input_sizes.row(recipe)
    need_torch(f"A body of {row.id} with such weights")
    import torch

    from services.trainer.worker import architectures

    torch.manual_seed(recipe.seed)
    tensors = weights.tensors(row) if recipe.weights == WEIGHTS_PRETRAINED else None
    return architectures.build(row.network, tensors)


def store_body(
    store: ObjectStore,
    body: "torch.nn.Module",
    row: ArchitectureRow,
    preprocessing: ImagePreprocessing,
    project: str | None,
    origin: str,
) -> tuple[Backbone, bytes]:
    """The backbone of a network, its graph stored: shared, or below a project where the project trained it."""
    from services.trainer.worker import efficientnet_lite, graphs

    state = {name: tensor.detach().cpu().numpy() for name, tensor in body.state_dict().items()}
    drawn = row.network.name in efficientnet_lite.BLOCKS
    graph = efficientnet_lite.graph(state, row) if drawn else graphs.export(body, row)
    graphs.check(graph, body, row)
    return store_graph(store, graph, state, row, preprocessing, project=project, origin=origin)


def store_graph(
    store: ObjectStore,
    graph: bytes,
    state: Arrays,
    row: ArchitectureRow,
    preprocessing: ImagePreprocessing,
    *,
    project: str | None,
    origin: str,
) -> tuple[Backbone, bytes]:
    """The backbone of a graph that was checked, and of the state dict of its body, stored as `store_body` does."""
    from services.trainer.worker.weights import tensors_sha256

    weights = _offered(row) if origin == "pretrained" else tensors_sha256(state)
    folder = f"projects/{project}/backbones" if project else "backbones"
    return stored_backbones.keep(store, folder, _describe(row, preprocessing, weights, origin), graph, state)


def _copied(store: ObjectStore, row: ArchitectureRow, backbone: Backbone) -> tuple[Backbone, bytes] | None:
    """The graph that the same network has under its catalogue's preprocessing: preprocessing is not part of a graph."""
    catalogued = stored_backbones.first(store, _describe(row, row.preprocessing, _offered(row), "pretrained"))
    if catalogued is None:
        return None
    known, graph = catalogued
    weights = store.get(f"backbones/{known.backbone_id}/{known.weights_file_sha256}.safetensors")
    stored_backbones.put(store, f"backbones/{backbone.backbone_id}", graph, weights)
    return stored_backbones.first(store, backbone)


def _quantize(store: ObjectStore, known: Backbone, backbone: Backbone) -> tuple[Backbone, bytes]:
    """The backbone in integers, made of a stored one; it is for a child."""
    graph, state = stored_backbones.files(store, known)
    return stored_backbones.keep_files(store, "backbones", backbone, quantizing.quantize(graph), state)


def _pretrained(row: ArchitectureRow) -> Recipe:
    return Recipe(architecture=row.id, weights=WEIGHTS_PRETRAINED)


def _offered(row: ArchitectureRow) -> str:
    """The SHA-256 of the pretrained weights. WeightsUnavailable where none are offered."""
    return weights_sha256([offered(one) for one in row.networks])


def _describe(row: ArchitectureRow, preprocessing: ImagePreprocessing, sha256: str, origin: str) -> Backbone:
    return Backbone(
        backbone_id=backbone_id(row.id, preprocessing, sha256),
        architecture=row.id,
        weights_sha256=sha256,
        weights_origin=origin,
        preprocessing=preprocessing,
        feature_width=row.feature_width,
        members=[BackboneMember(architecture=one.id, weights_sha256=_offered(one)) for one in row.members],
    )


def _quantized(row: ArchitectureRow, preprocessing: ImagePreprocessing) -> Backbone:
    """The backbone of the pretrained weights whose graph computes in integers."""
    backbone = _describe(row, preprocessing, _offered(row), "pretrained")
    backbone.precision, backbone.quantizer = BACKBONE_PRECISION_INT8, quantizing.QUANTIZER
    backbone.backbone_id = backbone_id(row.id, preprocessing, backbone.weights_sha256, backbone.quantizer)
    return backbone
