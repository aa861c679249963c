"""From bytes that anyone may have sent to the bytes we keep: decoded in a limited process, encoded again from pixels.

A decoding process has an address-space limit and a time limit, is replaced after some files, and takes no server down
when it dies. It knows nothing of datasets.
"""

import asyncio
import hashlib
import io
import multiprocessing
import resource
from concurrent.futures import TimeoutError as DecodingTimeout
from dataclasses import dataclass

import structlog
from pebble import ProcessExpired, ProcessPool

from handful.bundle.images import BadImage, decode

log = structlog.get_logger()

MEMORY_BYTES = 1024**3
WALL_SECONDS = 15
FILES_PER_PROCESS = 200
JPEG_QUALITY = 95
THUMBNAIL_QUALITY = 85
_BROKEN = "The file could not be decoded within the limits of memory and time."


@dataclass(frozen=True)
class StoredPicture:
    """A picture as it is kept: upright, RGB, without metadata."""

    data: bytes
    sha256: str
    media_type: str
    width: int
    height: int


class Decoders:
    """A pool of decoding processes."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPool(
            max_workers=processes,
            max_tasks=FILES_PER_PROCESS,
            initializer=_limit,
            context=multiprocessing.get_context("spawn"),
        )

    async def normalize(self, data: bytes) -> StoredPicture:
        """The picture as it is to be kept. BadImage where the bytes are none that we take."""
        future = self._pool.schedule(_normalize, args=(data,), timeout=WALL_SECONDS)
        try:
            picture: StoredPicture = await asyncio.wrap_future(future)
        except (ProcessExpired, DecodingTimeout, MemoryError) as problem:
            log.warning("decoding process lost", problem=type(problem).__name__, num_bytes=len(data))
            raise BadImage("CORRUPT_MEDIA", _BROKEN) from problem
        return picture

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


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _normalize(data: bytes) -> StoredPicture:
    image = decode(data)
    lossless = _lossless(data)
    buffer = io.BytesIO()
    image.info.clear()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    stored = buffer.getvalue()
    return StoredPicture(
        data=stored,
        sha256=hashlib.sha256(stored).hexdigest(),
        media_type="image/png" if lossless else "image/jpeg",
        width=image.width,
        height=image.height,
    )


def _thumbnail(data: bytes, side: int) -> bytes:
    image = decode(data, side)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def _lossless(data: bytes) -> bool:
    # PNG, and WebP whose first picture is in a VP8L chunk; metadata, alpha and frame headers may come before it.
    position = 12
    while data[8:12] == b"WEBP" and position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind in {b"VP8 ", b"VP8L"}:
            return kind == b"VP8L"
        position += 24 if kind == b"ANMF" else 8 + size + size % 2
    return data.startswith(b"\x89PNG")
