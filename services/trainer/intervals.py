"""Intervals of a share: between what the true share lies, given how many examples it was counted on."""

import math

from handful.v1.bundle_pb2 import Interval

# Of the normal distribution, for 95 %.
Z = 1.96
# How much of its examples an out-of-fold share is worth; measured, see docs/why.md.
WORTH = 0.85


def wilson(share: float, num_examples: float) -> Interval:
    """The 95 % score interval of a share in [0, 1] of so many examples (E. B. Wilson, 1927); [0, 1] of none."""
    if not num_examples:
        return Interval(low=0.0, high=1.0)
    weight = Z**2 / num_examples
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / num_examples + weight / (4 * num_examples))
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half))


def corrected_wilson(share: float, num_examples: int) -> Interval:
    """The 95 % interval of the accuracy of a head fitted on all examples, from its out-of-fold accuracy on them.

    Folds fit on less data, so that the out-of-fold accuracy lies below the truth, and its examples are not independent:
    p' = 1 - .85 (1 - p), n' = .85 n. Measured, see docs/why.md.
    """
    return wilson(1 - WORTH * (1 - share), WORTH * num_examples)
