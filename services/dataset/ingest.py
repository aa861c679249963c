"""From bytes that anyone may have sent to the bytes we keep, in limited processes; what they do is in `decoding`.

A decoding process has an address-space limit and a time limit, is replaced after some files, and takes no server down
when it dies. What decoders need is imported there alone. It knows nothing of datasets.
"""

import asyncio
import multiprocessing
import resource
from concurrent.futures import TimeoutError as DecodingTimeout

import structlog
from pebble import ProcessExpired, ProcessPool

from handful.bundle.images import BadImage
from handful.v1.bundle_pb2 import MODALITY_IMAGE, Modality
from services.dataset.records import Stored
from services.shared.settings import hand_down

log = structlog.get_logger()

MEMORY_BYTES = 1024**3
WALL_SECONDS = 15
FILES_PER_PROCESS = 200
_BROKEN = "The file could not be decoded within the limits of memory and time."


class Decoders:
    """A pool of decoding processes."""

    def __init__(self, processes: int) -> None:
        # Read when numpy is imported, which a process does before it is limited: each thread would take address space
        # out of the limit, on many cores all of it.
        hand_down(OPENBLAS_NUM_THREADS="1")
        self._pool = ProcessPool(
            max_workers=processes,
            max_tasks=FILES_PER_PROCESS,
            initializer=_prepare,
            context=multiprocessing.get_context("spawn"),
        )

    async def normalize(self, data: bytes, modality: "Modality.ValueType" = MODALITY_IMAGE) -> list[Stored]:
        """What is to be kept of a file: a picture, or the pieces of a recording. BadImage, of a sound too, where the
        bytes are none that we take.
        """
        future = self._pool.schedule(_normalize, args=(data, modality), timeout=WALL_SECONDS)
        try:
            kept: list[Stored] = await asyncio.wrap_future(future)
        except (ProcessExpired, DecodingTimeout, MemoryError) as problem:
            log.warning("decoding process lost", problem=type(problem).__name__, num_bytes=len(data))
            raise BadImage("CORRUPT_MEDIA", _BROKEN) from problem
        return kept

    async def thumbnail(self, data: bytes, side: int) -> bytes:
        """A JPEG of a stored picture, no longer than that on its longer side. BadImage where it takes too much."""
        future = self._pool.schedule(_thumbnail, args=(data, side), timeout=WALL_SECONDS)
        try:
            small: bytes = await asyncio.wrap_future(future)
        except (ProcessExpired, DecodingTimeout, MemoryError) as problem:
            log.warning("decoding process lost", problem=type(problem).__name__, num_bytes=len(data))
            raise BadImage("CORRUPT_MEDIA", _BROKEN) from problem
        return small

    def close(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def _prepare() -> None:
    from services.dataset import decoding  # noqa: F401 - numpy and others, before there are limits

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _normalize(data: bytes, modality: "Modality.ValueType") -> list[Stored]:
    from services.dataset import decoding

    return decoding.normalize(data, modality)


def _thumbnail(data: bytes, side: int) -> bytes:
    from services.dataset import decoding

    return decoding.thumbnail(data, side)
