"""The challenger of `quality`: the chosen network, fine-tuned, beside its frozen features and their head, on the same
folds. It takes the place only where it is right more often by over one standard error. It knows no torch: what trains
does, and is loaded where it is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import structlog

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import Challenge, CrossValidation, Recipe
from handful.v1.worker_pb2 import Claim
from services.trainer.presets import FINE_TUNE
from services.trainer.recipes import resolve
from services.trainer.worker.cross_validation import Folds, Labels, OutOfFold, better
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.head_choice import EVERY, Candidate, Rows, best_architecture
from services.trainer.worker.memory import OutOfMemory, is_out_of_memory
from services.trainer.worker.parts import has_torch
from services.trainer.worker.pretrained import WeightsUnavailable
from services.trainer.worker.work import Diverged, Trained, Work

log = structlog.get_logger()

CHALLENGED, LEFT_OUT = "CHALLENGED", "CHALLENGER_LEFT_OUT"
Kind = TypeVar("Kind", bound=Work)


class _Unkept(Work):
    """Gradient training in a run whose preset keeps no checkpoints: whoever takes it up begins anew."""

    keeps_checkpoints = False


@dataclass
class _Rehearsal(_Unkept):
    """The fine-tuning of one fold of so many: its epochs are none of the run's."""

    fold: int = 0
    folds: int = 1

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002 - nobody is told
        self.reporter.check()

    def progress(self, phase: str, completed: int = 0, total: int = 0, computed: int = 0, cached: int = 0) -> None:
        done, of = (self.fold * total + completed, self.folds * total) if phase == "fitting" else (0, 0)
        super().progress("challenging", done, of, computed, cached)


def answers(
    work: Work, examples: Examples, folds: Folds, tried: Sequence[Sequence[Candidate]], architectures: Sequence[str]
) -> Floats | None:
    """Logits float32[n, classes] of the first repeat: each fold's by a network fine-tuned on the others, of the
    architecture that these choose of those that were tried. None, with a notice, where there is no challenger.
    """
    work.forget(CHALLENGED, LEFT_OUT)
    if not work.recipe.challenger_epochs:
        return None
    if not has_torch():
        work.notice(LEFT_OUT, "There was no challenger: fine-tuning needs torch, which this worker has not.")
        return None
    try:
        return _answers(work, examples, folds, tried, architectures)
    except Exception as problem:
        work.reporter.check()
        why = left_out(problem)
        if not why:
            raise
        log.warning("challenger left out", problem=str(problem))
        work.notice(LEFT_OUT, f"There was no challenger. {why}")
        return None


def _answers(
    work: Work, examples: Examples, folds: Folds, tried: Sequence[Sequence[Candidate]], architectures: Sequence[str]
) -> Floats:
    from services.trainer.worker import fine_tuning  # torch, where it is needed

    labels = targets(examples.train)
    logits = np.zeros((len(labels), len(examples.labels)), np.float32)
    for fold in range(folds.folds):
        held_out = folds.of_row[0] == fold
        recipe = _recipe(work, architectures[best_architecture(tried, labels, ~held_out)])
        rehearsal = _like(_Rehearsal, work, recipe)
        rehearsal.fold, rehearsal.folds = fold, folds.folds
        parts = [tuple(examples.train[place] for place in np.flatnonzero(one)) for one in (~held_out, held_out)]
        # The network is not held while the next is trained.
        probabilities = fine_tuning.fit(rehearsal, replace(examples, train=parts[0], val=parts[1])).val_probabilities
        logits[held_out] = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return logits


def left_out(problem: Exception) -> str:
    """A sentence for people where the problem costs the challenger alone; empty where it is the run's."""
    if isinstance(problem, WeightsUnavailable):
        return str(problem)
    if isinstance(problem, Diverged):
        return "Its loss stopped being a number."
    if isinstance(problem, OutOfMemory) or is_out_of_memory(problem):
        return "The memory of the worker does not suffice to fine-tune it."
    return ""


def won(champion: OutOfFold, challenger: Floats, labels: Labels, groups: Labels, rows: Rows = EVERY) -> bool:
    """Whether the challenger's answers, logits float32[n, classes], are right more often about some rows, by more than
    one standard error of the paired difference.
    """
    return better(_ahead(champion, challenger, labels)[rows], groups[rows])


def _ahead(champion: OutOfFold, challenger: Floats, labels: Labels) -> Floats:
    """float32[n]: by how much the challenger is right more often about each."""
    difference: Floats = (challenger.argmax(axis=1) == labels) - champion.right(labels)
    return difference


def honest(
    champion: OutOfFold, measured: OutOfFold, challenger: Floats, labels: Labels, groups: Labels, folds: Folds
) -> OutOfFold:
    """What is answered where each fold is answered by whoever the answers to the others choose: the challenger, or the
    champion as it was `measured`. The challenger has answered once, so where it is chosen there is one repeat.
    """
    logits, chosen, ahead = measured.logits.copy(), False, _ahead(champion, challenger, labels)
    for repeat, held_out in folds.held_out():
        if better(ahead[~held_out], groups[~held_out]):
            logits[repeat, held_out] = challenger[held_out]
            chosen = True
    return OutOfFold(measured.folds, logits[:1], most_repeats=1) if chosen else measured


def told(work: Work, champion: OutOfFold, challenger: Floats, labels: Labels, groups: Labels) -> Challenge:
    """How it ended, with a notice."""
    found = Challenge(
        champion_accuracy=float(champion.right(labels).mean()),
        challenger_accuracy=float((challenger.argmax(axis=1) == labels).mean()),
        won=won(champion, challenger, labels, groups),
    )
    why = "which is better by more than one standard error: the fine-tuned network was taken, without a temperature"
    if not found.won:
        why = "which is not better by more than one standard error: the head was taken"
    work.notice(
        CHALLENGED,
        f"Of {len(labels)} training examples, out of fold, the head on frozen features is right about "
        f"{found.champion_accuracy:.1%}, the fine-tuned network about {found.challenger_accuracy:.1%}, {why}.",
    )
    return found


def fine_tuned(work: Work, examples: Examples, found: CrossValidation) -> Trained:
    """The challenger, fine-tuned on all training examples, with the figures of the challenge that it won."""
    from services.trainer.worker import fine_tuning  # torch, where it is needed

    training = _like(_Unkept, work, _recipe(work, work.recipe.architecture))
    training.history, training.notices = work.history, work.notices
    trained = fine_tuning.train(training, examples)
    found.ClearField("more_examples")  # it is a curve of the head's
    return replace(trained, cross_validation=found)


def _recipe(work: Work, architecture: str) -> Recipe:
    asked = Recipe(preset=FINE_TUNE, architecture=architecture, seed=work.recipe.seed)
    asked.num_epochs = work.recipe.challenger_epochs
    return resolve(asked, architecture)


def _like(kind: type[Kind], work: Work, recipe: Recipe) -> Kind:
    """A piece of work of the same run by another recipe."""
    claim = Claim(training_run=work.claim.training_run, attempt=work.claim.attempt, recipe=recipe)
    whose = work.reporter, work.threads, work.cache, work.children
    return kind(claim, work.store, work.weights, *whose, usage=work.usage)
