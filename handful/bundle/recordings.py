"""Recordings: from bytes to samples in one channel. The same code when data comes in, in training and in serving;
exported models carry this very file. It opens WAV, FLAC, OGG and MP3, and no other parser is ever entered. It needs
numpy and soundfile alone.
"""

import io
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
MAX_BYTES = 32 * 1024 * 1024
MAX_SECONDS = 600.0
MIN_SECONDS = 0.05
# Over all channels, counted while decoding: a few kilobytes can say that they hold hours.
MAX_SAMPLES = 60_000_000
MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 4_000, 192_000
# As a share of full scale: what is no louder is silence, which is 60 dB below.
SILENCE = 1e-3
# Samples that have the largest magnitude there is, at least this large, and no lower one beside them were cut off.
FULL_SCALE = 0.99
MAX_CLIPPED = 0.05

_ENCODINGS = {
    "WAV": {"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"},
    "FLAC": {"PCM_S8", "PCM_16", "PCM_24"},
    "OGG": {"VORBIS", "OPUS"},
    "MP3": {"MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"},
}
# A frame begins with eleven bits of sync and has a version, a layer and a bit rate that there are. FF FE would be one
# too, of layer I with a checksum, which nobody has; it begins every text in UTF-16.
_FRAME = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd\xff][\x00-\xef]")
_BROKEN = "The file is broken or cut off."


class BadSound(Exception):
    """These bytes are no sound we take. `reason` is CORRUPT_MEDIA, UNSUPPORTED_FORMAT, UNSUPPORTED_SOUND,
    SOUND_TOO_LONG, SOUND_TOO_SHORT, SILENT, CLIPPED or FILE_TOO_LARGE; the message is for the caller.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Recording:
    """A sound: samples float32[n] from -1 to 1, the mean of all channels, and how many there are in a second."""

    samples: Samples
    rate: int
    # Share of the samples, in all channels, that were cut off at the largest value.
    clipped: float

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def looks_like_sound(data: bytes) -> bool:
    """Whether a file begins as the sounds that are taken do; the first 12 bytes are enough."""
    return _format(data) is not None


def decode(data: bytes) -> Recording:
    """The whole sound. BadSound where the bytes are none, or too many; limits hold while it is decoded."""
    if len(data) > MAX_BYTES:
        raise BadSound("FILE_TOO_LARGE", f"The file has {len(data)} bytes; at most {MAX_BYTES} are taken.")
    if not data:
        raise BadSound("CORRUPT_MEDIA", "The file is empty.")
    kind = _format(data)
    if kind is None:
        raise BadSound("UNSUPPORTED_FORMAT", "The file is not a WAV, FLAC, OGG or MP3 sound.")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check(file, kind)
            return _read(file)
    except (MemoryError, BadSound):
        raise
    except Exception as problem:
        raise BadSound("CORRUPT_MEDIA", _BROKEN) from problem


def check_heard(recording: Recording) -> None:
    """BadSound where there is nothing to hear: too short, or silent."""
    if recording.seconds < MIN_SECONDS:
        raise BadSound("SOUND_TOO_SHORT", f"The sound is shorter than {MIN_SECONDS} seconds.")
    if is_silent(recording.samples):
        raise silent()


def check(recording: Recording) -> None:
    """BadSound where there is nothing to learn from: too short, silent, or recorded too loudly."""
    check_heard(recording)
    if recording.clipped >= MAX_CLIPPED:
        share = f"{recording.clipped:.0%} of the samples"
        raise BadSound("CLIPPED", f"The sound was recorded too loudly: {share} are cut off at the largest value.")


def silent() -> BadSound:
    """The error that says so."""
    return BadSound("SILENT", "There is nothing to hear: the sound stays 60 dB below full scale.")


def is_silent(samples: Samples) -> bool:
    """Whether nothing is louder than 60 dB below full scale, of what varies at all."""
    return bool(np.abs(samples - samples.mean()).max(initial=0.0) <= SILENCE)


def _format(data: bytes) -> str | None:
    if data[:4] in {b"RIFF", b"RIFX"} and data[8:12] == b"WAVE":
        return "WAV"
    if data[:4] == b"fLaC":
        return "FLAC"
    if data[:4] == b"OggS":
        return "OGG"
    return "MP3" if data[:3] == b"ID3" or _FRAME.match(data) else None


def _check(file: soundfile.SoundFile, kind: str) -> None:
    opened = {"WAVEX": "WAV"}.get(file.format, file.format)
    if opened != kind or file.subtype not in _ENCODINGS[kind]:
        raise BadSound("UNSUPPORTED_FORMAT", "The sound is encoded in a way that is not taken.")
    if not 0 < file.channels <= MAX_CHANNELS or not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise BadSound(
            "UNSUPPORTED_SOUND",
            f"The sound has {file.channels} channels of {file.samplerate} samples per second; at most {MAX_CHANNELS} "
            f"channels of {MIN_RATE} to {MAX_RATE} are taken.",
        )


def _read(file: soundfile.SoundFile) -> Recording:
    """Second by second: what a header says of the length is not believed."""
    blocks: list[Samples] = []
    num_frames = num_clipped = 0
    while len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
        num_frames += len(block)
        if num_frames > MAX_SECONDS * file.samplerate or num_frames * file.channels > MAX_SAMPLES:
            raise BadSound("SOUND_TOO_LONG", f"The sound is longer than {MAX_SECONDS:.0f} seconds.")
        if not np.isfinite(block).all():
            raise BadSound("CORRUPT_MEDIA", "The sound has samples that are no numbers.")
        num_clipped += _clipped(block)
        blocks.append(np.clip(block.mean(axis=1), -1, 1))
    if not blocks:
        raise BadSound("CORRUPT_MEDIA", _BROKEN)
    return Recording(np.concatenate(blocks), file.samplerate, num_clipped / (num_frames * file.channels))


def _clipped(block: Samples) -> int:
    """How many samples lie at full scale, in runs of two or more."""
    full = np.abs(block) >= FULL_SCALE
    beside = np.zeros_like(full)
    beside[1:] |= full[:-1]
    beside[:-1] |= full[1:]
    return int((full & beside).sum())
