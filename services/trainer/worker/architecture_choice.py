"""Features of a run's examples, and which architecture gives them where its recipe leaves that open: the one whose
head does best out of fold on the training examples, whose groups (recordings, speakers, bursts) are never divided.
Validation examples have no say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog
from threadpoolctl import threadpool_limits

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import MODALITY_SOUND, ArchitectureChoice, Backbone, Recipe
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow, to_choose_from, with_members
from services.trainer.head_fields import MIN_FOLDS
from services.trainer.input_sizes import preprocessing
from services.trainer.sound_architectures import AUTO, CANDIDATES, SOUND_ARCHITECTURES
from services.trainer.worker import backbones, sound_graphs
from services.trainer.worker.agreement import GraphDisagrees
from services.trainer.worker.children import ChildLost
from services.trainer.worker.cross_validation import Folds, Labels
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.features import Counts, Features, reported, rows_of, views_of
from services.trainer.worker.head_choice import Candidate, best_architecture, honest, num_steps, try_all
from services.trainer.worker.memory import is_out_of_memory
from services.trainer.worker.parts import can_build
from services.trainer.worker.pretrained import Place, WeightsUnavailable
from services.trainer.worker.spans import Span
from services.trainer.worker.validation import Steps
from services.trainer.worker.views import Views
from services.trainer.worker.work import Work

log = structlog.get_logger()

# What is said of a choice. An attempt that chooses anew says its own.
NOT_TRIED, NOT_CHOSEN, CHOSEN = "ARCHITECTURE_NOT_TRIED", "ARCHITECTURE_NOT_CHOSEN", "ARCHITECTURE_CHOSEN"


@dataclass(frozen=True)
class Prepared:
    """The backbone of a run; float32[n, width] of its training examples, or with augmented views
    float32[n, 1 + views, width], and of its validation examples; and how it was chosen, with the candidates of those
    that were not taken, by name: None and none where the recipe names it, or nothing could be chosen.
    """

    backbone: Backbone
    train: Floats
    val: Floats
    choice: ArchitectureChoice | None
    rivals: dict[str, list[Candidate]]


def prepare(work: Work, examples: Examples, folds: Folds) -> Prepared:
    """The features of a run, with an event that says what they cost; its recipe names the architecture now, chosen in
    these folds. A network that cannot be built or measured costs a choice that network; where there is no other, its
    problem is raised.
    """
    counts, choice, rivals = Counts(), None, dict[str, list[Candidate]]()
    with reported(work, counts):
        if work.recipe.architecture == AUTO:
            architecture, choice, rivals = _chosen(work, examples, folds, counts)
            _take(work, architecture)
        backbone, features = _found(work, examples, work.recipe.architecture, counts)
        rows = rows_of(work, features, (*examples.train, *examples.val))
        train, val = rows[: len(examples.train)], rows[len(examples.train) :]
        if work.recipe.views:
            views = Views(work.recipe.views, work.recipe.seed)
            drawn = views_of(work, features, examples.train, views)
            train = np.concatenate([train[:, None], drawn], axis=1)
    return Prepared(backbone, train, val, choice, rivals)


def _chosen(
    work: Work, examples: Examples, folds: Folds, counts: Counts
) -> tuple[str, ArchitectureChoice | None, dict[str, list[Candidate]]]:
    work.forget(NOT_TRIED, NOT_CHOSEN, CHOSEN)
    candidates = _candidates(work, examples)
    labels, groups = targets(examples.train), [one.group for one in examples.train]
    if folds.folds < MIN_FOLDS:
        message = (
            f"No architecture could be chosen: {examples.labels[folds.smallest_class]} has {folds.folds} groups of "
            f"training examples, and {MIN_FOLDS} are needed. {untried(candidates)} was taken."
        )
        work.notice(NOT_CHOSEN, message)
        return untried(candidates), None, {}
    names, tried = _all_tried(work, examples, candidates, folds, counts)
    first = best_architecture(tried, labels)
    order = [first, *(place for place in range(len(tried)) if place != first)]
    answers = honest(tried, labels, np.unique(groups, return_inverse=True)[1], folds, work.reporter.check)
    choice = ArchitectureChoice(
        candidates=[_message(names[place], tried[place][0], labels) for place in order],
        accuracy=float(answers.right(labels).mean()),
    )
    work.notice(CHOSEN, _why(choice, len(labels)))
    return names[first], choice, {names[place]: tried[place] for place in order[1:]}


def _all_tried(
    work: Work, examples: Examples, candidates: Sequence[str], folds: Folds, counts: Counts
) -> tuple[list[str], list[list[Candidate]]]:
    """The architectures that could be built and measured, and what was tried on each. What kept the first from it where
    that is none.
    """
    names, tried, problems = [], [], list[Exception]()
    for architecture in candidates:
        try:
            one = _tried(work, examples, architecture, folds, counts)
        except Exception as problem:
            work.reporter.check()  # a child that is lost with its run says nothing of a network
            told = _told(architecture, problem)
            if not told:
                raise
            log.warning("architecture not tried", architecture=architecture, problem=str(problem))
            work.notice(NOT_TRIED, told)
            problems.append(problem.with_traceback(None))  # whose frames hold what did not fit
            continue
        names.append(architecture)
        tried.append(one)
    if not tried:
        raise problems[0]
    return names, tried


def _told(architecture: str, problem: Exception) -> str:
    """A sentence for people where the problem is that of one architecture; empty where it is the run's."""
    if isinstance(problem, WeightsUnavailable):
        return f"{architecture} was not tried. {problem}"
    if isinstance(problem, GraphDisagrees):
        return f"{architecture} was not tried: its graph disagrees with the network."
    if isinstance(problem, ChildLost):
        return f"{architecture} was not tried: a process that built its graph ended without an answer."
    if is_out_of_memory(problem):
        return f"{architecture} was not tried: the memory of the worker does not suffice for it."
    return ""


def _message(architecture: str, first: Candidate, labels: Labels) -> ArchitectureChoice.Candidate:
    """How an architecture did with a head of the first kind."""
    did = first.message(labels)
    return ArchitectureChoice.Candidate(architecture=architecture, accuracy=did.accuracy, log_loss=did.log_loss)


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
    rows = to_choose_from(with_members(here), work.recipe.max_gflops)
    rows = [row for row in rows if all(map(can_build, row.networks))]
    if work.recipe.challenger_epochs:
        for row in (row for row in rows if row.members):
            work.notice(NOT_TRIED, f"{row.id} was not tried: no challenger is made of networks side by side.")
        rows = [row for row in rows if not row.members]
    if not rows:
        raise WeightsUnavailable(
            "This worker has the pretrained weights of no network that needs at most "
            f"{work.recipe.max_gflops:g} GFLOPs a picture. Raise max_gflops, or say `handful weights fetch`."
        )
    return [row.id for row in rows]


def untried(candidates: Sequence[str]) -> str:
    """Which of them is taken where none can be measured: the last. Networks side by side are not, for they are better
    on some pictures and worse on others.
    """
    return next((one for one in reversed(candidates) if not _members(one)), candidates[-1])


def _members(architecture: str) -> Sequence[ArchitectureRow]:
    return ARCHITECTURES[architecture].members if architecture in ARCHITECTURES else ()


def _take(work: Work, architecture: str) -> None:
    settled = _naming(work.recipe, architecture)
    if settled.HasField("max_gflops"):  # it says nothing of a network that is named
        settled.max_gflops = 0
    work.choose(settled)


def _naming(recipe: Recipe, architecture: str) -> Recipe:
    named = Recipe()
    named.CopyFrom(recipe)
    named.architecture = architecture
    return named


def _found(work: Work, examples: Examples, architecture: str, counts: Counts) -> tuple[Backbone, Features]:
    """The backbone of an architecture, and what makes features by it, which it counts."""
    backbone, graph = work.wait("graph", partial(_find, work, architecture))
    return backbone, Features(work.store, work.cache, examples, backbone, graph, work.threads, counts)


def _find(work: Work, architecture: str) -> tuple[Backbone, bytes]:
    if architecture in SOUND_ARCHITECTURES:
        return sound_graphs.find(work.store, work.weights, SOUND_ARCHITECTURES[architecture], work.children)
    recipe = _naming(work.recipe, architecture)
    return backbones.find(work.store, work.weights, recipe, preprocessing(recipe), work.project, work.children)


def _tried(work: Work, examples: Examples, architecture: str, folds: Folds, counts: Counts) -> list[Candidate]:
    """Every kind of head on an architecture's features."""
    features, labels = _found(work, examples, architecture, counts)[1], targets(examples.train)
    rows = rows_of(work, features, examples.train)
    step = Steps(work, "choosing", num_steps(work.recipe, folds))
    with threadpool_limits(1, "blas"):
        return try_all(work.recipe, Span.of(rows), labels, int(labels.max()) + 1, folds, step)
