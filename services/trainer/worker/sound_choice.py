"""Which architecture a run on sounds takes, where its recipe leaves that open: the one whose head does best out of fold
on the training examples, whose groups (recordings, speakers) are never divided. Validation examples have no say.
"""

import time
from dataclasses import dataclass
from functools import partial

from threadpoolctl import threadpool_limits

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import Backbone, Recipe
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRunEvent
from services.trainer.sound_architectures import AUTO, CANDIDATES, SOUND_ARCHITECTURES
from services.trainer.worker import sound_graphs
from services.trainer.worker.cross_validation import MIN_FOLDS, Folds, Labels
from services.trainer.worker.evaluation import scores
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.features import Counts, Features, rows_of
from services.trainer.worker.head_choice import fitter, kinds
from services.trainer.worker.spans import Span
from services.trainer.worker.work import Work


@dataclass(frozen=True)
class Tried:
    """How an architecture did out of fold."""

    architecture: str
    accuracy: float
    log_loss: float


def features(work: Work, examples: Examples) -> tuple[Backbone, Floats]:
    """The backbone of the run, now settled, and float32[n, width] of its training, then validation examples."""
    started, counts = time.perf_counter(), Counts()
    if work.recipe.architecture == AUTO:
        _settle(work, _chosen(work, examples, counts))
    backbone, rows = _rows(work, examples, work.recipe.architecture, counts, with_val=True)
    seconds = time.perf_counter() - started
    ready = FeaturesReady(features_computed=counts.computed, features_cached=counts.cached, seconds=seconds)
    work.reporter.event(TrainingRunEvent(features_ready=ready))
    return backbone, rows


def _settle(work: Work, architecture: str) -> None:
    settled = Recipe()
    settled.CopyFrom(work.recipe)
    settled.architecture = architecture
    work.settle(settled)


def _chosen(work: Work, examples: Examples, counts: Counts) -> str:
    labels, groups = targets(examples.train), [one.group for one in examples.train]
    folds = Folds.drawn(labels, groups, len(examples.labels), work.recipe.seed)
    if folds.folds < MIN_FOLDS:
        message = (
            f"No architecture could be chosen: {examples.labels[folds.smallest_class]} has {folds.folds} groups of "
            f"training examples, and {MIN_FOLDS} are needed. {CANDIDATES[-1]} was taken."
        )
        work.notice("ARCHITECTURE_NOT_CHOSEN", message)
        return CANDIDATES[-1]
    tried = []
    for architecture in CANDIDATES:
        rows = _rows(work, examples, architecture, counts, with_val=False)[1]
        tried.append(_tried(work, architecture, rows, labels, folds))
    best = min(tried, key=lambda one: (-one.accuracy, one.log_loss))
    figures = ", ".join(f"{one.architecture} {one.accuracy:.1%}" for one in tried)
    message = (
        f"Of {len(labels)} training examples, out of fold, are right with {figures}; {best.architecture} was taken."
    )
    work.notice("ARCHITECTURE_CHOSEN", message)
    return best.architecture


def _rows(
    work: Work, examples: Examples, architecture: str, counts: Counts, *, with_val: bool
) -> tuple[Backbone, Floats]:
    row = SOUND_ARCHITECTURES[architecture]
    find = partial(sound_graphs.find, work.store, work.weights, row, work.children)
    backbone, graph = work.wait("graph", find)
    found = Features(work.store, work.cache, examples, backbone, graph, work.threads)
    rows = rows_of(work, found, (*examples.train, *(examples.val if with_val else ())))
    counts.computed += found.counts.computed
    counts.cached += found.counts.cached
    return backbone, rows


def _tried(work: Work, architecture: str, rows: Floats, labels: Labels, folds: Folds) -> Tried:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        work.progress("choosing", done, folds.num_fits)

    num_classes = int(labels.max()) + 1
    with threadpool_limits(1, "blas"):
        span = Span.of(rows)
        fit = fitter(kinds(work.recipe)[0], work.recipe, span, num_classes)
        found = scores(labels, folds.out_of_fold(span.rows, labels, num_classes, fit, step).probabilities, "cv")
    return Tried(architecture, found["cv/accuracy"], found["cv/loss"])
