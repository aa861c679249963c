"""Recordings: what is taken and decoded, and what is refused for which reason, whatever a file says of itself."""

import io
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from handful.bundle import recordings
from handful.bundle.recordings import BadSound, decode

RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1, level: float = 0.3) -> npt.NDArray[np.float64]:
    """float64[n, channels]: a tone of 440 Hz."""
    wave = level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def file(samples: npt.NDArray[np.generic], rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def wav(rate: int = RATE, channels: int = 1, data: bytes = b"\0\1" * 800, size: int | None = None) -> bytes:
    """A WAV file by hand: what it says of itself need not be true."""
    each = channels * 2
    head = struct.pack("<HHIIHH", 1, channels, rate, (rate * each) & 0xFFFFFFFF, each & 0xFFFF, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def refused(data: bytes) -> str:
    with pytest.raises(BadSound) as caught:
        recordings.check(decode(data))
    assert caught.value.message
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "subtype", "off"),
    [
        ("WAV", "PCM_U8", 0.01),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAVEX", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.1),
        ("OGG", "OPUS", 0.1),
        ("MP3", "MPEG_LAYER_III", 0.1),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_decoded(kind: str, subtype: str, off: float, channels: int) -> None:
    """Samples are those that were written, as the mean of the channels, at the rate of the file."""
    samples = tone(channels=channels)
    found = decode(file(samples, 48_000, kind, subtype))
    assert found.rate == 48_000
    assert abs(len(found.samples) - len(samples)) < 3000  # MP3 has whole frames
    assert found.samples.dtype == np.float32
    assert abs(np.abs(found.samples).max() - 0.3) < max(off, 0.05)
    if off < 0.1:
        np.testing.assert_allclose(found.samples, samples.mean(axis=1), atol=off)
    recordings.check(found)


def _float_wav(value: float) -> bytes:
    samples = tone().astype(np.float32)
    samples[500] = value
    return file(samples, subtype="FLOAT")


def _with(data: bytes, position: int, other: bytes) -> bytes:
    return data[:position] + other + data[position + len(other) :]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "CORRUPT_MEDIA"),
    "text after RIFF": (lambda: b"RIFF....WAVE and then words", "CORRUPT_MEDIA"),
    "no samples": (lambda: wav(data=b""), "CORRUPT_MEDIA"),
    "a FLAC that is cut off in its head": (lambda: file(tone(), kind="FLAC")[:30], "CORRUPT_MEDIA"),
    "an OGG that is cut off in its head": (lambda: file(tone(), kind="OGG")[:60], "CORRUPT_MEDIA"),
    "noise with OGG's mark": (lambda: b"OggS" + np.random.default_rng(0).bytes(5000), "CORRUPT_MEDIA"),
    "noise with FLAC's mark": (lambda: b"fLaC" + np.random.default_rng(0).bytes(5000), "CORRUPT_MEDIA"),
    "noise with a tag": (lambda: b"ID3" + np.random.default_rng(0).bytes(5000), "CORRUPT_MEDIA"),
    "a FLAC that is cut off behind a tag": (lambda: tagged(file(tone(), kind="FLAC")[:30]), "CORRUPT_MEDIA"),
    "a WAV behind a tag": (lambda: tagged(file(tone())), "CORRUPT_MEDIA"),
    "an OGG behind a tag": (lambda: tagged(file(tone(), kind="OGG")), "CORRUPT_MEDIA"),
    "three million tags": (lambda: tagged(b"", 0) * 3_000_000, "CORRUPT_MEDIA"),
    "two tags and nothing": (lambda: tagged(tagged(b"")), "CORRUPT_MEDIA"),
    "an AIFF behind a tag": (lambda: tagged(file(tone(), kind="AIFF")), "CORRUPT_MEDIA"),
    "a tag that is cut off": (lambda: b"ID3\x04\0\0", "CORRUPT_MEDIA"),
    "not a number": (lambda: _float_wav(np.nan), "CORRUPT_MEDIA"),
    "infinite": (lambda: _float_wav(np.inf), "CORRUPT_MEDIA"),
    "no rate": (lambda: wav(rate=0), "CORRUPT_MEDIA"),
    "a rate that nothing has": (lambda: wav(rate=4_000_000_000), "CORRUPT_MEDIA"),
    "a rate that is too high": (lambda: wav(rate=400_000), "UNSUPPORTED_SOUND"),
    "a rate that is too low": (lambda: wav(rate=1_000), "UNSUPPORTED_SOUND"),
    "nine channels": (lambda: file(tone(channels=9)), "UNSUPPORTED_SOUND"),
    "a thousand channels": (lambda: wav(channels=1000, data=bytes(8000)), "UNSUPPORTED_SOUND"),
    "AIFF": (lambda: file(tone(), kind="AIFF"), "UNSUPPORTED_FORMAT"),
    "CAF": (lambda: file(tone(), kind="CAF"), "UNSUPPORTED_FORMAT"),
    "ADPCM in a WAV": (lambda: file(tone(), subtype="IMA_ADPCM"), "UNSUPPORTED_FORMAT"),
    "GSM in a WAV": (lambda: file(tone(), subtype="GSM610"), "UNSUPPORTED_FORMAT"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(200), "UNSUPPORTED_FORMAT"),
    "silence": (lambda: file(np.zeros(RATE)), "SILENT"),
    "silence that is not at zero": (lambda: file(np.full(RATE, 0.2)), "SILENT"),
    "a whisper below hearing": (lambda: file(tone(level=5e-4)), "SILENT"),
    "cut off at the loudest": (lambda: file(np.clip(tone() * 50, -1, 1)), "CLIPPED"),
    "too short": (lambda: file(tone(0.02)), "SOUND_TOO_SHORT"),
    "eleven minutes in a few kilobytes": (lambda: file(np.zeros(660 * 8000), 8000, "FLAC"), "SOUND_TOO_LONG"),
}


def tagged(data: bytes, size: int = 300, flags: int = 0, behind: bytes = b"") -> bytes:
    """Bytes behind an ID3 tag of that size."""
    head = b"ID3\x04\0" + bytes([flags, 0, 0, size >> 7, size & 0x7F])
    return head + b"T" * size + behind + data


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_sound_to_learn_from_is_refused(name: str) -> None:
    """Every broken, foreign, silent, clipped, too long or too short file has its reason, and no other error."""
    make, reason = HOSTILE[name]
    assert refused(make()) == reason


def test_a_size_that_is_a_lie_takes_no_memory() -> None:
    """A header that promises 4 GB over a tenth of a second gives a tenth of a second."""
    samples = (tone(0.1)[:, 0] * 32767).astype("<i2").tobytes()
    assert len(decode(wav(data=samples, size=0xFFFFFFF0)).samples) == RATE // 10


def test_a_cut_file_gives_what_is_there() -> None:
    """A WAV that ends early is what was recorded until then."""
    data = file(tone())
    assert RATE * 0.4 < len(decode(data[: len(data) // 2]).samples) < RATE * 0.6


def test_a_file_that_is_too_large_is_not_opened() -> None:
    """Its size alone refuses it: it begins as a sound does that is taken."""
    sound = file(tone())
    assert len(decode(sound).samples) == len(tone())
    assert refused(sound + bytes(recordings.MAX_BYTES)) == "FILE_TOO_LARGE"


def test_loud_music_is_not_clipped() -> None:
    """A peak at full scale now and then is no fault."""
    samples = tone(level=0.5)
    samples[::400] = 1.0
    assert decode(file(samples)).clipped == 0


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_clean_tone_at_full_scale_is_not_clipped(subtype: str) -> None:
    """Its peaks are round: neighbours differ, however near they are to the largest value."""
    for hertz in (100, 440):
        samples = np.sin(2 * np.pi * hertz * np.arange(2 * RATE) / RATE + 0.1)
        found = decode(file(samples[:, None], subtype=subtype))
        assert np.abs(found.samples).max() > recordings.FULL_SCALE
        recordings.check(found)


def test_what_is_cut_off_is_counted_over_the_whole_file() -> None:
    """The largest value is that of the file, not that of a second: half of it is cut off in both directions."""
    wave = tone(4.0, level=1.0)
    wave[2 * RATE :] = np.clip(50 * wave[2 * RATE :], -1, 1)
    wave[: 2 * RATE] *= 0.995
    assert 0.4 < decode(file(wave)).clipped <= 0.5
    assert 0.4 < decode(file(wave[::-1])).clipped <= 0.5


def test_too_many_samples_have_a_message_of_their_own() -> None:
    """What is short and has many channels at a high rate is not said to be long."""
    with pytest.raises(BadSound, match="more than 100,000 samples in its 2 channels of 48000 per second"):
        decode(file(tone(2.0, 48_000, 2), 48_000), max_samples=100_000)
    with pytest.raises(BadSound, match="longer than 1 seconds"):
        decode(file(tone(2.0)), max_seconds=1)


@pytest.mark.parametrize(("flags", "behind"), [(0, b""), (0, bytes(50)), (0x10, b"3DI" + bytes(7))])
def test_a_tag_changes_no_sample(flags: int, behind: bytes) -> None:
    """An MP3 sounds the same behind a tag, one with a foot, and one with zeros behind it."""
    data = file(tone(), kind="MP3")
    np.testing.assert_array_equal(decode(tagged(data, flags=flags, behind=behind)).samples, decode(data).samples)


@pytest.mark.parametrize("kind", ["MP3", "FLAC"])
@pytest.mark.parametrize("tags", [1, 2, recordings.MAX_TAGS])
def test_sounds_behind_tags_are_taken(kind: str, tags: int) -> None:
    """An MP3 or a FLAC with tags before it, as some writers leave them, is what it is without."""
    data = file(tone(), kind=kind)
    behind = data
    for _ in range(tags):
        behind = tagged(behind, behind=bytes(20))
    assert recordings.looks_like_sound(behind)
    np.testing.assert_array_equal(decode(behind).samples, decode(data).samples)
