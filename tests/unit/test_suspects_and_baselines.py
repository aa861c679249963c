"""What stands beside an accuracy: labels to look at, and what knowing next to nothing is worth."""

import io

import numpy as np
import pytest
from PIL import Image

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import MODALITY_IMAGE, Baseline
from services.trainer.intervals import corrected_wilson, wilson
from services.trainer.worker import baselines, colours, suspects
from services.trainer.worker.cross_validation import Folds, Labels, OutOfFold
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.spans import Span

NAMES = ("cat", "dog", "emu")


def examples(labels: Labels) -> Examples:
    train = tuple(Example(f"{place:064x}", int(label), f"{place:05}") for place, label in enumerate(labels))
    return Examples("default", MODALITY_IMAGE, NAMES, train, ())


def answers(labels: Labels, wrong: int) -> OutOfFold:
    """Right about all but the last so many."""
    given = labels.copy()
    given[len(labels) - wrong :] = (given[len(labels) - wrong :] + 1) % 3
    return OutOfFold(5, np.eye(3, dtype=np.float32)[given][None])


def test_wrong_labels_are_suspected() -> None:
    """Of 90 examples with 6 wrong labels these are believed least, are listed first, and with the right label."""
    random = np.random.default_rng(1)
    true = np.arange(90) % 3
    rows = (np.random.default_rng(2).normal(0, 0.6, (3, 200))[true] + random.normal(0, 1, (90, 200))).astype(np.float32)
    wrong = random.permutation(90)[:6]
    given = true.copy()
    given[wrong] = (given[wrong] + 1) % 3
    data = examples(given)
    folds = Folds.drawn(given, [one.group for one in data.train], 3, 0)
    found = suspects.listed(data, suspects.believed(Span.of(rows), given, 3, folds, lambda: None))
    first = found[:6]
    assert {one.content_sha256 for one in first} == {data.train[place].content_sha256 for place in wrong}
    places = [int(one.content_sha256, 16) for one in first]
    assert [(one.label, one.suggested_label) for one in first] == [(NAMES[given[p]], NAMES[true[p]]) for p in places]
    assert [one.probability for one in found] == sorted(one.probability for one in found)
    assert all(one.probability < suspects.PROBABILITY < one.suggested_probability for one in found)


@pytest.mark.parametrize(("num", "listed"), [(20, 5), (60, 9), (600, 50)])
def test_the_list_is_short(num: int, listed: int) -> None:
    """Even if no label is believed, at most 15 of 100 are listed, five where there are few, and never more than 50."""
    labels = np.arange(num) % 3
    assert len(suspects.listed(examples(labels), np.eye(3, dtype=np.float32)[(labels + 1) % 3])) == listed
    assert suspects.listed(examples(labels), np.eye(3, dtype=np.float32)[labels]) == []


def test_a_label_that_is_the_best_guess_is_not_suspected() -> None:
    """However improbable it is, as all are of many classes: nobody is told that a cat looks like a cat."""
    labels = np.zeros(30, dtype=np.int64)
    assert suspects.listed(examples(labels), np.tile(np.array([0.19, 0.18, 0.17], dtype=np.float32), (30, 1))) == []


def test_the_majority_is_what_the_most_common_class_gives() -> None:
    """Always answering the most common class is right as often as it is there."""
    labels = np.array([0] * 10 + [1] * 25 + [2] * 5)
    found = baselines.message(Baseline.KIND_MAJORITY_CLASS, labels, baselines.majority(labels), 30.0, 5)
    assert found.accuracy == pytest.approx(25 / 40)
    assert found.accuracy_interval == corrected_wilson(25 / 40, 30, 25 / 40, 5)


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_what_colours_tell_is_of_as_many_folds(folds: int) -> None:
    """Their head too was fitted on half of the examples where there are two folds, and would be better on all."""
    labels = np.arange(40) % 2
    right = (np.arange(40) < 30).astype(np.float32)
    found = baselines.message(Baseline.KIND_COLOUR_AND_SIZE, labels, right, 30.0, folds)
    assert found.accuracy_interval == corrected_wilson(0.75, 30.0, 0.5, folds)
    assert found.accuracy_interval.low > wilson(0.75, 30.0).low


@pytest.mark.parametrize(
    ("wrong", "coloured", "reason"),
    [
        (4, 0.4, None),
        (4, 0.9, "COLOURS_TELL_CLASSES_APART"),
        (40, 0.4, "HARDLY_BETTER_THAN_MAJORITY"),
        (36, 0.9, "HARDLY_BETTER_THAN_MAJORITY"),
    ],
)
def test_a_model_that_is_worth_little_is_said_to_be(wrong: int, coloured: float, reason: str | None) -> None:
    """There is a plain sentence where the model does not clearly beat the majority, or colours and sizes alone."""
    labels = np.arange(60) % 3
    right = (np.random.default_rng(0).permutation(60) < coloured * 60).astype(np.float32)
    found = baselines.warning(NAMES, labels, np.arange(60), answers(labels, wrong), right)
    assert (found.reason if found else None) == reason
    if found:
        assert f"{1 - wrong / 60:.0%}" in found.message


def test_copies_make_no_difference_clearer() -> None:
    """What examples of one group have in common counts once."""
    labels = np.arange(60) % 3
    alike = np.arange(60) // 20
    assert baselines.warning(NAMES, labels, np.arange(60), answers(labels, 0), np.zeros(60, np.float32)) is None
    assert baselines.warning(NAMES, labels, alike, answers(labels, 0), np.zeros(60, np.float32)) is not None


def encoded(size: tuple[int, int], colour: tuple[int, int, int], kind: str = "PNG", noise: int = 0) -> bytes:
    random = np.random.default_rng(noise)
    pixels = np.clip(np.array(colour) + random.normal(0, 20 if noise else 0, (size[1], size[0], 3)), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_colours_and_sizes_are_measured() -> None:
    """The numbers are those of the picture as it is stored, whatever its shape, and finite down to a single pixel."""
    plain = colours.measure(encoded((200, 100), (255, 0, 51)))
    assert plain.shape == (23,)
    np.testing.assert_allclose(np.exp(plain[:4]), [200, 100, 2, 20_000], rtol=1e-5)
    np.testing.assert_allclose(plain[5:11], [1, 0, 0.2, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(plain[20:], [1, 0, 0.2], atol=1e-5)
    large = colours.measure(encoded((1600, 1200), (255, 0, 51), "JPEG"))
    np.testing.assert_allclose(np.exp(large[:2]), [1600, 1200], rtol=1e-5)
    for size in ((1, 1), (1, 900), (2, 3)):
        assert np.isfinite(colours.measure(encoded(size, (9, 9, 9)))).all()


@pytest.mark.parametrize("differs", ["colour", "size", "nothing"])
def test_a_leak_is_seen(differs: str) -> None:
    """Classes of other colours or other sizes are told apart by them alone; classes that are alike are not."""
    labels = np.arange(40) % 2
    rows = np.stack(
        [
            colours.measure(
                encoded(
                    (90 if label and differs == "size" else 80, 60),
                    (140 if label and differs == "colour" else 120, 100, 100),
                    noise=place + 1,
                )
            )
            for place, label in enumerate(labels)
        ]
    )
    folds = Folds.drawn(labels, [f"{place:03}" for place in range(40)], 2, 0)

    def fit(some: Floats, of: Labels) -> LinearHead:
        return colours.fit(some, of, 2)

    found = folds.out_of_fold(rows, labels, 2, fit, lambda: None).right(labels).mean()
    assert found > 0.95 if differs != "nothing" else found < 0.75
