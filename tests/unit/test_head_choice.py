"""Heads beside logistic regression: LDA is scikit-learn's, temperatures calibrate, LDA is taken where it is better."""

from functools import partial

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from handful.bundle.heads import Floats, LinearHead, normalize, softmax
from handful.v1.bundle_pb2 import HEAD_KIND_LDA, HEAD_KIND_LOGISTIC_REGRESSION, Head, HeadKind, Recipe
from services.trainer.recipes import resolve
from services.trainer.worker import discriminant, logistic_regression
from services.trainer.worker.calibration import cross_fitted, temperature, tempered
from services.trainer.worker.cross_validation import Folds, Labels, OutOfFold, better
from services.trainer.worker.evaluation import calibration_error
from services.trainer.worker.head_choice import Candidate, best, best_architecture, honest, kinds, num_steps, try_all
from services.trainer.worker.spans import Span


def drawn(counts: tuple[int, ...], width: int, seed: int = 0, spread: float = 0.6) -> tuple[Floats, Labels]:
    """Features of overlapping classes, so many of each, far from the origin."""
    centres = np.random.default_rng(99).normal(0, spread, (len(counts), width))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    return (3 + centres[labels] + random.normal(0, 1, (len(labels), width))).astype(np.float32), labels


def singles(labels: Labels) -> list[str]:
    return [f"{place:05}" for place in range(len(labels))]


@pytest.mark.parametrize("width", [20, 400])
@pytest.mark.parametrize("counts", [(15, 15), (12, 12, 12), (30, 8, 4)], ids=str)
@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_lda_is_that_of_scikit_learn(counts: tuple[int, ...], width: int, shrinkage: float) -> None:
    """On seen and unseen rows its logits differ as scikit-learn's do, with more rows than features and with fewer."""
    rows, labels = drawn(counts, width)
    span = Span.of(rows)
    head = span.back(discriminant.fit_rows(span, span.rows, labels, len(counts), shrinkage))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    theirs.fit(normalize(rows, head.mean, Head.NORMALIZATION_CENTER_L2).astype(np.float64), labels)
    # Theirs takes common classes for more probable; of two classes it has the difference alone.
    prior = np.log(np.array(counts) / sum(counts))
    for some in (rows, drawn(counts, width, seed=1)[0]):
        prepared = normalize(some, head.mean, Head.NORMALIZATION_CENTER_L2).astype(np.float64)
        expected, ours = theirs.decision_function(prepared), head.logits(some).astype(np.float64)
        expected = np.stack([0 * expected, expected], axis=1) if len(counts) == 2 else expected - prior
        np.testing.assert_allclose(ours - ours[:, :1], expected - expected[:, :1], atol=1e-4 * np.abs(ours).max())


def test_a_span_keeps_what_heads_see() -> None:
    """Fitted in the span or on the features themselves, and before it has converged, a head answers the same."""
    rows, labels = drawn((20, 10, 15), 400)
    span, features = Span.of(rows), Span(rows, rows.mean(axis=0), None, 400)
    assert span.rows.shape == (45, 45)
    others, _ = drawn((30, 30, 30), 400, seed=1)
    for passes in (1, 5):
        short, long = (logistic_regression.fit_rows(one, one.rows, labels, 3, 1.0, passes) for one in (span, features))
        np.testing.assert_allclose(span.back(short).logits(others), long.logits(others), atol=2e-4)
    short, long = (discriminant.fit_rows(one, one.rows, labels, 3, 0.3) for one in (span, features))
    np.testing.assert_allclose(span.back(short).logits(others), long.logits(others), rtol=1e-3, atol=1e-2)


def test_answers_out_of_fold_are_the_same_in_the_span() -> None:
    """Every fold answered in the coordinates of all rows is answered as on the features themselves."""
    rows, labels = drawn((25, 25), 400, spread=0.08)
    folds = Folds.drawn(labels, singles(labels), 2, 0)
    found = []
    for span in (Span.of(rows), Span(rows, rows.mean(axis=0), None, 400)):

        def fit(some: Floats, of: Labels, span: Span = span) -> LinearHead:
            return logistic_regression.fit_rows(span, some, of, 2, 1.0, 200)

        found.append(folds.out_of_fold(span.rows, labels, 2, fit, lambda: None))
    np.testing.assert_array_equal(found[0].right(labels), found[1].right(labels))
    # As near as the solver comes to the optimum.
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, atol=5e-3)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("smoothed", [False, True])
def test_the_temperature_is_found(true: float, *, smoothed: bool) -> None:
    """Of many answers that are so many times too sure it is that factor, and divided by it they are calibrated."""
    random = np.random.default_rng(3)
    logits = random.normal(0, 2, (20_000, 4))
    labels = (softmax(logits.astype(np.float32)).cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    found = temperature((logits * true).astype(np.float32)[None], labels, smoothed=smoothed)
    assert found == pytest.approx(true, rel=0.04)
    assert calibration_error(labels, softmax((logits * true / found).astype(np.float32))) < 0.02


def test_no_error_does_not_mean_certainty() -> None:
    """Where every answer is right the prior holds the temperature near 1, and smoothing raises it for sure ones."""
    labels = np.arange(40) % 2
    logits = (np.eye(2)[labels] * 4).astype(np.float32)[None]
    assert 0.6 < temperature(logits, labels, smoothed=False) < 1.0
    assert temperature(logits * 25, labels, smoothed=True) > 5 * temperature(logits * 25, labels, smoothed=False)


def test_a_tempered_head_answers_the_same_less_surely() -> None:
    """Weights and bias are divided, so that whatever serves the head needs to know nothing of a temperature."""
    rows, labels = drawn((10, 10), 30)
    head = logistic_regression.fit(rows, labels, 2, 1.0, 100, lambda _: None)
    np.testing.assert_allclose(tempered(head, 4.0).logits(rows), head.logits(rows) / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tempered(head, 1.0).weight, head.weight)


@pytest.mark.parametrize(
    ("differences", "taken"),
    [
        ([0] * 50, False),
        ([1] + [0] * 49, False),
        ([0.2] * 3 + [0] * 40, False),
        ([1, 1] + [0] * 40, True),
        ([1] * 6 + [-1] * 3 + [0] * 90, False),
        ([1] * 9 + [-1] * 3 + [0] * 90, True),
        ([-1] * 9, False),
    ],
    ids=str,
)
def test_better_means_by_more_than_chance(differences: list[float], *, taken: bool) -> None:
    """The sum of the differences exceeds its standard error, to which one more difference is added."""
    assert better(np.array(differences, dtype=np.float32), np.arange(len(differences))) is taken


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Recipe(), (HEAD_KIND_LOGISTIC_REGRESSION, HEAD_KIND_LDA)),
        (Recipe(head=HEAD_KIND_LDA), (HEAD_KIND_LDA,)),
        (Recipe(head=HEAD_KIND_LOGISTIC_REGRESSION), (HEAD_KIND_LOGISTIC_REGRESSION,)),
    ],
    ids=str,
)
def test_the_recipe_says_what_is_tried(asked: Recipe, expected: "tuple[HeadKind.ValueType, ...]") -> None:
    """AUTO tries both, a kind by its name that one; a run queued before there was a choice gets what it asked for."""
    assert kinds(resolve(asked, "efficientnet_lite0")) == expected
    assert kinds(Recipe(preset="fast", regularization_c=1.0)) == (HEAD_KIND_LOGISTIC_REGRESSION,)


def test_lda_is_taken_where_it_is_clearly_better() -> None:
    """The second candidate is chosen where it is right about enough more groups, the first where it is not; examples of
    one group count as one.
    """
    labels = np.arange(60) % 2
    perfect = np.eye(2, dtype=np.float32)[labels][None]
    worse = perfect.copy()
    worse[0, :6] = worse[0, :6, ::-1]
    first, second = (
        Candidate(kind, 1.0, OutOfFold(5, logits), OutOfFold(5, logits))
        for kind, logits in ((HEAD_KIND_LOGISTIC_REGRESSION, worse), (HEAD_KIND_LDA, perfect))
    )
    assert best([first, second], labels, np.arange(60)) is second
    assert best([second, first], labels, np.arange(60)) is second
    assert best([first, second], labels, np.arange(60) // 6) is first
    assert best([first, first], labels, np.arange(60)) is first
    assert first.message(labels).accuracy == pytest.approx(0.9)


def test_what_means_nothing_is_not_answered_surely() -> None:
    """Of features without meaning both kinds are tempered to know next to nothing, and the simpler one stays."""
    labels, rows = np.arange(120) % 3, np.random.default_rng(5).normal(0, 1, (120, 30)).astype(np.float32)
    folds = Folds.drawn(labels, singles(labels), 3, 0)
    recipe = resolve(Recipe(preset="fast"), "efficientnet_lite0")
    found = try_all(recipe, Span.of(rows), labels, 3, folds, lambda: None)
    assert best(found, labels, np.arange(120)).kind == HEAD_KIND_LOGISTIC_REGRESSION
    assert all(one.message(labels).log_loss < np.log(3) + 0.1 for one in found)


def test_no_answer_is_tempered_by_what_was_fitted_on_it() -> None:
    """What the answers to a fold are divided by does not change with its labels, and does with those of the others."""
    random = np.random.default_rng(4)
    labels = np.arange(60) % 2
    folds = Folds.drawn(labels, singles(labels), 2, 0)
    answers = OutOfFold(5, (np.eye(2)[labels] * 3 + random.normal(0, 2, (5, 60, 2))).astype(np.float32))
    held_out = folds.of_row[0] == 0
    of_first, of_others = labels.copy(), labels.copy()
    of_first[held_out] = 1 - labels[held_out]
    of_others[~held_out] = 1 - labels[~held_out]
    found, same, other = (
        cross_fitted(answers, some, folds, lambda: None, smoothed=False).logits[0, held_out]
        for some in (labels, of_first, of_others)
    )
    np.testing.assert_array_equal(found, same)
    assert np.abs(found - other).max() > 0.1


def test_without_a_choice_the_answers_are_the_candidate_s() -> None:
    """Of one candidate nothing is chosen, so what it answered stands."""
    rows, labels = drawn((15, 15), 30)
    folds = Folds.drawn(labels, singles(labels), 2, 0)
    recipe = resolve(Recipe(preset="fast", head=HEAD_KIND_LDA), "efficientnet_lite0")
    found = try_all(recipe, Span.of(rows), labels, 2, folds, lambda: None)
    answers = honest([found], labels, np.arange(30), folds, lambda: None)
    np.testing.assert_array_equal(answers.logits, found[0].out_of_fold.logits)


def test_each_fold_is_answered_by_the_choice_of_the_others() -> None:
    """What is answered is what choosing anew for each fold gives, to the last digit, and it may be stopped at each."""
    random, labels = np.random.default_rng(6), np.arange(60) % 2
    folds = Folds.drawn(labels, singles(labels), 2, 0, 4, 6)

    def candidate(kind: "HeadKind.ValueType") -> Candidate:
        logits = np.eye(2)[labels] + random.normal(0, 1, (6, 60, 2))
        return Candidate(kind, 1.0, *[OutOfFold(4, logits.astype(np.float32))] * 2)

    tried = [[candidate(HEAD_KIND_LOGISTIC_REGRESSION), candidate(HEAD_KIND_LDA)] for _ in range(5)]
    groups, checks, taken = np.arange(60), list[int](), set[int]()
    found = honest(tried, labels, groups, folds, lambda: checks.append(1))
    for repeat, held_out in folds.held_out():
        others = tried[best_architecture(tried, labels, ~held_out)]
        chosen = best(others, labels, groups, ~held_out)
        taken.add(id(chosen))
        np.testing.assert_array_equal(found.logits[repeat, held_out], chosen.out_of_fold.logits[repeat, held_out])
    assert len(taken) > 1
    assert len(checks) == 10 + folds.num_fits


def test_trying_every_kind_takes_as_many_steps_as_are_said() -> None:
    """So that whoever watches sees the end of it, with as many folds and repeats as there are."""
    rows, labels = drawn((12, 12), 30)
    for asked in (Recipe(preset="fast"), Recipe(preset="fast", head=HEAD_KIND_LDA)):
        recipe, steps = resolve(asked, "efficientnet_lite0"), list[int]()
        folds = Folds.drawn(labels, singles(labels), 2, 0, 3, 2)
        try_all(recipe, Span.of(rows), labels, 2, folds, partial(steps.append, 1))
        assert len(steps) == num_steps(recipe, folds)
