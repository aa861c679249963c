"""What a sweep trains, from words: datasets, combinations of fields, and ids that stay the same."""

import re

import pytest

from handful import grid
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import Recipe


@pytest.mark.parametrize(
    ("words", "datasets", "combinations"),
    [
        ("flowers", ["flowers"], [{}]),
        ("a b a seed=1", ["a", "b"], [{"seed": "1"}]),
        ("a seed=1,2 preset=fast", ["a"], [{"seed": "1", "preset": "fast"}, {"seed": "2", "preset": "fast"}]),
        ("a seed=1 + seed=1,2", ["a"], [{"seed": "1"}, {"seed": "2"}]),
        ("a + seed=1", ["a"], [{}, {"seed": "1"}]),
        ("seed=1 a +", ["a"], [{"seed": "1"}, {}]),
    ],
)
def test_words_become_combinations(words: str, datasets: list[str], combinations: list[grid.Fields]) -> None:
    """Each once and in order; a + begins another grid, and an empty grid is the default recipe."""
    assert grid.parse(words.split()) == (datasets, combinations)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("seed=1", "Name a dataset"),
        ("a seed=1 seed=2", "each field once"),
        ("a seed=1,", "not: seed=1,"),
        ("a seed=", "not: seed="),
        ("a =1", "not: =1"),
        (f"a b seed={','.join(map(str, range(51)))}", "These are 102 runs; at most 100"),
    ],
)
def test_what_is_no_grid_is_refused(words: str, says: str) -> None:
    """With what is wrong, before anybody is asked."""
    with pytest.raises(InvalidArgument, match=re.escape(says)):
        grid.parse(words.split())


def test_a_request_id_says_what_is_asked_for() -> None:
    """The same for the same recipe, data and model, in any process; another where anything is other."""
    asked = ("projects/p/datasets/d/versions/1", "d-sweep", Recipe(preset="fast", seed=0))
    assert grid.request_id(*asked) == grid.request_id(*asked) == "5ed8b49a-b1dd-5cf8-ab0d-bee6b52fe34b"
    others = [
        (asked[0][:-1] + "2", *asked[1:]),
        (asked[0], "other", asked[2]),
        (*asked[:2], Recipe(preset="fast", seed=1)),
        (*asked, "projects/p/trainingRuns/r1"),
    ]
    assert len({grid.request_id(*one) for one in (asked, *others)}) == 5  # type: ignore[arg-type]
