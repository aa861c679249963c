"""Recordings: from bytes to samples in one channel. The same code when data comes in, in training and in serving;
exported models carry this very file. It opens WAV, FLAC, OGG and MP3: nothing else comes to a parser, whatever a tag
before it says. It needs numpy and soundfile alone.
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
# Of all channels together, counted while decoding: a few kilobytes can say that they hold hours.
MAX_SAMPLES = 60_000_000
MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 4_000, 192_000
# As a share of full scale: what is no louder is silence, which is 60 dB below.
SILENCE = 1e-3
# Samples at the largest or the smallest value of a file, if that is at least so far from zero, with an equal one beside
# them were cut off.
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
_TAG_HEAD = 10
_ZEROS = re.compile(rb"\0+")
# Writers that do not look put another tag before the one that is there.
MAX_TAGS = 8
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


def decode(data: bytes, max_seconds: float = MAX_SECONDS, max_samples: int = MAX_SAMPLES) -> Recording:
    """The whole sound. BadSound where the bytes are none, or too many, or where it is longer than that, or has more
    samples in all channels together; limits hold while it is decoded.
    """
    if len(data) > MAX_BYTES:
        raise BadSound("FILE_TOO_LARGE", f"The file has {len(data)} bytes; at most {MAX_BYTES} are taken.")
    if not data:
        raise BadSound("CORRUPT_MEDIA", "The file is empty.")
    kind = _format(data)
    if kind is None:
        raise BadSound("UNSUPPORTED_FORMAT", "The file is not a WAV, FLAC, OGG or MP3 sound.")
    if kind == "MP3":
        data = _without_tags(data)
        kind = "FLAC" if data[:4] == b"fLaC" else kind
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check(file, kind)
            return _read(file, max_seconds, max_samples)
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


def _without_tags(data: bytes) -> bytes:
    """From the first frame of an MP3, or the head of a FLAC, on: what stands behind a tag, or several
    (https://id3.org/id3v2.4.0-structure), may be of any kind.
    """
    begin, tags = 0, 0
    while data[begin : begin + 3] == b"ID3" and tags < MAX_TAGS:
        head = data[begin : begin + _TAG_HEAD]
        if len(head) < _TAG_HEAD:
            raise BadSound("CORRUPT_MEDIA", _BROKEN)
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        # Some tags have a copy of their head at the end, and some writers leave zeros behind a tag.
        begin += _TAG_HEAD + size + (_TAG_HEAD if head[5] & 0x10 else 0)
        if zeros := _ZEROS.match(data, begin):
            begin = zeros.end()
        tags += 1
    sound = data[begin:]
    if not _FRAME.match(sound) and sound[:4] != b"fLaC":
        raise BadSound("CORRUPT_MEDIA", "There is no MP3 or FLAC sound behind the tag.")
    return sound


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


def _read(file: soundfile.SoundFile, max_seconds: float, max_samples: int) -> Recording:
    """Second by second: what a header says of the length is not believed."""
    blocks: list[Samples] = []
    num_frames, cut_off = 0, _CutOff()
    while len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
        num_frames += len(block)
        if num_frames > max_seconds * file.samplerate:
            raise BadSound("SOUND_TOO_LONG", f"The sound is longer than {max_seconds:.0f} seconds.")
        if num_frames * file.channels > max_samples:
            raise BadSound(
                "SOUND_TOO_LONG",
                f"The sound has more than {max_samples:,} samples in its {file.channels} channels of "
                f"{file.samplerate} per second.",
            )
        if not np.isfinite(block).all():
            raise BadSound("CORRUPT_MEDIA", "The sound has samples that are no numbers.")
        cut_off.add(np.clip(block, -1, 1))
        blocks.append(np.clip(block.mean(axis=1), -1, 1))
    if not blocks:
        raise BadSound("CORRUPT_MEDIA", _BROKEN)
    return Recording(np.concatenate(blocks), file.samplerate, cut_off.count / (num_frames * file.channels))


class _CutOff:
    """Counts, block by block, what lies at the largest and the smallest value of a sound in runs of two or more."""

    def __init__(self) -> None:
        self._found = {1: (FULL_SCALE, 0), -1: (FULL_SCALE, 0)}

    @property
    def count(self) -> int:
        return sum(count for _, count in self._found.values())

    def add(self, block: Samples) -> None:
        for sign, (before, count) in self._found.items():
            largest = float((sign * block).max())
            if largest < before:
                continue
            full = sign * block == largest
            beside = np.zeros_like(full)
            beside[1:] |= full[:-1]
            beside[:-1] |= full[1:]
            self._found[sign] = largest, int((full & beside).sum()) + (count if largest == before else 0)
