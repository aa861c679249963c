"""Splits: stratified, the same for the same content, and honest."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from handful.v1 import bundle_pb2
from handful.v1.bundle_pb2 import SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VAL
from services.dataset.records import ExampleRecord, split_bit
from services.dataset.splits import assign, groups

_ids = itertools.count()


def example(label: str, content: object, split: "bundle_pb2.Split.ValueType" = SPLIT_UNSPECIFIED) -> ExampleRecord:
    digest = hashlib.sha256(str(content).encode()).hexdigest()
    return ExampleRecord(str(next(_ids)), label, split, "a.jpg", digest, digest, "image/jpeg", 1, 1, next(_ids))


def examples(label: str, count: int, split: "bundle_pb2.Split.ValueType" = SPLIT_UNSPECIFIED) -> list[ExampleRecord]:
    return [example(label, f"{label} {number}", split) for number in range(count)]


def counts(given: Sequence[ExampleRecord]) -> dict[str, tuple[int, int]]:
    """Training and validation examples by label."""
    splits = assign(given)
    counted = Counter((one.label, splits[one.content_sha256]) for one in given)
    return {label: (counted[label, SPLIT_TRAIN], counted[label, SPLIT_VAL]) for label in {one.label for one in given}}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, (1, 1)),
        (3, (2, 1)),
        (5, (4, 1)),
        (7, (6, 1)),
        (8, (6, 2)),
        (15, (12, 3)),
        (50, (40, 10)),
        (1000, (800, 200)),
    ],
)
def test_a_fifth_of_every_class_validates(count: int, expected: tuple[int, int]) -> None:
    """Of every class a fifth validates, at least one, and at least one trains, whatever the other classes have."""
    assert counts([*examples("a", count), *examples("b", 20)]) == {"a": expected, "b": (16, 4)}


def test_only_content_decides() -> None:
    """Order, ids, times and filenames change nothing."""
    given = [*examples("a", 30), *examples("b", 20)]
    again = sorted([*examples("b", 20), *examples("a", 30)], key=lambda one: one.content_sha256)
    assert assign(given) == assign(again)


def test_more_examples_move_few() -> None:
    """When a class grows, most of what validated still does, and nothing moves in other classes."""
    small, large = [*examples("a", 50), *examples("b", 20)], [*examples("a", 55), *examples("b", 20)]
    before, after = assign(small), assign(large)
    assert sum(before[one.content_sha256] != after[one.content_sha256] for one in small) <= 5
    assert {one.label for one in small if before[one.content_sha256] != after[one.content_sha256]} <= {"a"}


def test_what_was_uploaded_for_a_split_stands_there() -> None:
    """Where some were uploaded for validation, the others train; where only for training, those train, and a fifth of
    the rest validates.
    """
    chosen = [*examples("a", 10), *examples("b", 10), example("a", "x", SPLIT_VAL), example("b", "y", SPLIT_TRAIN)]
    assert counts(chosen) == {"a": (10, 1), "b": (11, 0)}
    trained = [*examples("a", 10, SPLIT_TRAIN), *examples("b", 10)]
    assert counts(trained) == {"a": (10, 0), "b": (8, 2)}


def later(given: Sequence[ExampleRecord], *splits: "bundle_pb2.Split.ValueType") -> list[ExampleRecord]:
    """The examples after they were uploaded again for these splits."""
    return [replace(one, also_split=sum(map(split_bit, splits))) for one in given]


def test_a_split_that_is_said_later_is_the_split() -> None:
    """Examples that were first uploaded for no split stand where they are said to belong later; for both, they train.
    A group of which one was said to train trains.
    """
    train, val, both = (
        later(examples("a", 15), SPLIT_TRAIN),
        examples("b", 5),
        later(examples("c", 3), SPLIT_TRAIN, SPLIT_VAL),
    )
    assert counts([*train, *later(val, SPLIT_VAL), *both]) == {"a": (15, 0), "b": (0, 5), "c": (3, 0)}
    assert counts([*train, *examples("b", 10)]) == {"a": (15, 0), "b": (8, 2)}
    together = [replace(one, group="tom") for one in (*later(val[:1], SPLIT_TRAIN), *later(val[1:], SPLIT_VAL))]
    assert counts([*together, *later(examples("d", 2), SPLIT_VAL)]) == {"b": (5, 0), "d": (0, 2)}


def test_a_group_is_never_divided() -> None:
    """Equal content stands in one split, and trains: under two labels it measures nothing, in two splits it leaks."""
    twice = [example(label, content) for label in ("a", "b") for content in range(6)]
    assert set(assign([*twice, *examples("a", 10), *examples("b", 10)]).values()) == {SPLIT_TRAIN, SPLIT_VAL}
    assert {assign([*twice, *examples("a", 10)])[one.content_sha256] for one in twice} == {SPLIT_TRAIN}
    both = [example("a", "x", SPLIT_TRAIN), example("b", "x", SPLIT_VAL), example("b", "y", SPLIT_VAL)]
    assert [assign(both)[one.content_sha256] for one in both] == [SPLIT_TRAIN, SPLIT_TRAIN, SPLIT_VAL]


def test_groups_are_joined_by_equal_contents() -> None:
    """Two groups with a content in common are one, named by its smallest content, whatever they were called."""
    ann, bob = (replace(one, group=name) for one, name in ((example("a", 1), "ann"), (example("a", 2), "bob")))
    both = [replace(example("b", 3), group=name) for name in ("ann", "bob")]
    other = [example("a", 4), example("b", 5)]
    found = groups([ann, bob, *both, *other])
    together = {one.content_sha256 for one in (ann, bob, *both)}
    assert {found[content] for content in together} == {min(together)}
    assert [found[one.content_sha256] for one in other] == [one.content_sha256 for one in other]
    renamed = [replace(one, group=f"x{one.group}") for one in (*both, bob, ann)]
    assert groups([*renamed, *other]) == found


def test_nothing_has_no_splits() -> None:
    """An empty dataset is divided into nothing."""
    assert assign([]) == {}
