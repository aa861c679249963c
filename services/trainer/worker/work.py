"""A claimed run as the training code sees it: what to do, where the data lies, and how to tell what happened."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Thread
from typing import ClassVar, TypeVar

import numpy as np

from handful.bundle.heads import Floats, LinearHead
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import Pixels
from handful.v1.bundle_pb2 import Backbone, CrossValidation, EpochMetrics, Head, Metric, Notice, Recipe
from handful.v1.trainer_pb2 import EpochCompleted, Progress, RecipeSettled, TrainingRunEvent
from handful.v1.worker_pb2 import Checkpoint, Claim
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared.objects import ObjectStore
from services.shared.objects.nearby import Cache, NearbyStore
from services.shared.objects.retrying import RetryingStore
from services.trainer.worker import checkpoints
from services.trainer.worker.children import Children
from services.trainer.worker.examples import Examples
from services.trainer.worker.held_out import HeldOut
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.reporting import Reporter
from services.trainer.worker.resources import Usage

CHECK_SECONDS = 0.5

Result = TypeVar("Result")


class Diverged(Exception):
    """The loss stopped being a number."""

    @classmethod
    def in_epoch(cls, epoch: int) -> "Diverged":
        return cls(f"The loss stopped being a number in epoch {epoch}. Try a smaller learning_rate.")


class WeightsMismatch(Exception):
    """Weights or a checkpoint are not those of the run's network; the message says what to do."""


class NoExamples(Exception):
    """There is nothing to measure on; the message says why."""


class CannotDivide(Exception):
    """The training examples cannot be dealt into the folds that the recipe asks for; the message says why."""


@dataclass
class Work:
    """One attempt at one run."""

    keeps_checkpoints: ClassVar[bool] = True

    claim: Claim
    store: ObjectStore
    weights: PretrainedWeights
    reporter: Reporter
    threads: int
    # The same store, for features: with copies on this machine, maybe.
    cache: ObjectStore
    children: Children = field(default_factory=Children)
    history: list[EpochMetrics] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self.history.extend(self.claim.history)
        self.notices.extend(self.claim.notices)

    @property
    def recipe(self) -> Recipe:
        return self.claim.recipe

    @property
    def project(self) -> str:
        return self.claim.training_run.split("/")[1]

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch ended. Diverged where a figure is not finite."""
        if not all(np.isfinite(value) for value in metrics.values()):
            raise Diverged.in_epoch(epoch)
        messages = [Metric(name=name, value=float(value)) for name, value in metrics.items()]
        self.history.append(EpochMetrics(epoch=epoch, metrics=messages))
        self.reporter.event(TrainingRunEvent(epoch=epoch, epoch_completed=EpochCompleted(metrics=messages)))
        self.reporter.check()

    def notice(self, reason: str, message: str) -> None:
        """Something was not done as plainly as asked: an event, and a line in the manifest; once in all attempts."""
        notice = Notice(reason=reason, message=message)
        if notice not in self.notices:
            self.notices.append(notice)
            self.reporter.event(TrainingRunEvent(notice=notice))

    def forget(self, *reasons: str) -> None:
        """What earlier attempts noted for these reasons is void: this one does it anew."""
        self.notices[:] = [one for one in self.notices if one.reason not in reasons]

    def choose(self, recipe: Recipe) -> None:
        """From now on this is the recipe of this attempt; another chooses again, and so knows what it chose from. The
        trainer has it of the model that was made by it.
        """
        self.claim.recipe.CopyFrom(recipe)

    def settle(self, recipe: Recipe) -> None:
        """From now on this is the run's recipe, in later attempts too."""
        self.claim.recipe.CopyFrom(recipe)
        self.reporter.event(TrainingRunEvent(recipe_settled=RecipeSettled(recipe=recipe)))

    def progress(self, phase: str, completed: int = 0, total: int = 0, computed: int = 0, cached: int = 0) -> None:
        """How far the work at hand is; raises where the run shall not go on."""
        self.usage.enter(phase)
        self.reporter.progress(
            Progress(phase=phase, completed=completed, total=total, features_computed=computed, features_cached=cached)
        )
        self.reporter.check()

    def wait(self, phase: str, task: Callable[[], Result]) -> Result:
        """The task's result. It runs in a thread of its own, so that a run can be cancelled while it does."""
        pending: Future[Result] = Future()
        Thread(target=_settle, args=(pending, task), daemon=True).start()
        while not pending.done():
            self.progress(phase)
            wait([pending], CHECK_SECONDS)
        return pending.result()

    def checkpoint(self, epoch: int, data: bytes, sha256: str) -> None:
        """Stores a checkpoint and has it committed; removes those that are of no use any more."""
        key = checkpoints.key(self.claim, epoch)
        self.store.put(key, data)
        checkpoints.remove(self.store, self.reporter.checkpoint(Checkpoint(key=key, sha256=sha256, epoch=epoch)))


def begin(
    stub: WorkerServiceStub,
    claim: Claim,
    store: RetryingStore,
    weights: PretrainedWeights,
    threads: int,
    cache: Cache | None = None,
) -> Work:
    """A claimed run, reported on from now on."""
    reporter = Reporter(stub, claim)
    checking = store.checking(reporter.check)
    return Work(claim, checking, weights, reporter, threads, NearbyStore(checking, cache) if cache else checking)


@dataclass(frozen=True)
class Trained:
    """What training made: a head on a backbone, what kind it is of, its answers on the validation examples, and its
    answers to the first few of them, or of the training examples, to hold the published model against; and, where it
    was measured, how such a head does on training examples that it was not fitted on.
    """

    examples: Examples
    backbone: Backbone
    head: LinearHead
    described: Head
    val_probabilities: Floats
    # None of sounds, which go with the model as files.
    golden_pixels: Pixels | None
    golden_probabilities: Floats
    cross_validation: CrossValidation | None = None
    # Where the model can tell what is like none of its classes.
    neighbours: Neighbours | None = None
    # Answers to training examples that they were not fitted on; without, those on the validation examples are all.
    held_out: HeldOut | None = None


def _settle(future: Future[Result], task: Callable[[], Result]) -> None:
    try:
        future.set_result(task())
    except BaseException as problem:  # noqa: BLE001 - it is raised where the result is awaited
        future.set_exception(problem)
