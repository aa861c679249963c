"""From what a model got wrong to the confidence up to which its answers are held back (Angelopoulos et al., Conformal
Risk Control, https://arxiv.org/abs/2208.02814). Training tells by it what is promised, serving keeps it.
"""

import math
from bisect import bisect_right
from itertools import pairwise

from handful.v1.bundle_pb2 import ErrorControl

# A third of three is not quite one.
_ROUNDING = 1e-9
_MOST = 10**9


def min_confidence(known: ErrorControl, max_error_rate: float) -> float | None:
    """The smallest confidence such that, where only surer answers are given, at most such a share of all that is asked
    is answered wrongly, on average over models and new examples. None where no answer could be given.
    """
    # (errors + 1) / (n + 1) <= rate: the new example may be one more error
    allowed = max_error_rate * (known.num_groups + 1) - 1 + _ROUNDING
    place = bisect_right(known.errors, allowed)
    return known.min_confidences[place - 1] if place else None


def groups_needed(max_error_rate: float) -> int:
    """On how many groups of examples a model has to be measured for such a promise, even if none was wrong."""
    return math.ceil(min(1 / max_error_rate - 1 - _ROUNDING, _MOST))


def least_rate(num_groups: int) -> float:
    """What can be promised of a model that was measured on so many groups, rounded up to a thousandth."""
    return math.ceil(1e3 / (num_groups + 1)) / 1e3


def check(known: ErrorControl) -> None:
    """ValueError where it is none."""
    confidences, errors = known.min_confidences, known.errors
    whole = 0 < len(confidences) == len(errors) and confidences[-1] == 0 == errors[0]
    falls = all(one > other for one, other in pairwise([math.inf, *confidences]))
    rises = all(one <= other for one, other in pairwise([*errors, known.num_groups + _ROUNDING]))
    if not (whole and falls and rises and confidences[0] <= 1 and known.num_groups > 0):
        raise ValueError("no error control")
