"""Rows of features as models keep them: how near they stay to what they were, and that they stay what they are."""

import numpy as np
import pytest

from handful.bundle import rows
from handful.bundle.heads import Floats
from handful.bundle.rows import CoarseRows, HalfRows, Rows

WIDTH = 1280


def features(count: int, seed: int, width: int = WIDTH) -> Floats:
    """As networks give them: none below zero, some often far above the others, most of them in common; of length 1."""
    random = np.random.default_rng(seed)
    common = np.random.default_rng(0).exponential(size=width) ** 2
    return unit((common * random.gamma(2, 0.5, size=(count, width))).astype(np.float32))


def unit(given: Floats) -> Floats:
    scaled: Floats = given / np.linalg.norm(given, axis=1, keepdims=True)
    return scaled


def test_rows_are_widened_exactly() -> None:
    """Every finite float16 becomes the float32 of the same value."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    widened = rows._widened(finite)
    assert np.array_equal(widened.view(np.int32), finite.astype(np.float32).view(np.int32))


@pytest.mark.parametrize("kept", [HalfRows(features(500, 1).astype(np.float16)), CoarseRows.of(features(1000, 1))])
def test_many_rows_are_as_near_as_they_are(kept: Rows) -> None:
    """Rows that are multiplied in several parts have the cosines that they have in one."""
    assert kept.num_bytes > rows.PRODUCT
    asked = features(4, 2)
    assert np.allclose(kept.cosines(asked), asked @ kept.plain().T, atol=1e-6)


@pytest.mark.parametrize("width", [3, 256, 1000, WIDTH])
def test_a_row_is_as_near_to_itself_and_to_the_centre_as_it_was(width: int) -> None:
    given = features(20, 3, width)
    kept = CoarseRows.of(given)
    centre = unit(kept.centre[None].astype(np.float32))
    assert np.allclose(np.diag(kept.cosines(given)), 1, atol=1e-5)
    assert np.allclose(kept.cosines(centre), centre @ given.T, atol=1e-5)


def test_two_bits_suffice() -> None:
    """Cosines to others differ by some thousandths, though some numbers are far above others, and a row takes a seventh
    of what it took in float16.
    """
    given, others = features(75, 4), features(200, 5)
    kept = CoarseRows.of(given)
    differences = kept.cosines(others) - others @ given.T
    assert np.sqrt((differences**2).mean()) < 0.007
    assert np.abs(differences).max() < 0.05
    assert kept.num_bytes * 6.5 < HalfRows(given.astype(np.float16)).num_bytes


def test_rows_that_are_all_the_same_or_nothing_are_no_trouble() -> None:
    same = features(1, 6).repeat(5, axis=0)
    assert np.allclose(CoarseRows.of(same).cosines(same), 1, atol=1e-3)
    nothing = np.zeros((5, WIDTH), np.float32)
    assert (CoarseRows.of(nothing).cosines(same) == 0).all()


def test_what_is_stored_is_the_same_for_ever() -> None:
    """How codes lie in bytes, and how rows are rotated, is part of the format."""
    codes = np.arange(64, dtype=np.uint8)[None] * 3
    numbers = np.array([0.5], np.float32), np.array([0.1], np.float32)
    kept = CoarseRows(codes, np.array([1, 0, -1, 0.5], np.float16), *numbers)
    assert kept.plain()[0] == pytest.approx([0.70625, -0.20625, -0.51875, -0.14375], abs=1e-6)
