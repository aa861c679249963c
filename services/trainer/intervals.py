"""Intervals of a share: between what the true share lies, given how many examples it was counted on."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable

from handful.v1.bundle_pb2 import Interval

# Of the normal distribution, for 95 %.
Z = 1.96
# How much of the errors out of five folds are too many; measured, see docs/why.md.
EXCESS, MEASURED_FOLDS = 0.15, 5
# The power of the examples by which errors fall then: what is fitted on .8 of them has 1 / .85 as many.
POWER = math.log(1 - EXCESS) / math.log(1 - 1 / MEASURED_FOLDS)


def independent(groups: Iterable[Hashable]) -> float:
    """How many independent examples those of such groups are worth, one after the other the group of each: (sum m)^2 /
    sum m^2 with the sizes m of the groups (L. Kish, Survey Sampling, 1965), where examples of a group are right or
    wrong together. So many as there are groups where all are as large, fewer else: a share weighs examples, so a
    recording of many pieces decides more of it. 0 of none.
    """
    sizes = Counter(groups).values()
    return sum(sizes) ** 2 / sum(size**2 for size in sizes) if sizes else 0.0


def wilson(share: float, num_examples: float) -> Interval:
    """The 95 % score interval of a share in [0, 1] of so many examples (E. B. Wilson, 1927); [0, 1] of none."""
    if not num_examples:
        return Interval(low=0.0, high=1.0)
    weight = Z**2 / num_examples
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / num_examples + weight / (4 * num_examples))
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half))


def excess(folds: int) -> float:
    """How much of the errors out of so many folds are too many: 1 - (1 - 1 / folds)^.728, so .4 of two, .07 of ten."""
    return EXCESS if folds == MEASURED_FOLDS else 1 - (1 - 1 / folds) ** POWER


def corrected(share: float, chance: float, folds: int) -> float:
    """The accuracy that a head fitted on all examples is likely to have, from that out of so many folds, which fit on
    less data.

    p' = 1 - (1 - e k) (1 - p) with e = `excess`, where k = (p - chance) / (1 - chance) is how much was learnt: who
    knows nothing learns nothing from more data. `chance` is the share of the most common class.
    """
    learnt = max(0.0, (share - chance) / (1 - chance)) if chance < 1 else 0.0
    return 1 - (1 - excess(folds) * learnt) * (1 - share)


def effective(num_independent: float, folds: int, repeats: int) -> float:
    """How many independent examples answers out of fold to n of them (`independent`) are worth: n / (1 / r +
    k / (k - 1)) with k folds and r repeats.

    Heads of two folds were fitted on nearly the same examples, so that they err together. The variance of a mean over
    J = k r test sets, each a share t of all, is (1 / J + t / (1 - t)) times that of one of them (C. Nadeau and
    Y. Bengio, Inference for the Generalization Error, 2003; of repeated folds R. Bouckaert and E. Frank, 2004), which
    has n / k examples.
    """
    return num_independent / (1 / repeats + folds / (folds - 1))


def corrected_wilson(share: float, num_effective: float, chance: float, folds: int, widened: float = 1.0) -> Interval:
    """The 95 % interval of the accuracy of a head fitted on all examples, from that out of so many folds on them, which
    are worth so many (`effective`): that of Wilson around `corrected`. `widened` by a factor.
    """
    plain = wilson(corrected(share, chance, folds), num_effective)
    middle, half = (plain.low + plain.high) / 2, widened * (plain.high - plain.low) / 2
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half))
