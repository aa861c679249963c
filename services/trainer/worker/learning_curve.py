"""How many more examples would help, and of which class: the accuracy out of fold of heads fitted on a quarter, a half
and three quarters of the examples, drawn on as a power law to twice as many.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import MoreExamples
from services.trainer.intervals import corrected, corrected_wilson, independent
from services.trainer.worker.cross_validation import Fit, Folds, Labels, OutOfFold, Step
from services.trainer.worker.spans import Span

SHARES = (0.25, 0.5, 0.75)
# Classes with fewer examples have no curve worth the name.
FEWEST = 8
# Errors fall about so with the number of examples, n^-.3; a measured slope counts as much as this.
USUAL_SLOPE = 0.3
# Half an error at least: none at all has no logarithm.
LEAST_ERRORS = 0.5
# The band, as a multiple of the interval around the prediction (`benchmarks/honesty.py`).
WIDENED = 1.25
# How often, where all classes are equally hard, one of them is called the hardest.
MISTAKEN = 0.025


@dataclass(frozen=True)
class Curve:
    """Accuracies out of fold by the examples that heads were fitted on."""

    num_examples: list[int]
    accuracies: list[float]

    def slope(self) -> float:
        """How errors fall: as n to the power of minus this, at least 0."""
        errors = np.maximum(1 - np.array(self.accuracies), LEAST_ERRORS / self.num_examples[-1])
        measured = -float(np.polyfit(np.log(self.num_examples), np.log(errors), 1)[0])
        return max(0.0, (measured + USUAL_SLOPE) / 2)


def draw(span: Span, labels: Labels, folds: Folds, fit: Fit, whole: OutOfFold, seed: int, step: Step) -> Curve:
    """The curve; its last point is `whole`, what heads fitted on all of the other folds answered."""
    random, num_classes = np.random.default_rng(seed), whole.logits.shape[2]
    found = []
    for share in SHARES:

        def on_part(rows: Floats, of: Labels, share: float = share) -> LinearHead:
            part = _part(of, share, random)
            return fit(rows[part], of[part])

        answers = folds.out_of_fold(span.rows, labels, num_classes, on_part, step)
        found.append(float(answers.right(labels).mean()))
    fitted_on = (1 - 1 / folds.folds) * len(labels)
    sizes = [round(share * fitted_on) for share in (*SHARES, 1.0)]
    return Curve(sizes, [*found, float(whole.right(labels).mean())])


def _part(labels: Labels, share: float, random: np.random.Generator) -> Labels:
    """Places of a share of each class, one at least."""
    parts = []
    for one in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == one))
        parts.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(parts))


def more(curve: Curve, names: tuple[str, ...], labels: Labels, groups: Labels, whole: OutOfFold) -> MoreExamples:
    """What twice as many examples would bring, and the class that is found least, where one clearly is. Examples of a
    group, int64[n], are taken to fail together (`independent`).
    """
    chance = float(np.bincount(labels).max() / len(labels))
    worth = whole.worth(independent(groups.tolist()))
    now = curve.accuracies[-1]
    then = 1 - (1 - now) * 2 ** -curve.slope()
    hardest = _hardest(labels, groups, whole.right(labels), len(names))
    return MoreExamples(
        num_examples=2 * len(labels),
        accuracy=corrected(then, chance),
        accuracy_interval=corrected_wilson(then, worth, chance, WIDENED),
        gain=corrected(then, chance) - corrected(now, chance),
        label=names[hardest] if hardest is not None else "",
        curve=[
            MoreExamples.Point(num_examples=size, accuracy=accuracy)
            for size, accuracy in zip(curve.num_examples, curve.accuracies, strict=True)
        ],
    )


def _hardest(labels: Labels, groups: Labels, right: Floats, num_classes: int) -> int | None:
    """The class that is found least, where that is clearly less often than the others: a test of two shares with
    F. Yates's correction for continuity (1934), and C. Bonferroni's for the number of classes, each of which might have
    been the least.
    """
    recalls = np.array([right[labels == one].mean() for one in range(num_classes)])
    least = int(recalls.argmin())
    own = labels == least
    share = (float(right.sum()) + 1) / (len(right) + 2)
    ours, others = (independent(groups[which].tolist()) for which in (own, ~own))
    per_group = 1 / ours + 1 / others
    clearly = NormalDist().inv_cdf(1 - MISTAKEN / num_classes)
    limit = clearly * np.sqrt(share * (1 - share) * per_group) + per_group / 2
    return least if float(right[~own].mean() - recalls[least]) > limit else None
