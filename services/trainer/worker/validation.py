"""All that a run of `fast` learns out of fold: which head, at which temperature, how good it is, how much better than
knowing next to nothing, which labels to look at, and what was answered, for whoever promises anything by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from handful.bundle.heads import Floats, softmax
from handful.v1.bundle_pb2 import (
    HEAD_KIND_LDA,
    HEAD_KIND_LOGISTIC_REGRESSION,
    MODALITY_IMAGE,
    Baseline,
    Challenge,
    CrossValidation,
    Head,
    MoreExamples,
)
from services.trainer.head_fields import MIN_FOLDS
from services.trainer.intervals import independent
from services.trainer.worker import baselines, challenge, colours, learning_curve, suspects
from services.trainer.worker.cross_validation import Folds, Labels, OutOfFold
from services.trainer.worker.evaluation import cross_validated
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.head_choice import Candidate, as_published, best, fitter, honest, num_steps, try_all
from services.trainer.worker.held_out import HeldOut
from services.trainer.worker.spans import Span
from services.trainer.worker.work import CannotDivide, Work

_NONE: Mapping[str, Sequence[Candidate]] = {}


def deal(work: Work, examples: Examples) -> Folds:
    """The folds of a run. CannotDivide where they are fewer, or fewer times, than its recipe asks for."""
    labels, groups = targets(examples.train), [one.group for one in examples.train]
    recipe = work.recipe
    asked = recipe.num_folds, recipe.num_repeats
    folds = Folds.drawn(labels, groups, len(examples.labels), recipe.seed, *asked, work.reporter.check)
    had = folds.folds, len(folds.of_row)
    if any(number not in (0, found) for number, found in zip(asked, had, strict=True)):
        raise CannotDivide(
            f"Groups of the training examples hold several classes: only {had[1]} draws of the folds that are asked "
            "for were found that leave some of every class in the others. Lower num_folds or num_repeats, or leave "
            "them out."
        )
    return folds


def validate(
    work: Work, examples: Examples, span: Span, folds: Folds, rivals: Mapping[str, Sequence[Candidate]] = _NONE
) -> tuple[Head, CrossValidation | None, HeldOut | None]:
    """What the head shall be, figures out of fold, and what was answered there at the temperatures that are published;
    none, with a notice, where a class cannot be divided. `rivals` are candidates of the architectures that were tried
    and not taken.
    """
    described = Head(normalization=Head.NORMALIZATION_CENTER_L2, kind=HEAD_KIND_LOGISTIC_REGRESSION)
    if folds.folds < MIN_FOLDS:
        _say_why_not(work, examples.labels[folds.smallest_class], folds.folds)
        return described, None, None
    trial = _Trial.of(work, examples, span, folds)
    candidates = try_all(work.recipe, span, trial.labels, trial.num_classes, folds, trial.step)
    chosen = best(candidates, trial.labels, trial.groups)
    described.kind, described.temperature = chosen.kind, chosen.temperature
    answers, published, challenged = _answers(trial, chosen, {work.recipe.architecture: candidates, **rivals})
    told = [one.message(trial.labels) for one in candidates]
    found = cross_validated(trial.labels, answers, told, trial.groups)
    if challenged is not None:
        found.challenge.CopyFrom(challenged)
    believed = suspects.believed(span, trial.labels, trial.num_classes, folds, trial.step)
    found.label_suspects.extend(suspects.listed(examples, believed))
    if trial.has_curve:
        found.more_examples.CopyFrom(_more_examples(trial, chosen, answers))
    _hold_against_baselines(trial, answers, found)
    probabilities = np.stack([softmax(one) for one in published.logits])
    return described, found, HeldOut(probabilities, trial.labels, trial.groups)


@dataclass(frozen=True)
class _Trial:
    """What heads are tried on out of fold: the training examples, their features, classes and groups, int64[n] each."""

    work: Work
    examples: Examples
    span: Span
    folds: Folds
    labels: Labels
    groups: Labels
    # Where the smallest class has groups enough for a curve of its parts.
    has_curve: bool
    step: "Steps"

    @classmethod
    def of(cls, work: Work, examples: Examples, span: Span, folds: Folds) -> "_Trial":
        labels = targets(examples.train)
        groups = np.unique([one.group for one in examples.train], return_inverse=True)[1]
        has_curve = len(np.unique(groups[labels == folds.smallest_class])) >= learning_curve.FEWEST
        # Beside each kind of head: the suspects, the colours of pictures, the curve.
        rounds = 1 + _of_pictures(examples) + len(learning_curve.SHARES) * has_curve
        step = Steps(work, "validating", num_steps(work.recipe, folds) + folds.num_fits * rounds)
        return cls(work, examples, span, folds, labels, groups, has_curve, step)

    @property
    def num_classes(self) -> int:
        return len(self.examples.labels)


def _of_pictures(examples: Examples) -> bool:
    return examples.modality == MODALITY_IMAGE


def _answers(
    trial: _Trial, chosen: Candidate, tried: Mapping[str, Sequence[Candidate]]
) -> tuple[OutOfFold, OutOfFold, Challenge | None]:
    """What is answered out of fold where each fold is answered by what the answers to the others choose: for figures,
    and as sure as it is published; and how a challenger did, where there was one, which is chosen so too.
    """
    each = list(tried.values())
    on = trial.labels, trial.groups, trial.folds, trial.work.reporter.check
    answers, published = honest(each, *on), honest(each, *on, as_published)
    challenger = challenge.answers(trial.work, trial.examples, trial.folds, each, list(tried))
    if challenger is None:
        return answers, published, None
    champion, known = chosen.out_of_fold, (challenger, trial.labels, trial.groups)
    answers, published = (challenge.honest(champion, one, *known, trial.folds) for one in (answers, published))
    return answers, published, challenge.told(trial.work, champion, *known)


def _more_examples(trial: _Trial, chosen: Candidate, answers: OutOfFold) -> MoreExamples:
    """What more examples would bring to a head of the chosen kind."""
    recipe, labels, groups = trial.work.recipe, trial.labels, trial.groups
    fit = fitter(chosen.kind, recipe, trial.span, trial.num_classes)
    whole = chosen.out_of_fold
    curve = learning_curve.draw(trial.span, labels, groups, trial.folds, fit, whole, recipe.seed, trial.step)
    return learning_curve.more(curve, trial.examples.labels, labels, groups, answers)


def _hold_against_baselines(trial: _Trial, answers: OutOfFold, found: CrossValidation) -> None:
    """Adds what knowing next to nothing is worth, with a notice where the answers are hardly worth more."""
    labels, coloured = trial.labels, _coloured(trial) if _of_pictures(trial.examples) else None
    worth = answers.worth(independent([one.group for one in trial.examples.train]))
    known = {Baseline.KIND_MAJORITY_CLASS: baselines.majority(labels), Baseline.KIND_COLOUR_AND_SIZE: coloured}
    found.baselines.extend(
        baselines.message(kind, labels, right, worth, answers.folds)
        for kind, right in known.items()
        if right is not None
    )
    warning = baselines.warning(trial.examples.labels, labels, trial.groups, answers, coloured)
    if warning:
        trial.work.notice(warning.reason, warning.message)


def _coloured(trial: _Trial) -> Floats:
    """float32[n]: in what share of the repeats colours and sizes alone answer each example rightly."""
    measured = Steps(trial.work, "colours", len(trial.examples.train))
    rows = colours.of(trial.work, trial.examples, trial.examples.train, measured)
    fit = partial(colours.fit, num_classes=trial.num_classes)
    return trial.folds.out_of_fold(rows, trial.labels, trial.num_classes, fit, trial.step).right(trial.labels)


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
