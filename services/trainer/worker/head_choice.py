"""Which kind of head a run gets, at which temperature: both from what heads answer out of fold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import (
    HEAD_KIND_AUTO,
    HEAD_KIND_LDA,
    HEAD_KIND_LOGISTIC_REGRESSION,
    HeadCandidate,
    HeadKind,
    Recipe,
)
from services.trainer.worker import calibration, discriminant, logistic_regression
from services.trainer.worker.cross_validation import Fit, Folds, Labels, OutOfFold, Step, better
from services.trainer.worker.spans import Span, flat

# Which rows count.
Rows = npt.NDArray[np.bool_] | slice
EVERY = slice(None)


@dataclass(frozen=True)
class Candidate:
    """A kind of head, the temperature that its answers out of fold ask for, and those answers, each at the temperature
    that the other folds ask for, and all of them at that of the head, as it is published.
    """

    kind: "HeadKind.ValueType"
    temperature: float
    out_of_fold: OutOfFold
    published: OutOfFold

    def message(self, labels: Labels) -> HeadCandidate:
        """How it did."""
        return HeadCandidate(
            kind=self.kind,
            accuracy=float(self.out_of_fold.right(labels).mean()),
            log_loss=float(self.out_of_fold.losses(labels).mean()),
            temperature=self.temperature,
        )


Answers = Callable[[Candidate], OutOfFold]


def measured(candidate: Candidate) -> OutOfFold:
    """Its answers, for figures."""
    return candidate.out_of_fold


def as_published(candidate: Candidate) -> OutOfFold:
    """Its answers as sure as those that the head gives, for promises of these."""
    return candidate.published


def kinds(recipe: Recipe) -> tuple["HeadKind.ValueType", ...]:
    """What a recipe lets be tried, the simplest first. One of before there was a choice means logistic regression."""
    if recipe.head == HEAD_KIND_AUTO:
        return HEAD_KIND_LOGISTIC_REGRESSION, HEAD_KIND_LDA
    return (HEAD_KIND_LDA if recipe.head == HEAD_KIND_LDA else HEAD_KIND_LOGISTIC_REGRESSION,)


def fitter(kind: "HeadKind.ValueType", recipe: Recipe, span: Span, num_classes: int) -> Fit:
    """What fits a head of a kind to some rows of a span, to every view as to a row of its own. Those of an example
    weigh together what it would alone.
    """
    fit: Fit = partial(discriminant.fit_rows, span, num_classes=num_classes, shrinkage=recipe.shrinkage)
    if kind != HEAD_KIND_LDA:
        strength, passes = recipe.regularization_c / span.per_example, recipe.num_epochs
        fit = partial(logistic_regression.fit_rows, span, num_classes=num_classes, c=strength, max_passes=passes)
    return lambda rows, labels: fit(*flat(rows, labels))


def num_steps(recipe: Recipe, folds: Folds) -> int:
    """What `try_all` does: of each kind every fold is fitted, and its temperature found."""
    return 2 * len(kinds(recipe)) * folds.num_fits


def try_all(recipe: Recipe, span: Span, labels: Labels, num_classes: int, folds: Folds, step: Step) -> list[Candidate]:
    """Every kind that the recipe allows, cross-validated on the same folds. `step` is called after each of `num_steps`,
    and may raise.
    """
    found = []
    for kind in kinds(recipe):
        fit = fitter(kind, recipe, span, num_classes)
        answers = folds.out_of_fold(span.rows, labels, num_classes, fit, step)
        # LDA's answers are so sure that one error among folds without any would cost everything.
        smoothed = kind == HEAD_KIND_LDA
        temperature = calibration.temperature(answers.logits, labels, smoothed=smoothed)
        cross_fitted = calibration.cross_fitted(answers, labels, folds, step, smoothed=smoothed)
        found.append(Candidate(kind, temperature, cross_fitted, answers.divided(temperature)))
    return found


def best_architecture(tried: Sequence[Sequence[Candidate]], labels: Labels, rows: Rows = EVERY) -> int:
    """The architecture whose first kind of head is right most often about some rows, of equals the one with the smaller
    loss; its place.
    """
    return _best_architecture([_Marks.of(candidates[0], labels) for candidates in tried], rows)


def best(candidates: Sequence[Candidate], labels: Labels, groups: Labels, rows: Rows = EVERY) -> Candidate:
    """The first, unless the second is more often right about some rows by over one standard error of the difference."""
    return candidates[_best([_Marks.of(one, labels) for one in candidates], groups, rows)]


def honest(
    tried: Sequence[Sequence[Candidate]],
    labels: Labels,
    groups: Labels,
    folds: Folds,
    check: Step,
    answers: Answers = measured,
) -> OutOfFold:
    """What is answered out of fold where the choice too, of the architecture and its candidate, is made on the other
    folds' answers. The answers of whoever did best on all of them would be a little too good (I. Tsamardinos et al.,
    Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation, 2018, who draw examples
    where this takes folds). `check` is called before each candidate and each fold, and may raise.
    """
    logits = np.empty_like(tried[0][0].out_of_fold.logits)
    # Marked once: for each fold anew it would take as many times the time of all answers as there are folds.
    marks = [[_Marks.of(one, labels, check) for one in candidates] for candidates in tried]
    for repeat, held_out in folds.held_out():
        check()
        place = _best_architecture([candidates[0] for candidates in marks], ~held_out)
        chosen = tried[place][_best(marks[place], groups, ~held_out)]
        logits[repeat, held_out] = answers(chosen).logits[repeat, held_out]
    return folds.answered(logits)


@dataclass(frozen=True)
class _Marks:
    """How a candidate answered each example: in what share of the repeats rightly, and its loss, float32[n] each."""

    right: Floats
    losses: Floats

    @classmethod
    def of(cls, candidate: Candidate, labels: Labels, check: Step = lambda: None) -> "_Marks":
        check()
        return cls(candidate.out_of_fold.right(labels), candidate.out_of_fold.losses(labels))


def _best_architecture(firsts: Sequence[_Marks], rows: Rows) -> int:
    standings = [(-float(one.right[rows].mean()), float(one.losses[rows].mean())) for one in firsts]
    return standings.index(min(standings))


def _best(candidates: Sequence[_Marks], groups: Labels, rows: Rows) -> int:
    first, *others = candidates
    clearly = (better((other.right - first.right)[rows], groups[rows]) for other in others)
    return next((place for place, one in enumerate(clearly, 1) if one), 0)
