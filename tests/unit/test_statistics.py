"""Counts of versions: what is counted as what, and that they are bounded."""

import asyncio

import numpy as np
import pytest

from services.inference.answering import Answer, Spent
from services.inference.statistics import MAX_VERSIONS, Statistics

ANSWER = Answer(np.ones(1, np.float32), spent=Spent(1, 2, 3, 4, 1))


def test_requests_and_answers_are_counted() -> None:
    """A request of two pictures is one success, two answers and the sum of their times."""
    statistics = Statistics()
    for _ in range(3):
        with statistics.counting("v1") as answers:
            answers.extend([ANSWER, ANSWER])
    counts = statistics.of("v1")
    assert (counts.success.count, counts.fail.count, counts.answers, counts.passes) == (3, 0, 6, 6)
    assert [one.ns for one in (counts.queue, counts.decode, counts.network, counts.head)] == [6, 12, 18, 24]
    assert statistics.of("v2").success.count == 0


def test_an_error_fails_and_who_goes_away_does_not_count() -> None:
    """An error is a failed request; one that was cancelled is none."""
    statistics = Statistics()
    for problem in (ValueError(), asyncio.CancelledError()):
        with pytest.raises(type(problem)), statistics.counting("v1"):
            raise problem
    counts = statistics.of("v1")
    assert (counts.success.count, counts.fail.count) == (0, 1)


def test_they_are_bounded() -> None:
    """Of more versions than are kept, that goes which was not asked for longest."""
    statistics = Statistics()
    for number in [*range(MAX_VERSIONS), 0, MAX_VERSIONS]:
        with statistics.counting(str(number)) as answers:
            answers.append(ANSWER)
    assert len(statistics.versions()) == MAX_VERSIONS
    assert (statistics.of("0").answers, statistics.of("1").answers) == (2, 0)
