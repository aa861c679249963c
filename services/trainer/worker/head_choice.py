"""Which kind of head a run gets, at which temperature: both from what heads answer out of fold."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from handful.v1.bundle_pb2 import (
    HEAD_KIND_AUTO,
    HEAD_KIND_LDA,
    HEAD_KIND_LOGISTIC_REGRESSION,
    HeadCandidate,
    HeadKind,
    Recipe,
)
from services.trainer.worker import calibration, discriminant, logistic_regression
from services.trainer.worker.cross_validation import Fit, Folds, Labels, OutOfFold, Step
from services.trainer.worker.evaluation import repeated_scores
from services.trainer.worker.spans import Span


@dataclass(frozen=True)
class Candidate:
    """A kind of head, the temperature that its answers out of fold ask for, and those answers at it."""

    kind: "HeadKind.ValueType"
    temperature: float
    out_of_fold: OutOfFold

    def message(self, labels: Labels) -> HeadCandidate:
        """How it did."""
        return HeadCandidate(
            kind=self.kind,
            accuracy=float(self.out_of_fold.right(labels).mean()),
            log_loss=repeated_scores(labels, self.out_of_fold)["cv/loss"],
            temperature=self.temperature,
        )


def kinds(recipe: Recipe) -> tuple["HeadKind.ValueType", ...]:
    """What a recipe lets be tried, the simplest first. One of before there was a choice means logistic regression."""
    if recipe.head == HEAD_KIND_AUTO:
        return HEAD_KIND_LOGISTIC_REGRESSION, HEAD_KIND_LDA
    return (HEAD_KIND_LDA if recipe.head == HEAD_KIND_LDA else HEAD_KIND_LOGISTIC_REGRESSION,)


def fitter(kind: "HeadKind.ValueType", recipe: Recipe, span: Span, num_classes: int) -> Fit:
    """What fits a head of a kind to some rows of a span."""
    if kind == HEAD_KIND_LDA:
        return partial(discriminant.fit_rows, span, num_classes=num_classes, shrinkage=recipe.shrinkage)
    strength, passes = recipe.regularization_c, recipe.num_epochs
    return partial(logistic_regression.fit_rows, span, num_classes=num_classes, c=strength, max_passes=passes)


def try_all(recipe: Recipe, span: Span, labels: Labels, num_classes: int, folds: Folds, step: Step) -> list[Candidate]:
    """Every kind that the recipe allows, cross-validated on the same folds."""
    found = []
    for kind in kinds(recipe):
        fit = fitter(kind, recipe, span, num_classes)
        answers = folds.out_of_fold(span.rows, labels, num_classes, fit, step)
        # LDA's answers are so sure that one error among folds without any would cost everything.
        temperature = calibration.temperature(answers.logits, labels, smoothed=kind == HEAD_KIND_LDA)
        found.append(Candidate(kind, temperature, answers.divided(temperature)))
    return found


def best(candidates: list[Candidate], labels: Labels, groups: npt.NDArray[np.int64]) -> Candidate:
    """The first, unless the second is more often right by over one standard error of the difference."""
    first, *others = candidates
    for other in others:
        difference = other.out_of_fold.right(labels) - first.out_of_fold.right(labels)
        if better(np.bincount(groups, weights=difference).astype(np.float64)):
            return other
    return first


def better(differences: npt.NDArray[np.float64]) -> bool:
    """Whether differences of right answers, one of each group, sum up to more than their standard error.

    That is sqrt(sum d^2 + 1): one more group may well differ in what was not seen. Without it two examples that happen
    to agree would decide.
    """
    return float(differences.sum()) > float(np.sqrt((differences**2).sum() + 1))
