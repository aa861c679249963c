"""Cross-validation: folds that keep groups together and classes even, answers from others alone, honest intervals."""

import math
from collections import Counter

import numpy as np
import pytest

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import Head, Interval
from services.trainer.intervals import EXCESS, corrected_wilson, effective, excess, independent, wilson
from services.trainer.worker.calibration import cross_fitted
from services.trainer.worker.cross_validation import FOLDS, REPEATS, TRIES, Folds, Labels, OutOfFold, repeats_of
from services.trainer.worker.evaluation import cross_validated, scores
from services.trainer.worker.logistic_regression import fit


def singles(counts: tuple[int, ...]) -> tuple[Labels, list[str]]:
    """So many examples of each class, every one a group of its own, in no order."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    return labels, [f"{position:04}" for position in range(len(labels))]


def gaussian(labels: Labels, distance: float, seed: int, width: int = 60) -> Floats:
    """Features of classes whose centres lie so far apart."""
    centres = np.random.default_rng(7).normal(0, distance, (int(labels.max()) + 1, width))
    return (centres[labels] + np.random.default_rng(seed).normal(0, 1, (len(labels), width))).astype(np.float32)


def fitted(rows: Floats, labels: Labels) -> LinearHead:
    return fit(rows, labels, 2, 1.0, 200, lambda _: None)


def ends(interval: Interval) -> tuple[float, float]:
    """To the twelfth digit."""
    return round(interval.low, 12), round(interval.high, 12)


def ignore() -> None:
    pass


@pytest.mark.parametrize(
    ("counts", "folds"),
    [((15, 15), 5), ((50, 6), 5), ((4, 30), 4), ((2, 9, 9), 2), ((7,) * 10, 5), ((1, 20), 1), ((0, 20), 0)],
    ids=str,
)
def test_there_are_as_many_folds_as_the_smallest_class_allows(counts: tuple[int, ...], folds: int) -> None:
    """Five folds, or as many as the smallest class has groups; every class is spread over them as evenly as can be."""
    labels, groups = singles(counts)
    drawn = Folds.drawn(labels, groups, len(counts), seed=0)
    assert (drawn.folds, drawn.smallest_class) == (folds, int(np.argmin(counts)))
    assert len(drawn.of_row) == (REPEATS if folds > 1 else 0)
    for of_row in drawn.of_row:
        for label, count in enumerate(counts):
            sizes = np.bincount(of_row[labels == label], minlength=folds)
            assert (sizes.max(), sizes.min()) == (math.ceil(count / folds), count // folds)
        sizes = np.bincount(of_row)
        assert sizes.max() - sizes.min() <= 2


def test_folds_never_divide_a_group() -> None:
    """Groups of different sizes, some of two classes, stay whole, and every class is there where heads are fitted."""
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], (40, 30, 12))
    groups = [f"g{random.integers(14)}" for _ in labels]
    drawn = Folds.drawn(labels, groups, 3, seed=5)
    assert drawn.folds == FOLDS
    for of_row in drawn.of_row:
        assert all(len({int(fold) for fold, own in zip(of_row, groups, strict=True) if own == g}) == 1 for g in groups)
        for fold in range(FOLDS):
            assert len(np.unique(labels[of_row != fold])) == 3
            assert (of_row == fold).any()


def test_copies_do_not_make_a_class_larger() -> None:
    """A class of nine examples in two groups gives two folds, however many copies there are."""
    labels = np.array([0] * 9 + [1] * 9)
    groups = ["a"] * 8 + ["b"] + [str(position) for position in range(9)]
    assert Folds.drawn(labels, groups, 2, seed=0).folds == 2


def test_the_seed_draws_the_folds() -> None:
    """The same seed draws the same folds, another others, and no two repeats are alike."""
    labels, groups = singles((20, 20))
    first, again, other = (Folds.drawn(labels, groups, 2, seed).of_row for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({tuple(of_row.tolist()) for of_row in first}) == REPEATS


@pytest.mark.parametrize(("num_folds", "num_repeats"), [(2, 1), (7, 3), (15, 20), (0, 2), (3, 0)], ids=str)
def test_there_are_as_many_folds_and_repeats_as_asked_for(num_folds: int, num_repeats: int) -> None:
    """Neither more nor fewer, each class spread evenly, and every repeat another; 0 is what there is without asking."""
    labels, groups = singles((15, 40))
    drawn = Folds.drawn(labels, groups, 2, 0, num_folds, num_repeats)
    assert (drawn.folds, len(drawn.of_row)) == (num_folds or FOLDS, num_repeats or REPEATS)
    for of_row in drawn.of_row:
        for label, count in enumerate((15, 40)):
            sizes = np.bincount(of_row[labels == label], minlength=drawn.folds)
            assert (sizes.max(), sizes.min()) == (math.ceil(count / drawn.folds), count // drawn.folds)
    assert len({tuple(of_row.tolist()) for of_row in drawn.of_row}) == len(drawn.of_row)


def test_who_asks_for_what_is_done_anyway_gets_the_same() -> None:
    """Five folds, five times, are those of a recipe that says nothing; more repeats begin with these."""
    labels, groups = singles((20, 20))
    alone, asked, more = (Folds.drawn(labels, groups, 2, 4, *how).of_row for how in ((), (5, 5), (5, 9)))
    np.testing.assert_array_equal(alone, asked)
    np.testing.assert_array_equal(alone, more[:REPEATS])


def test_a_draw_that_does_not_count_is_drawn_again_where_a_number_is_asked_for() -> None:
    """Of groups that hold several classes some draws leave a class out: without asking there are fewer repeats then."""
    members = {"a": (1, 3, 3), "b": (0, 3), "c": (0, 2, 2, 2), "d": (1, 2, 3)}
    groups = [group for group, own in members.items() for _ in own]
    labels = np.array([label for own in members.values() for label in own])
    alone = [len(Folds.drawn(labels, groups, 4, seed).of_row) for seed in range(20)]
    asked = [len(Folds.drawn(labels, groups, 4, seed, 2, REPEATS).of_row) for seed in range(20)]
    assert min(alone) < REPEATS
    assert asked == [REPEATS] * 20


class Stopped(Exception):
    """Somebody cancelled what is under way."""


@pytest.mark.parametrize("most", [0, 7, 20 * TRIES - 1])
def test_drawing_can_be_cancelled(most: int) -> None:
    """Groups of which no draw counts are drawn many times, and each of these times whoever asked may stop it."""
    labels, groups, checked = np.array([0, 1, 1, 2, 2, 0]), ["a", "a", "b", "b", "c", "c"], 0

    def check() -> None:
        nonlocal checked
        if checked == most:
            raise Stopped
        checked += 1

    with pytest.raises(Stopped):
        Folds.drawn(labels, groups, 3, 0, 2, 20, check)
    assert checked == most


def test_temperatures_of_many_repeats_can_be_cancelled_and_ask_five() -> None:
    """There is a step after each fold's temperature; answers of a sixth repeat change none but their own."""
    labels, groups = singles((20, 20))
    dealt = Folds.drawn(labels, groups, 2, 0, 3, 7)
    answers, steps = dealt.out_of_fold(gaussian(labels, 0.3, 3), labels, 2, fitted, ignore), list[int]()
    found = cross_fitted(answers, labels, dealt, lambda: steps.append(1), smoothed=False).logits
    assert len(steps) == dealt.num_fits == 21
    other = answers.logits.copy()
    other[REPEATS] *= 9
    again = cross_fitted(dealt.answered(other), labels, dealt, ignore, smoothed=False).logits
    np.testing.assert_array_equal(np.delete(again, REPEATS, 0), np.delete(found, REPEATS, 0))

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        cross_fitted(answers, labels, dealt, stop, smoothed=False)


def test_few_repeats_that_were_asked_for_are_worth_no_more() -> None:
    """What fewer examples would have had of repeats is not counted to who asked for one; the answers of any choice and
    temperature know that.
    """
    labels, groups = singles((160, 160))
    assert len(Folds.drawn(labels, groups, 2, 0).of_row) == 1
    worth = []
    for num_repeats in (0, 1, 10):
        dealt = Folds.drawn(labels, groups, 2, 0, 0, num_repeats)
        answers = dealt.out_of_fold(gaussian(labels, 0.3, 3), labels, 2, fitted, ignore)
        worth.append(cross_fitted(answers, labels, dealt, ignore, smoothed=False).worth(320))
    assert worth[1:] == [effective(320, 5, 1), effective(320, 5, 10)]
    assert worth[0] == effective(300, 5, 2) > worth[1]


def test_many_examples_are_repeated_less() -> None:
    """The more examples, the fewer repeats, down to one."""
    repeats = [len(Folds.drawn(*singles((count,) * 2), 2, 0).of_row) for count in (50, 100, 500)]
    assert repeats[0] == REPEATS
    assert repeats[-1] == 1
    assert repeats == sorted(repeats, reverse=True)


def test_no_row_is_answered_by_a_head_that_saw_it() -> None:
    """Every head gets the other folds alone, every row one answer per repeat, and every fit is counted."""
    labels, groups = singles((12, 10))
    rows = np.arange(len(labels), dtype=np.float32)[:, None] + np.zeros((1, 3), np.float32)
    seen: list[set[int]] = []
    steps: list[int] = []

    def remember(rows: Floats, labels: Labels) -> LinearHead:
        assert len(rows) == len(labels)
        seen.append({int(row[0]) for row in rows})
        # A head whose logits name the fit they come from.
        return LinearHead(
            Head.NORMALIZATION_NONE,
            np.zeros((2, 3), np.float32),
            np.full(2, len(seen), np.float32),
            np.zeros(3, np.float32),
        )

    folds = Folds.drawn(labels, groups, 2, seed=0)
    found = folds.out_of_fold(rows, labels, 2, remember, lambda: steps.append(len(seen)))
    assert found.logits.shape == (REPEATS, len(labels), 2)
    for repeat in found.logits[:, :, 0]:
        assert all(row not in seen[int(number) - 1] for row, number in enumerate(repeat))
    assert Counter(map(len, seen))[len(labels)] == 0
    assert steps == list(range(1, folds.num_fits + 1))
    np.testing.assert_allclose(found.probabilities, 0.5)


def test_figures_out_of_fold_are_the_same_to_the_last_digit() -> None:
    """The same rows, groups and seed give the same figures, bit for bit; another seed others."""
    labels, groups = singles((15, 15))
    rows = gaussian(labels, 0.25, seed=2)
    made = [
        cross_validated(labels, Folds.drawn(labels, groups, 2, seed).out_of_fold(rows, labels, 2, fitted, ignore))
        for seed in (0, 0, 1)
    ]
    assert made[0].SerializeToString(deterministic=True) == made[1].SerializeToString(deterministic=True)
    assert made[0].log_loss != made[2].log_loss


def test_what_is_learnt_by_heart_does_not_count() -> None:
    """Features without any meaning are told apart perfectly in training and half of the time out of fold."""
    labels, groups = singles((40, 40))
    rows = gaussian(labels, 0.0, seed=3, width=400)
    assert scores(labels, fitted(rows, labels).probabilities(rows))["val/accuracy"] == 1.0
    found = cross_validated(labels, Folds.drawn(labels, groups, 2, 0).out_of_fold(rows, labels, 2, fitted, ignore))
    assert 0.3 < found.accuracy < 0.7
    assert (found.folds, found.repeats, found.num_examples) == (5, 5, 80)


def test_wilson_is_the_score_interval() -> None:
    """Its ends are where the share differs from the truth by 1.96 deviations of the truth, and never leave [0, 1]."""
    for share, count in ((0.5, 10), (0.97, 100), (0.2, 1)):
        interval = wilson(share, count)
        for end in (interval.low, interval.high):
            assert abs(share - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / count))
    assert wilson(1.0, 30).high == 1.0
    assert wilson(1.0, 30).low == pytest.approx(0.8865, abs=1e-4)
    assert wilson(0.0, 30).low == 0.0
    assert (wilson(0.0, 0).low, wilson(0.0, 0).high) == (0.0, 1.0)


def test_the_corrected_interval_lies_a_little_higher() -> None:
    """An out-of-fold share has fewer errors the more was learnt; who knows nothing learns nothing from more data."""
    plain, corrected = wilson(0.9, 40), corrected_wilson(0.9, 40, 0.5, 5)
    assert ends(corrected) == ends(wilson(1 - (1 - 0.15 * 0.8) * 0.1, 40))
    assert corrected.high > plain.high
    for share, chance in ((0.5, 0.5), (0.3, 0.5), (1.0, 1.0)):
        assert ends(corrected_wilson(share, 40, chance, 5)) == ends(wilson(share, 40))
    twice = corrected_wilson(0.5, 40, 0.5, 5, 2.0)
    assert twice.high - twice.low == pytest.approx(2 * (wilson(0.5, 40).high - wilson(0.5, 40).low))


def test_fewer_folds_are_corrected_by_more() -> None:
    """Heads of two folds know half of what the published one does, those of fifty nearly all; five are as measured."""
    assert excess(5) == EXCESS == 0.15
    assert [excess(folds) for folds in (2, 3, 10, 50)] == pytest.approx([0.396, 0.256, 0.074, 0.015], abs=5e-4)
    labels = np.arange(60) % 2
    given = np.where(np.arange(60) < 50, labels, 1 - labels)
    for folds in (2, 5, 10):
        found = cross_validated(labels, OutOfFold(folds, np.eye(2, dtype=np.float32)[given][None], 1))
        expected = corrected_wilson(50 / 60, effective(60, folds, 1), 0.5, folds)
        assert ends(found.accuracy_interval) == ends(expected)


@pytest.mark.parametrize("repeats", [1, 5])
def test_folds_are_worth_what_their_variance_says(repeats: int) -> None:
    """Nadeau and Bengio's factor on the variance of one test set, whose errors are independent: the share of so many
    effective examples has just that variance.
    """
    groups, folds, p = 60, 5, 0.9
    of_one_fold = p * (1 - p) / (groups / folds)
    of_the_mean = (1 / (folds * repeats) + (1 / folds) / (1 - 1 / folds)) * of_one_fold
    assert p * (1 - p) / effective(groups, folds, repeats) == pytest.approx(of_the_mean)
    assert effective(groups, 2, repeats) < effective(groups, folds, repeats) < groups


def test_unequal_groups_are_worth_fewer() -> None:
    """Groups that fail as wholes are worth what Kish's formula says: as many as they are where all are as large, hardly
    more than two where one holds most; the share of so many independent examples has the variance of theirs.
    """
    assert independent(np.repeat(np.arange(30), 7).tolist()) == 30
    assert independent([]) == 0
    sizes = np.array([40, *[1] * 29])
    assert independent(np.repeat(np.arange(30), sizes).tolist()) == pytest.approx(69**2 / (40**2 + 29))
    right = np.random.default_rng(0).random((20_000, 30)) < 0.8
    variance = float((right @ sizes / sizes.sum()).var())
    assert variance == pytest.approx(0.8 * 0.2 / independent(np.repeat(np.arange(30), sizes).tolist()), rel=0.05)


def test_more_examples_are_never_worth_less() -> None:
    """Where more examples leave time for fewer repeats, they still say no less than fewer did; in groups as well."""
    for share in (1.0, 0.2):
        answers = (OutOfFold(5, np.zeros((repeats_of(n), n, 1), np.float32)) for n in range(10, 2001))
        worth = [one.worth(share * one.logits.shape[1]) for one in answers]
        assert np.diff(worth).min() > -1e-9
        assert worth[0] == effective(share * 10, 5, 5)
        assert worth[-1] == effective(share * 2000, 5, 1)


def test_what_a_group_has_is_worth_one_example() -> None:
    """Twenty recordings of five pieces each say of new recordings what twenty examples would."""
    labels, _ = singles((50, 50))
    answers = Folds.drawn(labels, singles((50, 50))[1], 2, 0).out_of_fold(
        gaussian(labels, 0.3, 3), labels, 2, fitted, ignore
    )
    alone, grouped = cross_validated(labels, answers), cross_validated(labels, answers, groups=np.arange(100) // 5)
    assert grouped.accuracy == alone.accuracy
    assert ends(grouped.accuracy_interval) == ends(corrected_wilson(alone.accuracy, effective(20, 5, 5), 0.5, 5))


def test_every_class_is_left_to_fit_on_where_groups_hold_several() -> None:
    """A draw that puts all groups of a class into one fold does not count; where none is left there are no folds."""
    groups = ["g1", "g1", "g2", "g2", *["g4"] * 10, "g5"]
    labels = np.array([0, 1, 2, 1, *[0] * 10, 2])
    for seed in range(20):
        drawn = Folds.drawn(labels, groups, 3, seed)
        for of_row in drawn.of_row:
            assert all(set(labels[of_row != fold]) == {0, 1, 2} for fold in range(drawn.folds))
        assert drawn.folds == (2 if len(drawn.of_row) else 1)
    inseparable = Folds.drawn(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"], 2, 0)
    assert (inseparable.folds, len(inseparable.of_row) > 0) == (2, True)
