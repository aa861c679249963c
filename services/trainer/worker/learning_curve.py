"""How many more examples would help, and of which class: the accuracy out of fold of heads fitted on a quarter, a half
and three quarters of the examples, by groups, drawn on as a power law to twice as many.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import MoreExamples
from services.trainer.intervals import corrected, corrected_wilson, independent
from services.trainer.worker.cross_validation import Fit, Folds, Labels, Mask, OutOfFold, Step
from services.trainer.worker.spans import Span

SHARES = (0.25, 0.5, 0.75)
# Classes with fewer groups have no curve worth the name.
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

    def ending(self, accuracy: float) -> "Curve":
        """The curve moved as a whole, within [0, 1], so that it ends at an accuracy."""
        moved = np.clip(np.array(self.accuracies) + (accuracy - self.accuracies[-1]), 0, 1)
        return Curve(self.num_examples, moved.tolist())


def draw(
    span: Span, labels: Labels, groups: Labels, folds: Folds, fit: Fit, whole: OutOfFold, seed: int, step: Step
) -> Curve:
    """The curve; its last point is `whole`, what heads fitted on all of the other folds answered. Its parts are shares
    of the groups, int64[n]: a quarter of each recording's pieces knows nearly what all of them do.
    """
    random, num_classes = np.random.default_rng(seed), whole.logits.shape[2]
    sizes, accuracies = [], []
    for share in SHARES:
        part = Parts(labels, groups, share, random)
        answers = folds.out_of_fold(span.rows, labels, num_classes, fit, step, part)
        sizes.append(round(float(np.mean(part.sizes))))
        accuracies.append(float(answers.right(labels).mean()))
    fitted_on = round((1 - 1 / folds.folds) * len(labels))
    return Curve([*sizes, fitted_on], [*accuracies, float(whole.right(labels).mean())])


class Parts:
    """Draws a share of each class's groups, one at least, and notes in `sizes` how many examples these have."""

    def __init__(self, labels: Labels, groups: Labels, share: float, random: np.random.Generator) -> None:
        self._labels, self._groups, self._share, self._random = labels, groups, share, random
        self.sizes: list[int] = []

    def __call__(self, known: Mask) -> Mask:
        part = np.zeros_like(known)
        for one in np.unique(self._labels[known]):
            of_class = known & (self._labels == one)
            groups = self._random.permutation(np.unique(self._groups[of_class]))
            part |= of_class & np.isin(self._groups, groups[: max(1, round(self._share * len(groups)))])
        self.sizes.append(int(part.sum()))
        return part


def more(curve: Curve, names: tuple[str, ...], labels: Labels, groups: Labels, honest: OutOfFold) -> MoreExamples:
    """What twice as many examples would bring, and the class that is found least, where one clearly is. Examples of a
    group, int64[n], are taken to fail together (`independent`).

    `honest` is what is answered where the choice is made on the other folds' answers: the curve is that of what was
    chosen on these very examples, and looks too good by about as much at all of its points, so it is moved
    to end there.
    """
    curve = curve.ending(float(honest.right(labels).mean()))
    chance = float(np.bincount(labels).max() / len(labels))
    worth = honest.worth(independent(groups.tolist()))
    now = curve.accuracies[-1]
    then = 1 - (1 - now) * 2 ** -curve.slope()
    hardest = _hardest(labels, groups, honest.right(labels), len(names))
    return MoreExamples(
        num_examples=2 * len(labels),
        num_groups=2 * len(np.unique(groups)),
        accuracy=corrected(then, chance, honest.folds),
        accuracy_interval=corrected_wilson(then, worth, chance, honest.folds, WIDENED),
        gain=corrected(then, chance, honest.folds) - corrected(now, chance, honest.folds),
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
