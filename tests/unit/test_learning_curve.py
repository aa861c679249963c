"""How many more: a curve of what was measured, drawn on to twice as many, with a band; a class where one is clear."""

from functools import partial

import numpy as np
import pytest

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import Interval
from services.trainer.intervals import corrected, effective, wilson
from services.trainer.worker import learning_curve, logistic_regression
from services.trainer.worker.cross_validation import Folds, Labels, OutOfFold
from services.trainer.worker.learning_curve import Curve
from services.trainer.worker.spans import Span

NAMES = ("cat", "dog", "emu")


def answers(labels: Labels, wrong: dict[int, int], folds: int = 5) -> OutOfFold:
    """Right about all but so many of each class."""
    given = labels.copy()
    for label, count in wrong.items():
        given[np.flatnonzero(labels == label)[:count]] = (label + 1) % 3
    return OutOfFold(folds, np.eye(3, dtype=np.float32)[given][None])


@pytest.mark.parametrize("slope", [0.1, 0.3, 0.8])
def test_the_slope_is_that_of_the_power_law(slope: float) -> None:
    """Of errors that fall as a power of the examples the power is found, drawn half way to the usual one."""
    sizes = [20, 40, 60, 80]
    found = Curve(sizes, [1 - 0.9 * size**-slope for size in sizes]).slope()
    assert found == pytest.approx((slope + 0.3) / 2)


def test_no_slope_is_below_nothing() -> None:
    """Where more examples made it worse, twice as many are expected to change nothing."""
    assert Curve([20, 40, 60, 80], [0.99, 0.9, 0.8, 0.7]).slope() == 0.0
    assert np.isfinite(Curve([20, 40, 60, 80], [1.0] * 4).slope())


def test_more_is_no_worse_and_has_a_band() -> None:
    """Twice as many examples are expected to do better where they did so far; the band is wider than the interval."""
    labels = np.arange(90) % 3
    whole = answers(labels, {0: 6, 1: 6, 2: 6})
    found = learning_curve.more(Curve([18, 36, 54, 72], [0.55, 0.68, 0.76, 0.8]), NAMES, labels, np.arange(90), whole)
    assert found.num_examples == 180
    assert found.gain == pytest.approx(found.accuracy - corrected(0.8, 1 / 3, 5))
    assert 0.03 < found.gain < 0.1
    plain = wilson(found.accuracy, effective(90, 5, 1))
    assert found.accuracy_interval.low < plain.low < found.accuracy < plain.high < found.accuracy_interval.high
    assert [point.num_examples for point in found.curve] == [18, 36, 54, 72]
    assert found.label == ""
    none = learning_curve.more(Curve([18, 36, 54, 72], [1.0] * 4), NAMES, labels, np.arange(90), answers(labels, {}))
    assert (none.gain, none.accuracy_interval.high) == (0.0, 1.0)
    assert none.accuracy_interval != Interval()


@pytest.mark.parametrize("folds", [2, 10])
def test_what_more_brings_is_of_as_many_folds(folds: int) -> None:
    """Of heads of two folds both ends of the gain are corrected by more than of heads of ten."""
    labels, curve = np.arange(90) % 3, Curve([18, 36, 54, 72], [0.55, 0.68, 0.76, 0.8])
    whole = answers(labels, {0: 6, 1: 6, 2: 6}, folds)
    found = learning_curve.more(curve, NAMES, labels, np.arange(90), whole)
    then = 1 - 0.2 * 2 ** -curve.slope()
    assert found.accuracy == pytest.approx(corrected(then, 1 / 3, folds))
    assert found.gain == pytest.approx(found.accuracy - corrected(0.8, 1 / 3, folds))


def test_the_hardest_class_is_named_where_it_is_clear() -> None:
    """A class that is found clearly less often than the others is named, one that may be so by chance is not."""
    labels, curve = np.arange(90) % 3, Curve([18, 36, 54, 72], [0.55, 0.68, 0.76, 0.8])
    alone = np.arange(90)
    assert learning_curve.more(curve, NAMES, labels, alone, answers(labels, {1: 12, 2: 2})).label == "dog"
    assert learning_curve.more(curve, NAMES, labels, alone, answers(labels, {1: 4, 2: 2})).label == ""


def test_examples_of_a_group_say_what_one_says() -> None:
    """Of ten pieces each of nine recordings, the band is that of nine examples, and twelve errors may be one
    recording's misfortune.
    """
    labels, curve = np.arange(90) % 3, Curve([18, 36, 54, 72], [0.55, 0.68, 0.76, 0.8])
    whole, recordings = answers(labels, {1: 12, 2: 2}), np.arange(90) // 30 * 3 + labels
    alone, pieces = (learning_curve.more(curve, NAMES, labels, groups, whole) for groups in (np.arange(90), recordings))
    assert (alone.label, pieces.label) == ("dog", "")
    assert [(one.num_examples, one.num_groups) for one in (alone, pieces)] == [(180, 180), (180, 18)]
    plain = wilson(pieces.accuracy, effective(9, 5, 1))
    assert pieces.accuracy_interval.low < plain.low < alone.accuracy_interval.low
    assert (pieces.accuracy, pieces.gain) == (alone.accuracy, alone.gain)


def test_the_least_of_many_classes_is_rarely_named_by_chance() -> None:
    """Where classes are equally hard, the one that happens to be found least is called the hardest in few of many
    draws, be there two classes or ten.
    """
    for num_classes in (2, 10):
        labels, names = np.repeat(np.arange(num_classes), 15), tuple(map(str, range(num_classes)))
        curve, named = Curve([18, 36, 54, 72], [0.55, 0.68, 0.76, 0.8]), 0
        for seed in range(400):
            wrong = np.random.default_rng(seed).random(len(labels)) < 0.2
            given = np.where(wrong, (labels + 1) % num_classes, labels)
            whole = OutOfFold(5, np.eye(num_classes, dtype=np.float32)[given][None])
            named += bool(learning_curve.more(curve, names, labels, np.arange(len(labels)), whole).label)
        assert named <= 0.04 * 400


def test_the_curve_is_measured_on_parts_of_the_other_folds() -> None:
    """Heads get a share of every class of the folds that they do not answer, down to one example; more of them do
    better, and the same seed draws the same curve.
    """
    labels = np.repeat([0, 1, 2], (30, 30, 8))
    centres = np.random.default_rng(1).normal(0, 0.25, (3, 100))
    rows = (centres[labels] + np.random.default_rng(2).normal(0, 1, (68, 100))).astype(np.float32)
    folds = Folds.drawn(labels, [f"{place:03}" for place in range(68)], 3, 0)
    span, sizes, steps = Span.of(rows), [], []
    fit = partial(logistic_regression.fit_rows, span, num_classes=3, c=1.0, max_passes=200)

    def counting(some: Floats, of: Labels) -> LinearHead:
        assert len(np.unique(of)) == 3
        sizes.append(len(of))
        return fit(some, of)

    whole = folds.out_of_fold(span.rows, labels, 3, fit, lambda: None)
    first, again = (
        learning_curve.draw(span, labels, np.arange(68), folds, counting, whole, 7, lambda: steps.append(1))
        for _ in range(2)
    )
    assert first == again
    assert len(steps) == 2 * 3 * folds.num_fits
    assert first.accuracies[0] < first.accuracies[-1] == pytest.approx(whole.right(labels).mean())
    assert sizes[0] == pytest.approx(first.num_examples[0], abs=2)


def test_the_curve_takes_whole_groups() -> None:
    """A quarter of what is fitted on is a quarter of each class's recordings, with all of their pieces."""
    labels, groups = np.repeat([0, 1], 80), np.repeat(np.arange(20), 8)
    rows = np.stack([groups, labels], axis=1).astype(np.float32)
    folds, span = (
        Folds.drawn(labels, [f"{one:02}" for one in groups], 2, 0),
        Span(rows, np.zeros(2, np.float32), None, 2),
    )
    fit = partial(logistic_regression.fit_rows, span, num_classes=2, c=1.0, max_passes=200)
    taken: list[set[int]] = []

    def noting(some: Floats, of: Labels) -> LinearHead:
        drawn, pieces = np.unique(some[:, 0], return_counts=True)
        assert (pieces == 8).all()
        taken.append(set(drawn.tolist()))
        return fit(some, of)

    whole = folds.out_of_fold(rows, labels, 2, fit, lambda: None)
    curve = learning_curve.draw(span, labels, groups, folds, noting, whole, 0, lambda: None)
    assert [len(one) for one in taken[:: folds.num_fits]] == [4, 8, 12]
    assert curve.num_examples == [32, 64, 96, 128]
    assert len(set(map(frozenset, taken[: folds.num_fits]))) > 1


def test_the_curve_ends_where_choosing_is_measured() -> None:
    """What was chosen on the very answers looks too good: the curve, the prediction and the hardest class are those of
    the answers whose choice was made without them.
    """
    labels, curve = np.arange(90) % 3, Curve([18, 36, 54, 72], [0.65, 0.78, 0.86, 0.9])
    found = learning_curve.more(curve, NAMES, labels, np.arange(90), answers(labels, {0: 6, 1: 6, 2: 6}))
    assert [point.accuracy for point in found.curve] == pytest.approx([0.55, 0.68, 0.76, 0.8])
    assert found.accuracy - found.gain == pytest.approx(corrected(0.8, 1 / 3, 5))
