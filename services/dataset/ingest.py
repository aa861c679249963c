"""From bytes that anyone may have sent to the bytes we keep: decoded in a limited process, encoded again from pixels or
samples.

A decoding process has an address-space limit and a time limit, is replaced after some files, and takes no server down
when it dies. It knows nothing of datasets.
"""

import asyncio
import hashlib
import io
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as DecodingTimeout
from dataclasses import dataclass

import numpy as np
import soundfile
import structlog
from pebble import ProcessExpired, ProcessPool

from handful.bundle import images, recordings
from handful.bundle.images import BadImage
from handful.bundle.recordings import BadSound
from handful.bundle.sounds import pieces, resample
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Modality
from services.shared.settings import hand_down

log = structlog.get_logger()

MEMORY_BYTES = 1024**3
WALL_SECONDS = 15
FILES_PER_PROCESS = 200
JPEG_QUALITY = 95
THUMBNAIL_QUALITY = 85
# Longer recordings are cut; nothing that is taken needs a higher rate.
PIECE_SECONDS = 6.0
MAX_KEPT_RATE = 48_000
_BROKEN = "The file could not be decoded within the limits of memory and time."


@dataclass(frozen=True)
class Stored:
    """A file as it is kept, without metadata: a picture upright and RGB, a sound, or a piece of one, in one channel."""

    data: bytes
    sha256: str
    media_type: str
    width: int = 0
    height: int = 0
    sample_rate: int = 0
    duration_us: int = 0


class Decoders:
    """A pool of decoding processes."""

    def __init__(self, processes: int) -> None:
        # Read when numpy is imported, which a process does before it is limited: each thread would take address space
        # out of the limit, on many cores all of it.
        hand_down(OPENBLAS_NUM_THREADS="1")
        self._pool = ProcessPool(
            max_workers=processes,
            max_tasks=FILES_PER_PROCESS,
            initializer=_limit,
            context=multiprocessing.get_context("spawn"),
        )

    async def normalize(self, data: bytes, modality: "Modality.ValueType" = MODALITY_IMAGE) -> list[Stored]:
        """What is to be kept of a file: a picture, or the pieces of a recording. BadImage or BadSound where the bytes
        are none that we take.
        """
        future = self._pool.schedule(_NORMALIZERS[modality], args=(data,), timeout=WALL_SECONDS)
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


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _picture(data: bytes) -> list[Stored]:
    if recordings.looks_like_sound(data):
        raise BadImage("UNSUPPORTED_FORMAT", "The file is a sound, and the dataset holds pictures.")
    image = images.decode(data)
    lossless = _lossless(data)
    buffer = io.BytesIO()
    image.info.clear()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    stored = buffer.getvalue()
    digest, kind = hashlib.sha256(stored).hexdigest(), "image/png" if lossless else "image/jpeg"
    return [Stored(stored, digest, kind, width=image.width, height=image.height)]


def _sound(data: bytes) -> list[Stored]:
    if images.looks_like_picture(data):
        raise BadSound("UNSUPPORTED_FORMAT", "The file is a picture, and the dataset holds sounds.")
    recording = recordings.decode(data)
    recordings.check(recording)
    samples, rate = recording.samples, recording.rate
    if rate > MAX_KEPT_RATE:
        samples, rate = resample(samples, rate, MAX_KEPT_RATE), MAX_KEPT_RATE
    cut = [samples[first:last] for first, last in pieces(len(samples), rate, PIECE_SECONDS)]
    heard = [one for one in cut if not recordings.is_silent(one)]
    if not heard:  # it is loud where it is cut alone
        raise recordings.silent()
    return [_flac(one, rate) for one in heard]


def _flac(samples: recordings.Samples, rate: int) -> Stored:
    buffer = io.BytesIO()
    levels = np.round(samples * 32767).clip(-32768, 32767).astype(np.int16)
    soundfile.write(buffer, levels, rate, format="FLAC", subtype="PCM_16")
    data = buffer.getvalue()
    duration_us = round(len(samples) / rate * 1e6)
    return Stored(data, hashlib.sha256(data).hexdigest(), "audio/flac", sample_rate=rate, duration_us=duration_us)


def _thumbnail(data: bytes, side: int) -> bytes:
    image = images.decode(data, side)
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


_NORMALIZERS: "dict[Modality.ValueType, Callable[[bytes], list[Stored]]]" = {
    MODALITY_IMAGE: _picture,
    MODALITY_SOUND: _sound,
}
