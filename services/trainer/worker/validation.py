"""All that a run of `fast` learns out of fold: which head, at which temperature, how good it is, how much better than
knowing next to nothing, which labels to look at, and what was answered, for whoever promises anything by it.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from handful.bundle.heads import Floats, softmax
from handful.v1.bundle_pb2 import (
    HEAD_KIND_LDA,
    HEAD_KIND_LOGISTIC_REGRESSION,
    MODALITY_IMAGE,
    Baseline,
    CrossValidation,
    Head,
)
from services.trainer.intervals import independent
from services.trainer.worker import baselines, challenge, colours, learning_curve, suspects
from services.trainer.worker.cross_validation import MIN_FOLDS, Folds, Labels
from services.trainer.worker.evaluation import cross_validated
from services.trainer.worker.examples import Examples
from services.trainer.worker.head_choice import Candidate, as_published, best, fitter, honest, kinds, try_all
from services.trainer.worker.held_out import HeldOut
from services.trainer.worker.spans import Span
from services.trainer.worker.work import Work

_NONE: Mapping[str, Sequence[Candidate]] = {}


def validate(
    work: Work, examples: Examples, span: Span, labels: Labels, rivals: Mapping[str, Sequence[Candidate]] = _NONE
) -> tuple[Head, CrossValidation | None, HeldOut | None]:
    """What the head shall be, figures out of fold, and what was answered there at the temperatures that are published;
    none, with a notice, where a class cannot be divided. `rivals` are candidates of the architectures that were tried
    and not taken.
    """
    names, groups = examples.labels, [one.group for one in examples.train]
    folds = Folds.drawn(labels, groups, len(names), work.recipe.seed)
    described = Head(normalization=Head.NORMALIZATION_CENTER_L2, kind=HEAD_KIND_LOGISTIC_REGRESSION)
    if folds.folds < MIN_FOLDS:
        _say_why_not(work, names[folds.smallest_class], folds.folds)
        return described, None, None
    numbered = np.unique(groups, return_inverse=True)[1]
    drawn = len(np.unique(numbered[labels == folds.smallest_class])) >= learning_curve.FEWEST
    of_pictures = examples.modality == MODALITY_IMAGE
    # Each kind of head, the suspects, the colours of pictures, the curve.
    rounds = len(kinds(work.recipe)) + 1 + of_pictures + len(learning_curve.SHARES) * drawn
    step = Steps(work, "validating", folds.num_fits * rounds)
    candidates = try_all(work.recipe, span, labels, len(names), folds, step)
    chosen = best(candidates, labels, numbered)
    tried = [candidates, *rivals.values()]
    answers = honest(tried, labels, numbered, folds)
    published = honest(tried, labels, numbered, folds, as_published)
    described.kind, described.temperature = chosen.kind, chosen.temperature
    challenger = challenge.answers(work, examples, folds, tried, [work.recipe.architecture, *rivals])
    if challenger is not None:
        answers, published = (
            challenge.honest(chosen.out_of_fold, one, challenger, labels, numbered, folds)
            for one in (answers, published)
        )
    found = cross_validated(labels, answers, [one.message(labels) for one in candidates], numbered)
    if challenger is not None:
        found.challenge.CopyFrom(challenge.told(work, chosen.out_of_fold, challenger, labels, numbered))
    found.label_suspects.extend(suspects.listed(examples, suspects.believed(span, labels, len(names), folds, step)))
    if drawn:
        fit = fitter(chosen.kind, work.recipe, span, len(names))
        curve = learning_curve.draw(span, labels, numbered, folds, fit, chosen.out_of_fold, work.recipe.seed, step)
        found.more_examples.CopyFrom(learning_curve.more(curve, names, labels, numbered, answers))
    coloured = _coloured(work, examples, labels, folds, step) if of_pictures else None
    worth = answers.worth(independent(groups))
    known = {Baseline.KIND_MAJORITY_CLASS: baselines.majority(labels), Baseline.KIND_COLOUR_AND_SIZE: coloured}
    found.baselines.extend(
        baselines.message(kind, labels, right, worth) for kind, right in known.items() if right is not None
    )
    warning = baselines.warning(names, labels, numbered, answers, coloured)
    if warning:
        work.notice(warning.reason, warning.message)
    probabilities = np.stack([softmax(one) for one in published.logits])
    return described, found, HeldOut(probabilities, labels, numbered)


def _coloured(work: Work, examples: Examples, labels: Labels, folds: Folds, step: "Steps") -> Floats:
    """float32[n]: in what share of the repeats colours and sizes alone answer each example rightly."""
    measured = Steps(work, "colours", len(examples.train))
    rows = colours.of(work, examples, examples.train, measured)
    fit = partial(colours.fit, num_classes=len(examples.labels))
    return folds.out_of_fold(rows, labels, len(examples.labels), fit, step).right(labels)


def _say_why_not(work: Work, label: str, groups: int) -> None:
    needs = f"it needs {MIN_FOLDS} different training examples of every class, and {label} has {groups}."
    message = f"There is no cross-validation: {needs} So probabilities are not calibrated."
    work.notice("NOT_CROSS_VALIDATED", message)
    if work.recipe.challenger_epochs:
        work.notice(challenge.LEFT_OUT, "There was no challenger: it could not be compared out of fold.")
    if work.recipe.head == HEAD_KIND_LDA:
        message = "The head is LOGISTIC_REGRESSION: without a temperature LDA would be far too sure of itself."
        work.notice("HEAD_FALLBACK", message)


class Steps:
    """Says how many of all steps are done."""

    def __init__(self, work: Work, phase: str, total: int) -> None:
        self._work, self._phase, self._done, self._total = work, phase, 0, total

    def __call__(self) -> None:
        self._done += 1
        self._work.progress(self._phase, self._done, self._total)
