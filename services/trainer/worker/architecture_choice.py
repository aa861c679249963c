"""Features of a run's examples, and which architecture gives them where its recipe leaves that open: the one whose
head does best out of fold on the training examples, whose groups (recordings, speakers, bursts) are never divided.
Validation examples have no say.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from handful.bundle.heads import Floats, softmax
from handful.v1.bundle_pb2 import MODALITY_SOUND, ArchitectureChoice, Backbone, Recipe
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRunEvent
from services.trainer.architectures import ARCHITECTURES, to_choose_from
from services.trainer.sound_architectures import AUTO, CANDIDATES, SOUND_ARCHITECTURES
from services.trainer.worker import backbones, sound_graphs
from services.trainer.worker.cross_validation import MIN_FOLDS, Folds, Labels, OutOfFold, Step
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.features import Counts, Features, rows_of
from services.trainer.worker.head_choice import fitter, kinds
from services.trainer.worker.parts import can_build
from services.trainer.worker.pretrained import Place, WeightsUnavailable
from services.trainer.worker.spans import Span
from services.trainer.worker.validation import Steps
from services.trainer.worker.work import Work


@dataclass(frozen=True)
class Tried:
    """An architecture, and what its heads answered out of fold: in what share of the repeats each example was answered
    rightly, float32[n], and with what loss, float32[n]; and whether in each repeat, bool[repeats, n].
    """

    architecture: str
    right: Floats
    loss: Floats
    each: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, architecture: str, answers: OutOfFold, labels: Labels) -> "Tried":
        picked = np.stack([softmax(one)[np.arange(len(labels)), labels] for one in answers.logits])
        loss = -np.log(np.maximum(picked, np.finfo(np.float32).tiny)).mean(axis=0)
        return cls(architecture, answers.right(labels), loss, answers.logits.argmax(axis=2) == labels)

    @property
    def message(self) -> ArchitectureChoice.Candidate:
        return ArchitectureChoice.Candidate(
            architecture=self.architecture, accuracy=float(self.right.mean()), log_loss=float(self.loss.mean())
        )


@dataclass(frozen=True)
class Prepared:
    """The backbone of a run, float32[n, width] of its training, then validation examples, and how it was chosen: None
    where the recipe names it, or nothing could be chosen.
    """

    backbone: Backbone
    rows: Floats
    choice: ArchitectureChoice | None


def prepare(work: Work, examples: Examples) -> Prepared:
    """The features of a run, with an event that says what they cost; its recipe is settled now. WeightsUnavailable."""
    started, counts = time.perf_counter(), Counts()
    choice = None
    if work.recipe.architecture == AUTO:
        architecture, choice = _chosen(work, examples, counts)
        _settle(work, architecture)
    backbone, rows = _rows(work, examples, work.recipe.architecture, counts, with_val=True)
    seconds = time.perf_counter() - started
    ready = FeaturesReady(features_computed=counts.computed, features_cached=counts.cached, seconds=seconds)
    work.reporter.event(TrainingRunEvent(features_ready=ready))
    return Prepared(backbone, rows, choice)


def best(tried: Sequence[Tried], seen: npt.NDArray[np.bool_] | None = None) -> Tried:
    """The one that is right most often; of equals the one with the smaller loss, and of these the first. With `seen`,
    bool[n], by the answers to those examples alone.
    """
    places = slice(None) if seen is None else seen
    return min(tried, key=lambda one: (-one.right[places].mean(), one.loss[places].mean()))


def accuracy_of_choosing(tried: Sequence[Tried], folds: Folds) -> float:
    """How often the choice is right on what it has not seen: each fold is answered by the one that does best on the
    others. The best of several on the same answers is always a little too good.
    """
    right = np.zeros(folds.of_row.shape, dtype=bool)
    for repeat, of_row in enumerate(folds.of_row):
        for fold in range(folds.folds):
            held_out = of_row == fold
            right[repeat, held_out] = best(tried, ~held_out).each[repeat, held_out]
    return float(right.mean())


def _chosen(work: Work, examples: Examples, counts: Counts) -> tuple[str, ArchitectureChoice | None]:
    candidates = _candidates(work, examples)
    labels, groups = targets(examples.train), [one.group for one in examples.train]
    folds = Folds.drawn(labels, groups, len(examples.labels), work.recipe.seed)
    if folds.folds < MIN_FOLDS:
        message = (
            f"No architecture could be chosen: {examples.labels[folds.smallest_class]} has {folds.folds} groups of "
            f"training examples, and {MIN_FOLDS} are needed. {candidates[-1]} was taken."
        )
        work.notice("ARCHITECTURE_NOT_CHOSEN", message)
        return candidates[-1], None
    tried = []
    for architecture in candidates:
        rows = _rows(work, examples, architecture, counts, with_val=False)[1]
        step = Steps(work, "choosing", folds.num_fits)
        tried.append(_tried(work, architecture, rows, labels, folds, step))
    first = best(tried)
    ordered = [first, *(one for one in tried if one is not first)]
    choice = ArchitectureChoice(
        candidates=[one.message for one in ordered], accuracy=accuracy_of_choosing(tried, folds)
    )
    work.notice("ARCHITECTURE_CHOSEN", _why(choice, len(labels)))
    return first.architecture, choice


def _why(choice: ArchitectureChoice, num_examples: int) -> str:
    figures = ", ".join(f"{one.architecture} {one.accuracy:.1%}" for one in choice.candidates)
    return (
        f"Of {num_examples} training examples, out of fold, are right with {figures}; "
        f"{choice.candidates[0].architecture} was taken. The best of several looks a little too good: what is chosen "
        f"without the examples that it is asked about is right about {choice.accuracy:.1%}."
    )


def _candidates(work: Work, examples: Examples) -> list[str]:
    """What there is to choose from. WeightsUnavailable where that is nothing."""
    if examples.modality == MODALITY_SOUND:
        return list(CANDIDATES)
    here = {id_ for id_, place in work.weights.places().items() if place in (Place.PACKAGE, Place.STORE)}
    rows = [row for row in to_choose_from(here, work.recipe.max_gflops) if can_build(row)]
    if not rows:
        raise WeightsUnavailable(
            "This worker has the pretrained weights of no network that needs at most "
            f"{work.recipe.max_gflops:g} GFLOPs a picture. Raise max_gflops, or say `handful weights fetch`."
        )
    return [row.id for row in rows]


def _settle(work: Work, architecture: str) -> None:
    settled = _naming(work.recipe, architecture)
    if settled.HasField("max_gflops"):  # it says nothing of a network that is named
        settled.max_gflops = 0
    work.settle(settled)


def _naming(recipe: Recipe, architecture: str) -> Recipe:
    named = Recipe()
    named.CopyFrom(recipe)
    named.architecture = architecture
    return named


def _rows(
    work: Work, examples: Examples, architecture: str, counts: Counts, *, with_val: bool
) -> tuple[Backbone, Floats]:
    backbone, graph = work.wait("graph", partial(_find, work, architecture))
    found = Features(work.store, work.cache, examples, backbone, graph, work.threads)
    rows = rows_of(work, found, (*examples.train, *(examples.val if with_val else ())))
    counts.computed += found.counts.computed
    counts.cached += found.counts.cached
    return backbone, rows


def _find(work: Work, architecture: str) -> tuple[Backbone, bytes]:
    if architecture in SOUND_ARCHITECTURES:
        return sound_graphs.find(work.store, work.weights, SOUND_ARCHITECTURES[architecture], work.children)
    recipe, plain = _naming(work.recipe, architecture), ARCHITECTURES[architecture].preprocessing
    return backbones.find(work.store, work.weights, recipe, plain, work.project, work.children)


def _tried(work: Work, architecture: str, rows: Floats, labels: Labels, folds: Folds, step: Step) -> Tried:
    num_classes = int(labels.max()) + 1
    with threadpool_limits(1, "blas"):
        span = Span.of(rows)
        fit = fitter(kinds(work.recipe)[0], work.recipe, span, num_classes)
        answers = folds.out_of_fold(span.rows, labels, num_classes, fit, step)
    return Tried.of(architecture, answers, labels)
