"""From what a model got wrong to the confidence up to which its answers are held back (Angelopoulos et al., Conformal
Risk Control, https://arxiv.org/abs/2208.02814). Training tells by it what is promised, serving and exports keep it.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

# A third of three is not quite one.
_ROUNDING = 1e-9
_MOST = 10**9


class Known(Protocol):
    """What was got wrong, and how surely: a manifest's ErrorControl, or a `Measured`."""

    @property
    def num_groups(self) -> int: ...
    @property
    def min_confidences(self) -> Sequence[float]: ...
    @property
    def errors(self) -> Sequence[float]: ...


class Measured(NamedTuple):
    """An ErrorControl where there is no protobuf, field by field."""

    num_groups: int
    min_confidences: Sequence[float]
    errors: Sequence[float]


def share(text: str) -> float:
    """`5%` or `0.05` as a number; ValueError where it is neither, or no part of the whole."""
    number = text.removesuffix("%")
    try:
        value = float(number) / 100 if number != text else float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise ValueError("write a share between 0% and 100%, such as 5% or 0.05")
    return value


def min_confidence(known: Known, max_error_rate: float) -> float | None:
    """The smallest confidence such that, where only surer answers are given, at most such a share of all that is asked
    is answered wrongly, on average over models and new examples. None where no answer could be given.
    """
    # (errors + 1) / (n + 1) <= rate: the new example may be one more error
    allowed = max_error_rate * (known.num_groups + 1) - 1 + _ROUNDING
    place = bisect_right(known.errors, allowed)
    return known.min_confidences[place - 1] if place else None


def is_unsure(score: float, confidence: float | None) -> bool:
    """Whether an answer whose best class has that score is held back; none is where no confidence is asked for."""
    return confidence is not None and score <= confidence


def why_not(known: Known | None, max_error_rate: float) -> str:
    """Why there is no such confidence; None is known of models that were measured on nothing."""
    takes = f"it takes {groups_needed(max_error_rate)} examples of different groups"
    if known is None:
        return (
            f"{takes} that the model was not fitted on, and it was measured on none, or an earlier release made it; "
            "train it anew, with examples that validate or two of every class at least."
        )
    least = least_rate(known.num_groups)
    return f"{takes}, and the model was measured on {known.num_groups}. Ask for {least:g} or more, or add examples."


def groups_needed(max_error_rate: float) -> int:
    """On how many groups of examples a model has to be measured for such a promise, even if none was wrong."""
    return math.ceil(min(1 / max_error_rate - 1 - _ROUNDING, _MOST))


def least_rate(num_groups: int) -> float:
    """What can be promised of a model that was measured on so many groups, rounded up to a thousandth."""
    return math.ceil(1e3 / (num_groups + 1)) / 1e3


def check(known: Known) -> None:
    """ValueError where it is none."""
    confidences, errors = known.min_confidences, known.errors
    whole = 0 < len(confidences) == len(errors) and confidences[-1] == 0 == errors[0]
    falls = all(one > other for one, other in pairwise([math.inf, *confidences]))
    rises = all(one <= other for one, other in pairwise([*errors, known.num_groups + _ROUNDING]))
    if not (whole and falls and rises and confidences[0] <= 1 and known.num_groups > 0):
        raise ValueError("no error control")
