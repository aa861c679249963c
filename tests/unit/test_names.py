"""Resource names: what is one, and what a caller is told where it is none."""

import pytest

from handful import names
from handful.errors import InvalidArgument


@pytest.mark.parametrize("value", ["a", "flowers", "cats-and-dogs", "a1", "a--b", "x" * 63])
def test_ids_that_are_taken(value: str) -> None:
    """An id is lower-case letters, digits and dashes, from a letter to a letter or digit, at most 63."""
    assert names.check_id(value, "dataset_id") == value
    assert names.match(names.DATASET, f"projects/{value}/datasets/{value}", "name") == {
        "project": value,
        "dataset": value,
    }


@pytest.mark.parametrize(
    "value",
    ["", "-a", "a-", "1a", "A", "a_b", "a.b", "a b", "a/b", "..", "ä", "a\n", "a\0", "x" * 64, "x" * 1_000_000],
)
def test_ids_that_are_refused(value: str) -> None:
    """What is no id is an InvalidArgument that names the field, and does not repeat the value."""
    with pytest.raises(InvalidArgument) as refused:
        names.check_id(value, "dataset_id")
    assert [field for field, _ in refused.value.violations] == ["dataset_id"]
    assert len(refused.value.message) < 200
    with pytest.raises(InvalidArgument):
        names.match(names.DATASET, f"projects/default/datasets/{value}", "name")


@pytest.mark.parametrize(
    ("pattern", "name", "parts"),
    [
        (names.PROJECT, "projects/p", {"project": "p"}),
        (names.DATASET_VERSION, "projects/p/datasets/d/versions/12", {"project": "p", "dataset": "d", "number": "12"}),
        (names.TRAINING_RUN, "projects/p/trainingRuns/0190-7c", {"project": "p", "run": "0190-7c"}),
        (names.MODEL, "projects/p/models/m", {"project": "p", "model": "m"}),
        (names.MODEL_VERSION, "projects/p/models/m/versions/999999999", {"number": "999999999"}),
        (names.MODEL_ALIAS, "projects/p/models/m@production", {"model": "m", "alias": "production"}),
        ([names.MODEL, names.MODEL_ALIAS], "projects/p/models/m@staging", {"alias": "staging"}),
    ],
)
def test_names_are_taken_apart(pattern: str | list[str], name: str, parts: dict[str, str]) -> None:
    """A name gives its parts, by the first pattern that fits."""
    assert parts.items() <= names.match(pattern, name, "name").items()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "projects/p/datasets/d/versions/",
        "projects/p/datasets/d/versions/0",
        "projects/p/datasets/d/versions/01",
        "projects/p/datasets/d/versions/-1",
        "projects/p/datasets/d/versions/1.0",
        "projects/p/datasets/d/versions/1234567890",
        "projects/p/datasets/d/versions/\u0661",
        "projects/p/datasets/d/versions/1/",
        "/projects/p/datasets/d/versions/1",
        "projects/p/datasets/d/versions/1\n",
        "projects//datasets/d/versions/1",
        "projects/p/Datasets/d/versions/1",
        "projects/p/models/d/versions/1",
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    """A name that fits no pattern is an InvalidArgument that names the field and shows what it must look like."""
    with pytest.raises(InvalidArgument) as refused:
        names.match([names.DATASET, names.DATASET_VERSION], name, "parent")
    ((field, allowed),) = refused.value.violations
    assert field == "parent"
    assert names.DATASET in allowed
    assert names.DATASET_VERSION in allowed
