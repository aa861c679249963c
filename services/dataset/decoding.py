"""What a decoding process does: pictures and recordings are decoded, checked, and encoded again from pixels or samples.
It knows nothing of limits, which `ingest` sets, nor of datasets.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
import soundfile

from handful.bundle import images, recordings
from handful.bundle.images import BadImage
from handful.bundle.recordings import BadSound
from handful.bundle.sounds import pieces, resample
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Modality
from services.dataset.records import Stored

JPEG_QUALITY = 95
THUMBNAIL_QUALITY = 85
# Longer recordings are cut; nothing that is taken needs a higher rate.
PIECE_SECONDS = 6.0
MAX_KEPT_RATE = 48_000


def normalize(data: bytes, modality: "Modality.ValueType") -> list[Stored]:
    """What is to be kept of a file: a picture, or the pieces of a recording. BadImage, of a sound too: that class
    needs no numpy, which the service goes without.
    """
    try:
        return _NORMALIZERS[modality](data)
    except BadSound as bad:
        raise BadImage(bad.reason, bad.message) from None


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


def thumbnail(data: bytes, side: int) -> bytes:
    """A JPEG, no longer than that on its longer side."""
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
