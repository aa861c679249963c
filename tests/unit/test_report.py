"""The report: what is odd about the data, said so that its owner can act."""

from dataclasses import replace

import pytest

from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import MODALITY_SOUND, SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VAL
from services.dataset.records import ClassCount, ExampleRecord, split_bit
from services.dataset.report import check, count, notices

GOOD = (ClassCount("a", 20, 5), ClassCount("b", 20, 5))


def example(label: str, content: str, filename: str = "1.jpg") -> ExampleRecord:
    return ExampleRecord("id", label, SPLIT_UNSPECIFIED, filename, content, content, "image/jpeg", 1, 1, 0)


def test_counts_are_by_class_and_split() -> None:
    """Every example is counted in its class and its content's split; classes are sorted."""
    given = [example("b", "1"), example("a", "2"), example("a", "3"), example("a", "1")]
    splits = {"1": SPLIT_TRAIN, "2": SPLIT_VAL, "3": SPLIT_TRAIN}
    assert count(given, splits) == (ClassCount("a", 2, 1), ClassCount("b", 1, 0))


@pytest.mark.parametrize(
    ("classes", "reason", "said"),
    [
        ((), "TOO_FEW_CLASSES", "not 0"),
        (GOOD[:1], "TOO_FEW_CLASSES", "not 1"),
        ((*GOOD, ClassCount("tiny", 1, 0)), "TOO_FEW_EXAMPLES", "tiny"),
        ((*GOOD, *(ClassCount(f"c{n}", 1, 0) for n in range(9))), "TOO_FEW_EXAMPLES", "c0, c1, c2, c3, c4 and 4 more"),
        ((*GOOD, ClassCount("measured", 0, 9)), "NOTHING_TO_TRAIN_ON", "measured"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(classes: tuple[ClassCount, ...], reason: str, said: str) -> None:
    """Data that no classifier can be fitted on is FailedPrecondition, which names the classes."""
    with pytest.raises(FailedPrecondition) as refused:
        check(classes)
    assert refused.value.reason == reason
    assert said in refused.value.message


def test_the_least_that_can_be_learnt_from_is_taken() -> None:
    """Two classes of two examples are enough."""
    check((ClassCount("a", 1, 1), ClassCount("b", 2, 0)))


@pytest.mark.parametrize(
    ("classes", "reasons", "said"),
    [
        (GOOD, [], ""),
        ((ClassCount("a", 15, 4), ClassCount("b", 15, 4)), [], ""),
        ((*GOOD, ClassCount("few", 14, 4)), ["FEW_EXAMPLES"], "few (14)"),
        ((ClassCount("most", 100, 5), ClassCount("least", 20, 5)), ["IMBALANCE"], "most has 100"),
        ((ClassCount("most", 99, 5), ClassCount("least", 20, 5)), [], ""),
        ((*GOOD, ClassCount("unknown", 20, 0)), ["UNMEASURED_CLASSES"], "unknown"),
        ((ClassCount("a", 75, 0), ClassCount("b", 2, 2)), ["FEW_EXAMPLES", "IMBALANCE", "UNMEASURED_CLASSES"], "b (2)"),
    ],
)
def test_oddities_are_found(classes: tuple[ClassCount, ...], reasons: list[str], said: str) -> None:
    """Few examples, imbalance and unmeasured classes are each told once, with names and numbers; else nothing is."""
    found = notices([], {}, classes)
    assert [one.reason for one in found] == reasons
    assert said in " ".join(one.message for one in found)


def test_what_was_to_validate_and_trains_is_found() -> None:
    """A sound that was uploaded to validate and trains is told by name; what validates or was never to is not."""
    given = [replace(example("cat", content, f"{content}.wav"), split=SPLIT_VAL) for content in "123"]
    given += [example("dog", "4"), replace(example("dog", "5", "5.wav"), also_split=split_bit(SPLIT_VAL))]
    splits = {"1": SPLIT_VAL, "2": SPLIT_TRAIN, "3": SPLIT_VAL, "4": SPLIT_TRAIN, "5": SPLIT_TRAIN}
    (found,) = notices(given, splits, GOOD, MODALITY_SOUND)
    assert found.reason == "VALIDATION_TRAINS"
    assert "used to train only: 2 sounds (cat/2.wav, dog/5.wav)." in found.message


def test_contradictions_are_found_with_their_files() -> None:
    """A picture under several labels is told with the files to look at, and a picture under one label is not."""
    given = [example("cat", "1", "tom.jpg"), example("dog", "1", "rex.jpg"), example("dog", "2", "fido.jpg")]
    (found,) = notices(given, dict.fromkeys("12", SPLIT_TRAIN), GOOD)
    assert found.reason == "CONTRADICTING_LABELS"
    assert "cat/tom.jpg and dog/rex.jpg" in found.message
    assert "fido" not in found.message
