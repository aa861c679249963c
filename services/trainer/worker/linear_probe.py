"""Recipe `fast`: features once, then a convex head fitted to the optimum, cross-validated on the same features."""

import time
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from handful.bundle import neighbours
from handful.bundle.heads import Floats, LinearHead, softmax
from handful.v1.bundle_pb2 import HEAD_KIND_LDA, HEAD_KIND_LOGISTIC_REGRESSION, CrossValidation, Head
from services.trainer.architectures import ARCHITECTURES
from services.trainer.presets import REGULARIZATION_C
from services.trainer.worker import backbones, discriminant, logistic_regression
from services.trainer.worker.calibration import tempered
from services.trainer.worker.cross_validation import MIN_FOLDS, Folds, Labels
from services.trainer.worker.evaluation import cross_validated, scores
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.features import Features, gather
from services.trainer.worker.head_choice import best, kinds, try_all
from services.trainer.worker.publishing import NUM_GOLDEN
from services.trainer.worker.resources import peak_memory_bytes
from services.trainer.worker.spans import Span
from services.trainer.worker.work import Trained, Work


def train(work: Work, examples: Examples) -> Trained:
    """Features of every example, the head, and its answers on the validation examples."""
    recipe, plain = work.recipe, ARCHITECTURES[work.recipe.architecture].preprocessing
    find = partial(backbones.find, work.store, work.weights, recipe, plain, work.project, work.children)
    backbone, graph = work.wait("graph", find)
    features = Features(work.store, work.cache, examples, backbone, graph, work.threads)
    rows = gather(work, features, (*examples.train, *examples.val))
    train_rows, val_rows = rows[: len(examples.train)], rows[len(examples.train) :]
    train_labels, val_labels = targets(examples.train), targets(examples.val)
    # One thread: the matrices are small, and the figures do not depend on how many cores there are.
    with threadpool_limits(1, "blas"):
        span = Span.of(train_rows)
        described, cross_validation = _choose(work, examples, span, train_labels)
        work.progress("fitting")
        passes = _Passes(work, described.temperature or 1.0, (train_rows, val_rows), (train_labels, val_labels))
        head = _fit(work, described, span, train_labels, len(examples.labels), passes)
        known = neighbours.fit(train_rows, [example.group for example in examples.train])
    golden = (examples.val or examples.train)[:NUM_GOLDEN]
    pixels = np.stack([examples.pixels(work.store, one, backbone.preprocessing) for one in golden])
    golden_rows = (val_rows if examples.val else train_rows)[:NUM_GOLDEN]
    answers = head.probabilities(val_rows), pixels, head.probabilities(golden_rows)
    return Trained(examples, backbone, head, described, *answers, cross_validation, known)


def _choose(work: Work, examples: Examples, span: Span, labels: Labels) -> tuple[Head, CrossValidation | None]:
    """What the head shall be, and figures out of fold; none, with a notice, where a class cannot be divided."""
    recipe, num_classes, groups = work.recipe, len(examples.labels), [one.group for one in examples.train]
    described = Head(normalization=Head.NORMALIZATION_CENTER_L2, kind=HEAD_KIND_LOGISTIC_REGRESSION)
    folds = Folds.drawn(labels, groups, num_classes, recipe.seed)
    if folds.folds < MIN_FOLDS:
        _say_why_not(work, examples.labels[folds.smallest_class], folds.folds)
        return described, None
    step = _Steps(work, folds.num_fits * len(kinds(recipe)))
    candidates = try_all(recipe, span, labels, num_classes, folds, step)
    chosen = best(candidates, labels, np.unique(groups, return_inverse=True)[1])
    described.kind, described.temperature = chosen.kind, chosen.temperature
    return described, cross_validated(labels, chosen.out_of_fold, [one.message(labels) for one in candidates])


def _say_why_not(work: Work, label: str, groups: int) -> None:
    needs = f"it needs {MIN_FOLDS} different training pictures of every class, and {label} has {groups}."
    message = f"There is no cross-validation: {needs} So probabilities are not calibrated."
    work.notice("NOT_CROSS_VALIDATED", message)
    if work.recipe.head == HEAD_KIND_LDA:
        message = "The head is LOGISTIC_REGRESSION: without a temperature LDA would be far too sure of itself."
        work.notice("HEAD_FALLBACK", message)


def _fit(work: Work, described: Head, span: Span, labels: Labels, num_classes: int, passes: "_Passes") -> LinearHead:
    """The head on all training examples; every pass of the solver is an epoch, and LDA has one."""
    recipe = work.recipe
    if described.kind == HEAD_KIND_LDA:
        head = span.back(discriminant.fit_rows(span, span.rows, labels, num_classes, recipe.shrinkage))
        passes.step(head)
    else:
        strength = recipe.regularization_c or REGULARIZATION_C
        head = span.back(
            logistic_regression.fit_rows(
                span,
                span.rows,
                labels,
                num_classes,
                strength,
                recipe.num_epochs,
                lambda one: passes.step(span.back(one)),
            )
        )
    return tempered(head, described.temperature or 1.0)


class _Steps:
    """Says how many fits are done."""

    def __init__(self, work: Work, total: int) -> None:
        self._work, self._done, self._total = work, 0, total

    def __call__(self) -> None:
        self._done += 1
        self._work.progress("validating", self._done, self._total)


class _Passes:
    """Streams every pass of the solver as an epoch."""

    def __init__(
        self, work: Work, temperature: float, rows: tuple[Floats, Floats], labels: tuple[Labels, Labels]
    ) -> None:
        self._work = work
        self._temperature = temperature
        self._rows, self._labels = rows, labels
        self._epoch = 0
        self._started = time.perf_counter()

    def step(self, fitted: LinearHead) -> None:
        self._epoch += 1
        seconds, self._started = time.perf_counter() - self._started, time.perf_counter()
        head = tempered(fitted, self._temperature)
        metrics = _fit_scores(head, self._rows[0], self._labels[0])
        metrics |= scores(self._labels[1], head.probabilities(self._rows[1]))
        metrics |= {
            "seconds": seconds,
            "examples_per_second": len(self._labels[0]) / max(seconds, 1e-9),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self._work.epoch(self._epoch, metrics)


def _fit_scores(head: LinearHead, rows: Floats, labels: Labels) -> dict[str, float]:
    probabilities = softmax(head.logits(rows))
    picked = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    return {
        "train/loss": float(-np.log(picked).mean()),
        "train/accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
    }
