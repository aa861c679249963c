"""Which places speak for a class: the sums that must hold, and what is left of a sound without a cell."""

import numpy as np
import pytest

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import Head
from services.inference.explanations.cells import Bands, covered
from services.inference.explanations.places import class_activation, evidence, occlusion

RATE = 16_000
KINDS = [Head.NORMALIZATION_NONE, Head.NORMALIZATION_CENTER_L2]


def head(kind: "Head.Normalization.ValueType") -> LinearHead:
    chance = np.random.default_rng(1)
    drawn = [chance.normal(size=shape).astype(np.float32) for shape in ((3, 8), 3, 8)]
    return LinearHead(kind, *drawn)


def tone(hertz: float, seconds: float) -> Floats:
    return np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", range(3))
def test_the_mean_of_an_activation_map_is_the_evidence_for_the_class(
    kind: "Head.Normalization.ValueType", label: int
) -> None:
    """But for the bias, which has no place."""
    feature_map = np.random.default_rng(2).normal(size=(8, 5, 7)).astype(np.float32)
    features, linear = feature_map.mean(axis=(1, 2)), head(kind)
    found = class_activation(linear, features, feature_map, label)
    assert found is not None
    assert found.shape == (5, 7)
    bias = linear.bias[label] - linear.bias.mean()
    assert found.mean() + bias == pytest.approx(evidence(linear.logits(features[None]), label)[0], abs=1e-4)


def test_features_that_are_not_the_mean_of_the_map_have_no_activation_map() -> None:
    feature_map = np.random.default_rng(2).normal(size=(8, 5, 7)).astype(np.float32)
    assert class_activation(head(KINDS[0]), feature_map.max(axis=(1, 2)), feature_map, 0) is None
    assert class_activation(head(KINDS[0]), feature_map.mean(axis=(1, 2))[:4], feature_map, 0) is None


def test_what_is_lost_under_a_cover_is_its_evidence() -> None:
    whole, without = np.array([[3.0, 1.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    lost = occlusion(whole, [lambda: without, lambda: whole], 0, lambda: False)
    assert lost is not None
    assert lost.tolist() == [1.0, 0.0]
    assert occlusion(whole, [lambda: without], 0, lambda: True) is None


def test_a_covered_cell_has_the_picture_s_mean_colour_and_the_rest_is_as_it_was() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    hidden = covered(pixels, 1, 0, 3)
    assert (hidden[10:20, :6] == pixels.mean(axis=(0, 1)).round()).all()
    hidden[10:20, :6] = pixels[10:20, :6]
    assert (hidden == pixels).all()


def test_a_sound_is_the_sum_of_its_cells() -> None:
    samples = np.random.default_rng(4).normal(size=RATE).astype(np.float32)
    bands = Bands(samples, RATE, RATE, times=5, bands=4)
    cells = sum(samples - bands.without(time, band) for time in range(5) for band in range(4))
    assert np.abs(cells - samples).mean() < 0.05  # the highest frequency is in no band


def test_only_the_tone_of_its_own_time_and_band_goes_with_a_cell() -> None:
    samples = np.concatenate([tone(500, 1), tone(3000, 1)])
    bands = Bands(samples, RATE, 8000, times=2, bands=4)
    low, high = (int(np.searchsorted(bands.hertz, hertz)) - 1 for hertz in (500, 3000))
    assert low != high
    inner = slice(RATE // 10, RATE - RATE // 10)
    left = bands.without(0, low)
    assert np.abs(left[inner]).max() < 0.05
    assert np.abs(left[RATE:][inner] - samples[RATE:][inner]).max() < 1e-5
    assert np.abs(bands.without(0, high)[inner] - samples[inner]).max() < 0.05


@pytest.mark.parametrize("length", [1, 40, 700])
def test_the_shortest_sounds_have_cells_too(length: int) -> None:
    samples = np.ones(length, np.float32)
    bands = Bands(samples, RATE, 4000, times=8, bands=4)
    assert all(bands.without(time, band).shape == (length,) for time in range(8) for band in range(4))
    assert np.isfinite(bands.loudness()).all()
