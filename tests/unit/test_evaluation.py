"""Figures of answers, against small cases worked out by hand."""

import numpy as np
import pytest

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import EpochMetrics, Evaluation, Interval, Metric
from services.trainer.intervals import wilson
from services.trainer.worker.cross_validation import OutOfFold
from services.trainer.worker.evaluation import (
    Labels,
    calibration_error,
    cross_validated,
    evaluate,
    scores,
    wrong_answers,
)
from services.trainer.worker.examples import Example

NAMES = ("bee", "cat", "dog")
# Two bees, one taken for a cat; one cat, found; two dogs, one taken for a cat.
LABELS = np.array([0, 0, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]], dtype=np.float32
)
NOTHING: tuple[Labels, Floats] = (np.zeros(0, np.int64), np.zeros((0, 3), np.float32))


def row(width: int, *, first: int, rising: bool = False) -> list[float]:
    """Probabilities whose best class is `first`; the others fall, or rise, in the order of the classes."""
    others = np.linspace(1, 2, width) if rising else np.linspace(2, 1, width)
    others[first] = 5
    return [float(one) for one in others / others.sum()]


def test_scores_are_those_worked_out_by_hand() -> None:
    """Loss, accuracy and the weighted means are what pencil and paper give; equal probabilities go to the first."""
    found = scores(LABELS, PROBABILITIES)
    # Answers: bee cat cat cat dog. Precision 1, 1/3, 1; recall 1/2, 1, 1/2; F1 2/3, 1/2, 2/3; weights 2, 1, 2.
    assert found == pytest.approx(
        {
            "val/loss": -np.log([0.7, 0.3, 0.8, 0.5, 0.8]).mean(),
            "val/accuracy": 3 / 5,
            "val/top5_accuracy": 1.0,
            "val/precision_weighted": (2 * 1 + 1 / 3 + 2 * 1) / 5,
            "val/recall_weighted": (2 * 0.5 + 1 + 2 * 0.5) / 5,
            "val/f1_weighted": (2 * 2 / 3 + 1 / 2 + 2 * 2 / 3) / 5,
            "val/precision_macro": (1 + 1 / 3 + 1) / 3,
            "val/recall_macro": (1 / 2 + 1 + 1 / 2) / 3,
            "val/f1_macro": (2 / 3 + 1 / 2 + 2 / 3) / 3,
            # One bin: 3 of 5 right, with a mean probability of (.7 + .6 + .8 + .5 + .8) / 5.
            "val/ece": 0.68 - 0.6,
        },
        rel=1e-6,
    )


@pytest.mark.parametrize(
    ("labels", "rising", "expected"),
    [
        ([0, 1, 2, 3, 4, 5, 6], False, 5 / 7),  # 0 is the best, 1 to 4 come next
        ([0, 1, 2, 3, 4, 5, 6], True, 5 / 7),  # 0 is the best, 6 to 3 come next
        ([5, 6], False, 0.0),
        ([5, 6], True, 1.0),
        ([4], False, 1.0),
        ([2], True, 0.0),
    ],
)
def test_top5_counts_the_five_most_probable(labels: list[int], rising: bool, expected: float) -> None:  # noqa: FBT001
    """An example counts where its class is among the five most probable of seven."""
    probabilities = np.array([row(7, first=0, rising=rising)] * len(labels), np.float32)
    assert scores(np.array(labels), probabilities)["val/top5_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_top5_of_up_to_five_classes_is_one(num_classes: int) -> None:
    """With five classes or fewer every example's class is among the best five."""
    labels = np.arange(num_classes)
    probabilities = np.array([row(num_classes, first=0)] * num_classes, np.float32)
    assert scores(labels, probabilities)["val/top5_accuracy"] == 1.0


def test_a_class_that_was_given_no_chance_has_a_finite_loss() -> None:
    """A probability of zero for the right class is a large loss and still a number."""
    found = scores(np.array([0]), np.array([[0.0, 1.0]], np.float32))
    assert found["val/loss"] == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert all(np.isfinite(value) for value in found.values())


def test_answers_that_are_sure_and_right_have_no_loss() -> None:
    """The loss is 0 then, and no -0, which people would read as a loss below it."""
    assert str(scores(np.array([1]), np.array([[0.0, 1.0]], np.float32))["val/loss"]) == "0.0"


def test_calibration_is_measured_in_bins_of_ten_examples() -> None:
    """Of 20 examples there are two bins, of 1,500 there are 15; too sure in one does not make up for too unsure in
    another.
    """
    # Ten answers at .9 of which none is right; ten at .4 (of three classes) which all are.
    probabilities = np.array([[0.9, 0.05, 0.05]] * 10 + [[0.4, 0.3, 0.3]] * 10, np.float32)
    labels = np.array([1] * 10 + [0] * 10)
    assert calibration_error(labels, probabilities) == pytest.approx((10 * 0.9 + 10 * 0.6) / 20)
    # 15 levels of confidence, one per bin, each right as often as it says, but for one that is always wrong.
    levels = np.repeat((np.arange(15) + 0.5) / 15, 100)
    many = np.stack([levels, 1 - levels], axis=1).astype(np.float32)
    right = np.concatenate([np.arange(100) < round(100 * max(one, 1 - one)) for one in levels[::100]])
    answers = many.argmax(axis=1)
    assert calibration_error(np.where(right, answers, 1 - answers), many) < 0.01
    right[:100] = False
    assert calibration_error(np.where(right, answers, 1 - answers), many) > 0.05


def test_macro_means_leave_out_classes_without_examples() -> None:
    """A class that nothing was measured on counts neither for nor against."""
    found = scores(np.array([0, 0, 1]), np.eye(3, dtype=np.float32)[[0, 2, 1]])
    assert found["val/recall_macro"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["val/precision_macro"] == pytest.approx(1.0)


def test_an_evaluation_has_intervals() -> None:
    """The accuracy and each class's recall have Wilson's interval for their examples, or what groups are worth."""
    evaluation = evaluate(NAMES, LABELS, PROBABILITIES, [])
    assert evaluation.accuracy_interval == wilson(3 / 5, 5)
    assert [one.recall_interval for one in evaluation.classes] == [wilson(1 / 2, 2), wilson(1, 1), wilson(1 / 2, 2)]
    grouped = evaluate(NAMES, LABELS, PROBABILITIES, [], groups=["a", "b", "b", "c", "c"])
    assert grouped.accuracy_interval == wilson(3 / 5, 25 / 9)
    assert [one.recall_interval for one in grouped.classes] == [wilson(1 / 2, 2), wilson(1, 1), wilson(1 / 2, 1)]
    nothing = evaluate(NAMES, *NOTHING, [])
    assert not nothing.HasField("accuracy_interval")
    assert [one.recall_interval for one in nothing.classes] == [Interval(low=0, high=1)] * 3


def test_figures_out_of_fold_stand_beside_those_of_validation() -> None:
    """An evaluation with a cross-validation has its figures by their well-known names too."""
    found = cross_validated(LABELS, OutOfFold(2, np.log(PROBABILITIES + 1e-9)[None]))
    evaluation = evaluate(NAMES, *NOTHING, [], found)
    assert evaluation.cross_validation == found
    expected = scores(LABELS, PROBABILITIES, "cv")
    assert {one.name: one.value for one in evaluation.metrics} == pytest.approx(expected, rel=1e-5)


def test_without_examples_there_are_no_scores() -> None:
    """Nothing was measured where there is nothing to measure on."""
    assert scores(*NOTHING) == {}


def test_an_evaluation_has_every_class_and_every_count() -> None:
    """Figures per class and the confusion matrix stand in the order of the labels; the history is handed through."""
    history = [EpochMetrics(epoch=1, metrics=[Metric(name="val/loss", value=0.5)])]
    evaluation = evaluate(NAMES, LABELS, PROBABILITIES, history)
    assert [one.label for one in evaluation.classes] == list(NAMES)
    assert [one.num_examples for one in evaluation.classes] == [2, 1, 2]
    assert [one.precision for one in evaluation.classes] == pytest.approx([1, 1 / 3, 1])
    assert [one.recall for one in evaluation.classes] == pytest.approx([1 / 2, 1, 1 / 2])
    assert [one.f1 for one in evaluation.classes] == pytest.approx([2 / 3, 1 / 2, 2 / 3])
    assert [list(one.counts) for one in evaluation.confusion_matrix] == [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert list(evaluation.history) == history
    assert {one.name: one.value for one in evaluation.metrics} == scores(LABELS, PROBABILITIES)


@pytest.mark.parametrize(
    ("labels", "answers", "precision", "recall", "counts"),
    [
        # No dog among the examples, and none among the answers.
        ([0, 1, 1], [0, 1, 0], [1 / 2, 1, 0], [1, 1 / 2, 0], [[1, 0, 0], [1, 1, 0], [0, 0, 0]]),
        # No dog among the examples, yet one among the answers.
        ([0, 1, 1], [0, 1, 2], [1, 1, 0], [1, 1 / 2, 0], [[1, 0, 0], [0, 1, 1], [0, 0, 0]]),
        # Dogs alone, all found.
        ([2, 2], [2, 2], [0, 0, 1], [0, 0, 1], [[0, 0, 0], [0, 0, 0], [0, 0, 2]]),
        # A dog that nobody was taken for.
        ([2, 0], [0, 0], [1 / 2, 0, 0], [1, 0, 0], [[1, 0, 0], [0, 0, 0], [1, 0, 0]]),
    ],
)
def test_a_class_without_examples_has_zeros(
    labels: list[int], answers: list[int], precision: list[float], recall: list[float], counts: list[list[int]]
) -> None:
    """A class without examples, or without answers, has zeros where a share would be 0/0, and no warning is given."""
    probabilities = np.eye(3, dtype=np.float32)[answers]
    evaluation = evaluate(NAMES, np.array(labels), probabilities, [])
    assert [one.precision for one in evaluation.classes] == pytest.approx(precision)
    assert [one.recall for one in evaluation.classes] == pytest.approx(recall)
    assert [list(one.counts) for one in evaluation.confusion_matrix] == counts
    weighted = sum(p * sum(row) for p, row in zip(precision, counts, strict=True)) / len(labels)
    assert {one.name: one.value for one in evaluation.metrics}["val/precision_weighted"] == pytest.approx(weighted)


def test_the_weighted_figures_are_those_of_the_classes() -> None:
    """The run's figures are the classes' figures weighted by their examples, and weighted recall is accuracy."""
    random = np.random.default_rng(5)
    labels, probabilities = random.integers(0, 4, 50), random.dirichlet(np.ones(4), 50).astype(np.float32)
    evaluation = evaluate(("a", "b", "c", "d"), labels, probabilities, [])
    found = {one.name: one.value for one in evaluation.metrics}
    for name in ("precision", "recall", "f1"):
        mean = sum(getattr(one, name) * one.num_examples for one in evaluation.classes) / 50
        assert found[f"val/{name}_weighted"] == pytest.approx(mean)
    assert found["val/recall_weighted"] == pytest.approx(found["val/accuracy"])
    matrix = np.array([one.counts for one in evaluation.confusion_matrix])
    assert np.trace(matrix) / matrix.sum() == pytest.approx(found["val/accuracy"])


def test_a_model_without_validation_examples_has_an_evaluation() -> None:
    """Without validation examples every class is named, with zeros, and there are no figures."""
    evaluation = evaluate(NAMES, *NOTHING, [])
    assert not evaluation.metrics
    assert [(one.label, one.num_examples, one.recall) for one in evaluation.classes] == [(name, 0, 0) for name in NAMES]
    assert [list(one.counts) for one in evaluation.confusion_matrix] == [[0, 0, 0]] * 3
    assert Evaluation.FromString(evaluation.SerializeToString()) == evaluation


def test_wrong_answers_are_kept_with_the_surest_first() -> None:
    """Every example that was answered wrongly is named with both classes, and there are never more than fifty."""
    examples = [Example(f"{place:064x}", int(label), str(place)) for place, label in enumerate(LABELS)]
    found = wrong_answers(NAMES, examples, PROBABILITIES)
    answers = PROBABILITIES.argmax(axis=1)
    wrong = {place for place in range(len(LABELS)) if answers[place] != LABELS[place]}
    assert {int(one.content_sha256, 16) for one in found} == wrong
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)
    for one in found:
        place = int(one.content_sha256, 16)
        assert (one.label, one.answer) == (NAMES[LABELS[place]], NAMES[answers[place]])
    many = np.tile(PROBABILITIES, (40, 1))
    assert len(wrong_answers(NAMES, examples * 40, many)) == 50
    assert wrong_answers(NAMES, [], many[:0]) == []
