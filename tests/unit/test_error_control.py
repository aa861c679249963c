"""How few wrong answers are promised: the arithmetic by hand, and the promise itself, kept over thousands of models."""

import math

import numpy as np
import pytest

from handful.bundle import manifest
from handful.bundle.error_control import check, groups_needed, least_rate, min_confidence
from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import ErrorControl, ModelManifest
from services.trainer.worker.held_out import MAX_CONFIDENCES, HeldOut

# Of 19 examples two are answered wrongly.
NINETEEN = ErrorControl(num_groups=19, min_confidences=[0.9, 0.6, 0], errors=[0, 1, 2])


def answered(confidences: list[float], right: list[bool], groups: list[int] | None = None) -> HeldOut:
    """One repeat of answers to examples of class 0 of two."""
    sure = np.array(confidences, np.float32)
    first = np.where(right, sure, 1 - sure)
    probabilities = np.stack([first, 1 - first], axis=1)[None].astype(np.float32)
    labels = np.zeros(len(right), np.int64)
    return HeldOut(probabilities, labels, np.arange(len(right)) if groups is None else np.array(groups))


@pytest.mark.parametrize(
    ("rate", "held_back"),
    [(0.049, None), (0.05, 0.9), (0.0999, 0.9), (0.1, 0.6), (0.149, 0.6), (0.15, 0.0), (0.99, 0.0)],
)
def test_the_threshold_is_the_smallest_that_keeps_the_rate(rate: float, held_back: float | None) -> None:
    """With one more error than was seen: (errors + 1) / 20 is at most the rate, and of 19 examples 5 % is the least."""
    found = min_confidence(NINETEEN, rate)
    assert found == (None if held_back is None else pytest.approx(held_back))


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.3, 3), (0.5, 1), (0.999, 1), (5e-324, 10**9)]
)
def test_how_many_groups_a_promise_needs(rate: float, needed: int) -> None:
    """As many as are told suffice, if none was wrong, and one fewer does not."""
    assert groups_needed(rate) == needed
    for num, enough in ((needed, rate > 1e-9), (needed - 1, False)):
        if num:
            control = ErrorControl(num_groups=num, min_confidences=[0], errors=[0])
            assert (min_confidence(control, rate) is not None) == enough


def test_the_least_rate_that_is_told_is_promised() -> None:
    """Of however many groups, as it is written; a thousandth less is not."""
    for num in range(1, 3000):
        control, told = ErrorControl(num_groups=num, min_confidences=[0], errors=[0]), float(f"{least_rate(num):g}")
        assert min_confidence(control, told) is not None
        assert min_confidence(control, told - 0.001) is None


def test_what_was_wrong_is_counted_from_the_surest_on() -> None:
    """Each confidence of a wrong answer, with how many wrong ones are surer; equal ones count together."""
    found = answered([0.9, 0.8, 0.7, 0.8, 0.6], [True, False, True, False, False]).error_control()
    assert found is not None
    assert found.num_groups == 5
    assert list(found.min_confidences) == pytest.approx([0.8, 0.6, 0])
    assert list(found.errors) == [0, 2, 3]
    check(found)
    assert (
        HeldOut(np.zeros((1, 0, 2), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)).error_control() is None
    )


def test_a_group_is_one_example_and_so_are_all_repeats() -> None:
    """Of a recording in four pieces a wrong piece is a fourth of an error, and of five repeats each answer a fifth."""
    found = answered([0.9, 0.8, 0.7, 0.95, 0.6], [False, True, True, True, False], [0, 0, 0, 0, 1]).error_control()
    assert found is not None
    assert (found.num_groups, list(found.errors)) == (2, [0, 0.25, 1.25])
    one = answered([0.9, 0.8, 0.6], [True, False, True])
    wrong = 1 - one.probabilities
    five = HeldOut(np.concatenate([wrong, *[one.probabilities] * 4]), one.labels, one.groups).error_control()
    assert five is not None
    assert five.num_groups == 3
    assert five.errors[-1] == pytest.approx(2 / 5 + 4 / 5)


def test_there_are_never_more_confidences_than_are_told() -> None:
    """Of very many wrong answers some are left out, and each that is kept tells how many are surer."""
    sure = np.linspace(0.5001, 0.9999, 5000)
    found = answered(sure.tolist(), [False] * 5000).error_control()
    assert found is not None
    assert len(found.min_confidences) == MAX_CONFIDENCES
    check(found)
    for confidence, errors in zip(found.min_confidences, found.errors, strict=True):
        assert errors == (sure.astype(np.float32) > np.float32(confidence)).sum()


def test_a_manifest_keeps_it_to_the_last_digit() -> None:
    """Read and written again it is the same bytes, or no export with it could be imported."""
    sure = np.random.default_rng(0).uniform(0.5, 1, 200).astype(np.float32)
    found = answered(sure.tolist(), (sure > 0.8).tolist(), (np.arange(200) // 3).tolist()).error_control()
    written = manifest.to_bytes(ModelManifest(format=manifest.MODEL_FORMAT, error_control=found))
    read = manifest.from_bytes(ModelManifest, written)
    assert read.error_control == found
    assert manifest.to_bytes(read) == written


def test_promises_say_how_much_is_answered() -> None:
    """Of 20 examples 5 % and 10 % are promised, 1 % is not, and what it would need is told either way."""
    held_out = answered([0.99] * 15 + [0.7, 0.65, 0.6, 0.55, 0.8], [True] * 17 + [False, True, False])
    control = held_out.error_control()
    assert control is not None
    one, five, ten = held_out.promises(control)
    assert (one.HasField("min_confidence"), one.num_groups_needed, one.answered) == (False, 99, 0)
    assert [five.min_confidence, five.answered] == pytest.approx([0.8, 0.75])
    assert [ten.min_confidence, ten.answered] == pytest.approx([0.6, 18 / 20])


@pytest.mark.parametrize(
    "broken",
    [
        ErrorControl(),
        ErrorControl(num_groups=0, min_confidences=[0], errors=[0]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0], errors=[0]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0], errors=[1, 2]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0.2], errors=[0, 2]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0.6, 0], errors=[0, 1, 2]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0.4, 0], errors=[0, 2, 1]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0], errors=[0, 10]),
        ErrorControl(num_groups=9, min_confidences=[1.5, 0], errors=[0, 1]),
        ErrorControl(num_groups=9, min_confidences=[math.nan, 0], errors=[0, 1]),
        ErrorControl(num_groups=9, min_confidences=[0.5, 0], errors=[0, math.nan]),
    ],
)
def test_what_is_no_error_control_is_refused(broken: ErrorControl) -> None:
    """Whatever would make a promise that was never measured."""
    with pytest.raises(ValueError, match="no error control"):
        check(broken)


def drawn(random: np.random.Generator, num_groups: int, largest: int) -> tuple[Floats, HeldOut]:
    """Groups of 1 to so many answers that are wrong together, the surer the rarer: confidences, and the answers."""
    groups = np.repeat(np.arange(num_groups), random.integers(1, largest + 1, num_groups))
    # The confidence of a group's answers and whether they are wrong both hang on how hard the group is.
    hard = random.uniform(0, 1, num_groups)[groups]
    sure = (0.5 + 0.5 * np.clip(1 - hard + random.normal(0, 0.15, len(groups)), 0.001, 0.999)).astype(np.float32)
    wrong = random.uniform(0, 1, len(groups)) < 0.5 * hard**2
    first = np.where(wrong, 1 - sure, sure)
    probabilities = np.stack([first, 1 - first], axis=1)[None]
    return sure, HeldOut(probabilities, np.zeros(len(groups), np.int64), groups)


@pytest.mark.parametrize(("rate", "num_groups", "largest"), [(0.05, 25, 1), (0.1, 30, 1), (0.1, 30, 6), (0.3, 4, 1)])
def test_the_promise_is_kept_on_average(rate: float, num_groups: int, largest: int) -> None:
    """Over thousands of small sets the share of what is asked next that is answered wrongly is at most the rate, to
    four standard errors, and not far below it: an error that was not seen is all that is added. A group is a question.
    """
    random, shares = np.random.default_rng(1), []
    for _ in range(4000):
        control = drawn(random, num_groups, largest)[1].error_control()
        assert control is not None
        threshold = min_confidence(control, rate)
        assert threshold is not None
        confidences, asked = drawn(random, 10, largest)
        wrong = (asked.probabilities[0].argmax(axis=1) == 1) & (confidences > threshold)
        sizes = np.bincount(asked.groups)
        shares.append((np.bincount(asked.groups, weights=wrong) / sizes).mean())
    mean, error = np.mean(shares), np.std(shares) / math.sqrt(len(shares))
    assert mean <= rate + 4 * error
    assert mean >= rate - 1 / (num_groups + 1) - 4 * error
