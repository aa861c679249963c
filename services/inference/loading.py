"""From the object store into memory: a model's manifest and head, and its backbone, which all models share that name
the same graph. Everything is hash-checked on the way, and no model is given out whose answers to its golden inputs are
others than where it was made.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from handful.bundle import error_control, golden, neighbours
from handful.bundle.golden import MAX_DIFFERENCE, MAX_LEVELS, Golden
from handful.bundle.heads import LinearHead
from handful.bundle.manifest import bundle_key, from_bytes, graph_keys
from handful.bundle.neighbours import Neighbours
from handful.errors import DataLoss, FailedPrecondition
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.bundle_pb2 import ErrorControl, ModelManifest
from services.inference.backbones import Backbones, Graph, LoadedBackbone, cannot_run
from services.inference.pointers import VersionRef
from services.inference.pool import Pool, Sized
from services.inference.runtimes import Body
from services.inference.runtimes.choosing import Chooser
from services.shared.objects import ObjectStore, StoreUnavailable

log = structlog.get_logger()

Part = TypeVar("Part", bound=Message)


@dataclass(frozen=True)
class LoadedHead:
    """A model without its body."""

    labels: tuple[str, ...]
    head: LinearHead
    neighbours: Neighbours | None
    # How pictures or sounds come to its backbone.
    described: BackboneMessage
    graph: Graph
    # None of models that can promise nothing.
    error_control: ErrorControl | None = None

    @property
    def of_sounds(self) -> bool:
        return self.described.HasField("sound_preprocessing")

    @property
    def private(self) -> bool:
        """Heads are small; all models' share one budget."""
        return False

    @property
    def num_bytes(self) -> int:
        beside = 0 if self.error_control is None else self.error_control.ByteSize()
        return self.head.num_bytes + beside + (0 if self.neighbours is None else self.neighbours.num_bytes)


@dataclass(frozen=True)
class Model:
    """Everything that answering takes."""

    head: LoadedHead
    backbone: LoadedBackbone
    # The name of its version.
    version: str = ""

    @property
    def project(self) -> str:
        """The id of the project that it belongs to."""
        return self.version.removeprefix("projects/").partition("/")[0]


class Loader:
    """Models on demand, within a budget of bytes; private backbones have one of their own, by default as large."""

    def __init__(
        self,
        store: ObjectStore,
        budget_bytes: int,
        private_bytes: int | None = None,
        chooser: Chooser | None = None,
        num_callers: int = 1,
    ) -> None:
        self._store = store
        private_bytes = budget_bytes if private_bytes is None else private_bytes
        self._pool = Pool(budget_bytes, private_bytes, passing=(StoreUnavailable, MemoryError))
        self._backbones = Backbones(store, self._pool, chooser, num_callers)
        # Manifests of models that were tried once, so that what was dropped is not tried again.
        self._agreed: set[str] = set()
        # Graphs that all golden inputs of some model were tried on: here they compute as where they were made.
        self._tried: set[str] = set()

    async def load(self, ref: VersionRef) -> Model:
        """The model of a version."""
        head = await self._pool.get(f"{ref.project}/{ref.manifest_sha256}", partial(self._head, ref))
        return Model(head, await self._backbones.get(head.graph), ref.name)

    def loaded(self) -> dict[str, list[Sized]]:
        """What is in memory, by kind."""
        backbones = self.backbones()
        return {
            "model": [one for one in self._pool.values() if isinstance(one, LoadedHead)],
            "shared_network": [one for one in backbones if not one.private],
            "private_network": [one for one in backbones if one.private],
        }

    def backbones(self) -> list[LoadedBackbone]:
        """Those in memory, the least recently used first."""
        return [one for one in self._pool.values() if isinstance(one, LoadedBackbone)]

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
            control = _alone(manifest.error_control) if manifest.HasField("error_control") else None
            if control is not None:
                error_control.check(control)
        except ValueError as problem:
            raise DataLoss(f"The head of {ref.name} cannot be read.") from problem
        loaded = LoadedHead(
            labels=tuple(manifest.labels),
            head=head,
            neighbours=near,
            described=_alone(manifest.backbone),
            graph=Graph(
                graph_keys(ref.project, manifest.backbone, ref.manifest_sha256), manifest.backbone.graph_sha256
            ),
            error_control=control,
        )
        if ref.manifest_sha256 not in self._agreed:
            await self._try(ref, loaded, _listed(ref, manifest, golden.FILE))
        log.info("model loaded", model_version=ref.name)
        return loaded

    async def _file(self, ref: VersionRef, manifest: ModelManifest, path: str) -> bytes:
        return await self._read(*_listed(ref, manifest, path))

    async def _try(self, ref: VersionRef, head: LoadedHead, stored: tuple[str, str]) -> None:
        """FailedPrecondition where the model answers its golden inputs otherwise than the answers beside them. Of a
        graph that was tried already the first tells whether the head fits; they are most of what loading costs.
        """
        backbone = await self._backbones.get(head.graph)
        try:
            known = await asyncio.to_thread(self._golden, head, *stored)
        except ValueError as problem:
            raise cannot_run() from problem
        is_first = head.graph.sha256 not in self._tried
        enough = known if is_first else known.first()
        await asyncio.to_thread(_check, ref, head, enough, backbone.backbone)
        log.info("golden inputs agree", model_version=ref.name, computed=len(enough.inputs), of=len(known.inputs))
        self._agreed.add(ref.manifest_sha256)
        self._tried.add(head.graph.sha256)
        # Many models may wait for the measuring, which takes a while: none of them holds its golden inputs meanwhile.
        self._backbones.measure(head.graph, known.inputs, partial(self._try_again, ref, head, stored, is_first))

    def _try_again(self, ref: VersionRef, head: LoadedHead, stored: tuple[str, str], whole: bool, body: Body) -> None:  # noqa: FBT001
        known = self._golden(head, *stored)
        _check(ref, head, known if whole else known.first(), body)

    def _golden(self, head: LoadedHead, key: str, sha256: str) -> Golden:
        return Golden.from_bytes(self._store.get(key, sha256), head.described)

    async def _read(self, key: str, sha256: str) -> bytes:
        return await asyncio.to_thread(self._store.get, key, sha256)


def _listed(ref: VersionRef, manifest: ModelManifest, path: str) -> tuple[str, str]:
    """A file's key and SHA-256."""
    file = next((file for file in manifest.files if file.path == path), None)
    if file is None:
        raise FailedPrecondition(f"The bundle of {ref.name} has no {path}.", reason="BUNDLE_INCOMPLETE")
    return bundle_key(ref.project, ref.manifest_sha256, path), file.sha256


def _alone(part: Part) -> Part:
    """A copy; a part of the manifest would hold all of that in memory."""
    return type(part).FromString(part.SerializeToString())


def _check(ref: VersionRef, head: LoadedHead, known: Golden, body: Body) -> None:
    try:
        difference = known.difference(lambda one: head.head.probabilities(body.of(one)))
    except MemoryError:
        raise
    except Exception as problem:
        raise cannot_run() from problem  # whatever numpy and the runtime make of what does not fit together
    if known.levels > MAX_LEVELS or not difference <= MAX_DIFFERENCE:
        log.error("a model disagrees", model_version=ref.name, difference=difference, levels=known.levels)
        message = f"{ref.name} answers otherwise here than where it was made, and is not served."
        raise FailedPrecondition(message, reason="MODEL_DISAGREES")
