"""What is said beside figures: what to expect, and where the figures do not fit together."""

import pytest

from handful.cli.findings import sentences
from handful.v1.bundle_pb2 import CrossValidation, ErrorRatePromise, Evaluation, Interval, MoreExamples

OUT_OF_FOLD = CrossValidation(
    accuracy=0.99, accuracy_interval=Interval(low=0.96, high=1.0), num_examples=150, repeats=5
)


@pytest.mark.parametrize(("low", "high", "said"), [(0.76, 0.90, "76% to 90%"), (0.90, 0.97, ""), (0.97, 1.0, "")])
def test_what_it_was_measured_on_may_be_unlike_what_it_was_trained_on(low: float, high: float, said: str) -> None:
    """Which interval is which is said; where they are apart, both expectations are, each with what it holds for."""
    given = Evaluation(accuracy_interval=Interval(low=low, high=high), cross_validation=OUT_OF_FOLD)
    first, told_apart, *others = sentences(given)
    assert "the first is measured on the validation examples, the second on training examples" in told_apart
    assert first.startswith("Expect 96% to 100% on new examples like those it was trained on: 99.0% of 150")
    assert "training examples, on average over 5 rounds, were answered" in first  # or 97.4 % of 100 would be no count
    assert [one.rpartition(", expect ")[2] for one in others] == ([f"{said}."] if said else [])


def test_where_there_was_no_cross_validation_nothing_is_expected() -> None:
    """And without validation examples there is nothing to hold it against."""
    assert list(sentences(Evaluation(accuracy_interval=Interval(low=0.1, high=0.2)))) == []
    assert len(list(sentences(Evaluation(cross_validation=OUT_OF_FOLD)))) == 1


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (60, "Twice as many examples (60) may"),
        (12, "(60 of 12 recordings or other groups) may"),
        (0, "examples (60) may"),
    ],
)
def test_more_examples_are_counted_and_so_are_their_recordings(groups: int, said: str) -> None:
    """How many there are to be is said, and from how many groups where these are fewer; older models do not know."""
    more = MoreExamples(num_examples=60, num_groups=groups, accuracy=0.95, gain=0.05)
    (told,) = [
        one for one in sentences(Evaluation(cross_validation=CrossValidation(more_examples=more))) if "wice" in one
    ]
    assert said in told


def test_what_few_wrong_answers_cost_is_said() -> None:
    """Of models that were not cross-validated too; what cannot be promised is said with what it would take."""
    promises = [
        ErrorRatePromise(max_error_rate=0.01, num_groups_needed=99),
        ErrorRatePromise(max_error_rate=0.05, num_groups_needed=19, min_confidence=0.9, answered=0.88),
        ErrorRatePromise(max_error_rate=0.1, num_groups_needed=9, min_confidence=0, answered=1),
    ]
    (said,) = sentences(Evaluation(error_rate_promises=promises))
    assert said == (
        "How much it answers where few of all answers may be wrong: none for at most 1%, which takes 99 different "
        "examples; 88 of 100 for at most 5%; 100 of 100 for at most 10%."
    )
