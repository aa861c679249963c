"""What was found out beside a run's figures, in plain sentences: what to expect, what knowing next to nothing is worth,
which labels to look at. It knows messages, no client.
"""

from collections.abc import Iterable, Iterator, Mapping

from handful.v1.bundle_pb2 import Baseline, ErrorRatePromise, Evaluation, Interval, LabelSuspect, MoreExamples

# A gain below this may as well be none.
SAME = 0.02
_TWO_RANGES = (
    "Of the two ranges the first is measured on the validation examples, the second on training examples held out in "
    "turn."
)
_KNOWS = {
    Baseline.KIND_MAJORITY_CLASS: "Always answering the most common class",
    Baseline.KIND_COLOUR_AND_SIZE: "knowing colours and sizes alone",
}


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What to expect of a version on new examples, and against what to hold it, where it was cross-validated; and what
    asking for few wrong answers costs, where that is known.
    """
    if evaluation.HasField("cross_validation"):
        yield from _expected(evaluation)
    if evaluation.error_rate_promises:
        yield _few_wrong(evaluation.error_rate_promises)


def _expected(evaluation: Evaluation) -> Iterator[str]:
    found, measured = evaluation.cross_validation, evaluation.accuracy_interval
    mean = f", on average over {found.repeats} rounds," if found.repeats > 1 else ""
    yield (
        f"Expect {percents(found.accuracy_interval)} on new examples like those it was trained on: "
        f"{found.accuracy:.1%} of {found.num_examples} training examples{mean} were answered rightly by heads that "
        "had not seen them."
    )
    if evaluation.HasField("accuracy_interval"):
        yield _TWO_RANGES
    if evaluation.HasField("accuracy_interval") and measured.high < found.accuracy_interval.low:
        yield (
            "What it was measured on is answered less well than that, so it is unlike what it was trained on: another "
            f"speaker or camera, say. Where new examples are like that, expect {percents(measured)}."
        )
    worth = [
        f"{_KNOWS[one.kind]} would be right on {one.accuracy:.0%}" for one in found.baselines if one.kind in _KNOWS
    ]
    if worth:
        yield f"{', '.join(worth)}."
    if found.HasField("more_examples"):
        yield _more(found.more_examples)


def _more(found: MoreExamples) -> str:
    """What more examples would bring."""
    between = f"{found.accuracy:.0%} ({percents(found.accuracy_interval)})"
    many = f"Twice as many examples ({found.num_examples})"
    if 0 < found.num_groups < found.num_examples:  # pieces of the same recordings would teach little
        many = f"Twice as many examples ({found.num_examples} of {found.num_groups} recordings or other groups)"
    if found.gain < SAME:
        twice = f"{many} would do about the same: {between}."
    else:
        twice = f"{many} may give {found.gain * 100:.0f} points more: {between}."
    return f"{twice} {found.label} needs them most: it is found least." if found.label else twice


def _few_wrong(promises: Iterable[ErrorRatePromise]) -> str:
    """How much it answers where few answers may be wrong."""
    costs = [
        f"{one.answered * 100:.0f} of 100 for at most {one.max_error_rate:.0%}"
        if one.HasField("min_confidence")
        else f"none for at most {one.max_error_rate:.0%}, which takes {one.num_groups_needed} different examples"
        for one in promises
    ]
    return f"How much it answers where few of all answers may be wrong: {'; '.join(costs)}."


def suspect(one: LabelSuspect, files: Mapping[str, str]) -> str:
    """A label to look at, by the name of its file where that is known."""
    file = files.get(one.content_sha256, one.content_sha256[:12])
    return f"{file} is called {one.label}; it looks like {one.suggested_label} ({one.suggested_probability:.0%})"


def percents(interval: Interval) -> str:
    """`89% to 98%`."""
    return f"{interval.low:.0%} to {interval.high:.0%}"
