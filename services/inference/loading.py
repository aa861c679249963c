"""From the object store into memory: a model's manifest and head, and its backbone, which all models share that name
the same graph. Everything is hash-checked on the way, and no model is given out whose answers to its golden inputs are
others than where it was made.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from handful.bundle import golden, neighbours
from handful.bundle.golden import MAX_DIFFERENCE, MAX_LEVELS, Golden
from handful.bundle.heads import LinearHead
from handful.bundle.manifest import bundle_key, from_bytes, graph_keys
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import Backbone
from handful.errors import DataLoss, FailedPrecondition
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.bundle_pb2 import ModelManifest
from services.inference.pointers import VersionRef
from services.inference.pool import Pool
from services.shared.objects import ObjectStore, get_first

log = structlog.get_logger()

# An estimate: a loaded graph takes some times the memory of its file, for prepared weights and work space.
GRAPH_IN_MEMORY = 4


@dataclass(frozen=True)
class LoadedHead:
    """A model without its body."""

    labels: tuple[str, ...]
    head: LinearHead
    neighbours: Neighbours | None
    # How pictures or sounds come to its backbone.
    described: BackboneMessage
    graph_keys: tuple[str, ...]
    graph_sha256: str

    @property
    def of_sounds(self) -> bool:
        return self.described.HasField("sound_preprocessing")

    @property
    def num_bytes(self) -> int:
        return self.head.num_bytes + (0 if self.neighbours is None else self.neighbours.num_bytes)


@dataclass(frozen=True)
class LoadedBackbone:
    """A graph that is ready to run."""

    backbone: Backbone
    num_bytes: int


@dataclass(frozen=True)
class Model:
    """Everything that answering takes."""

    head: LoadedHead
    backbone: LoadedBackbone


class Loader:
    """Models on demand, within a budget of bytes."""

    def __init__(self, store: ObjectStore, budget_bytes: int) -> None:
        self._store = store
        self._pool = Pool(budget_bytes)
        # Manifests of models that were tried once, so that what was dropped is not tried again.
        self._agreed: set[str] = set()

    async def load(self, ref: VersionRef) -> Model:
        """The model of a version."""
        head = await self._pool.get(f"{ref.project}/{ref.manifest_sha256}", partial(self._head, ref))
        return Model(head, await self._backbone(head))

    async def _head(self, ref: VersionRef) -> LoadedHead:
        data = await self._read(bundle_key(ref.project, ref.manifest_sha256, "manifest.json"), ref.manifest_sha256)
        try:
            manifest = from_bytes(ModelManifest, data)
        except ValueError as problem:
            raise FailedPrecondition(
                f"The bundle of {ref.name} is of a kind that this server does not know.", reason="BUNDLE_UNKNOWN"
            ) from problem
        stored = await self._file(ref, manifest, "head.safetensors")
        known = await self._file(ref, manifest, neighbours.FILE) if manifest.HasField("neighbours") else None
        try:
            head = LinearHead.from_bytes(manifest.head, stored)
            near = None if known is None else Neighbours.from_bytes(manifest.neighbours, known)
        except ValueError as problem:
            raise DataLoss(f"The head of {ref.name} cannot be read.") from problem
        loaded = LoadedHead(
            labels=tuple(manifest.labels),
            head=head,
            neighbours=near,
            described=manifest.backbone,
            graph_keys=graph_keys(ref.project, manifest.backbone, ref.manifest_sha256),
            graph_sha256=manifest.backbone.graph_sha256,
        )
        if ref.manifest_sha256 not in self._agreed:
            model = Model(loaded, await self._backbone(loaded))
            await asyncio.to_thread(_try, ref, model, await self._file(ref, manifest, golden.FILE))
            self._agreed.add(ref.manifest_sha256)
        log.info("model loaded", model_version=ref.name)
        return loaded

    async def _file(self, ref: VersionRef, manifest: ModelManifest, path: str) -> bytes:
        file = next((file for file in manifest.files if file.path == path), None)
        if file is None:
            raise FailedPrecondition(f"The bundle of {ref.name} has no {path}.", reason="BUNDLE_INCOMPLETE")
        return await self._read(bundle_key(ref.project, ref.manifest_sha256, path), file.sha256)

    async def _backbone(self, head: LoadedHead) -> LoadedBackbone:
        return await self._pool.get(head.graph_sha256, partial(self._graph, head))

    async def _graph(self, head: LoadedHead) -> LoadedBackbone:
        graph = await asyncio.to_thread(get_first, self._store, head.graph_keys, head.graph_sha256)
        try:
            backbone = await asyncio.to_thread(Backbone, graph)
        except Exception as problem:
            raise _cannot_run() from problem  # the runtime has many
        log.info("backbone loaded", graph_sha256=head.graph_sha256, num_bytes=len(graph))
        return LoadedBackbone(backbone, GRAPH_IN_MEMORY * len(graph))

    async def _read(self, key: str, sha256: str) -> bytes:
        return await asyncio.to_thread(self._store.get, key, sha256)


def _try(ref: VersionRef, model: Model, stored: bytes) -> None:
    """FailedPrecondition where the model's answers to its golden inputs are others than those that lie beside them."""
    try:
        known = Golden.from_bytes(stored, model.head.described)
        difference = known.difference(lambda one: model.head.head.probabilities(model.backbone.backbone.of(one)))
    except Exception as problem:
        raise _cannot_run() from problem  # whatever numpy and the runtime make of what does not fit together
    if known.levels > MAX_LEVELS or not difference <= MAX_DIFFERENCE:
        log.error("a model disagrees", model_version=ref.name, difference=difference, levels=known.levels)
        message = f"{ref.name} answers otherwise here than where it was made, and is not served."
        raise FailedPrecondition(message, reason="MODEL_DISAGREES")


def _cannot_run() -> FailedPrecondition:
    message = "The model cannot be run here: it needs more memory than there is, another runtime, or is broken."
    return FailedPrecondition(message, reason="CANNOT_RUN")
