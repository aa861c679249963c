"""Recipes `fast` and `quality`: features once, then a convex head fitted to the optimum, cross-validated on the same
features. `quality`, and `fast` of sounds, choose what gives the features first; `quality` may be challenged.
"""

import time
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from handful.bundle.heads import Floats, LinearHead, softmax
from handful.bundle.predictor import Pixels, to_pixels
from handful.v1.bundle_pb2 import HEAD_KIND_LDA, Backbone, Head
from services.trainer.head_fields import REGULARIZATION_C
from services.trainer.worker import architecture_choice, challenge, discriminant, familiarity, logistic_regression
from services.trainer.worker.calibration import tempered
from services.trainer.worker.cross_validation import Labels
from services.trainer.worker.evaluation import scores
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.publishing import NUM_GOLDEN
from services.trainer.worker.resources import peak_memory_bytes
from services.trainer.worker.spans import Span, flat, plain
from services.trainer.worker.validation import deal, validate
from services.trainer.worker.work import Trained, Work


def train(work: Work, examples: Examples) -> Trained:
    """Features of every example, the head, and its answers on the validation examples."""
    folds = deal(work, examples)
    prepared = architecture_choice.prepare(work, examples, folds)
    backbone, train_rows, val_rows = prepared.backbone, plain(prepared.train), prepared.val
    train_labels, val_labels = targets(examples.train), targets(examples.val)
    # One thread: the matrices are small, and the figures do not depend on how many cores there are.
    with threadpool_limits(1, "blas"):
        span = Span.of(prepared.train)
        described, cross_validation, held_out = validate(work, examples, span, folds, prepared.rivals)
        if cross_validation is not None and prepared.choice is not None:
            cross_validation.architecture_choice.CopyFrom(prepared.choice)
        if cross_validation is not None and cross_validation.challenge.won:
            return replace(challenge.fine_tuned(work, examples, cross_validation), held_out=held_out)
        work.progress("fitting")
        passes = _Passes(work, described.temperature or 1.0, (train_rows, val_rows), (train_labels, val_labels))
        head = _fit(work, described, span, train_labels, len(examples.labels), passes)
    known = familiarity.of_frozen(examples, train_rows)
    golden = (examples.val or examples.train)[:NUM_GOLDEN]
    shown = [examples.data(work.store, one) for one in golden]
    golden_rows = (val_rows if examples.val else train_rows)[:NUM_GOLDEN]
    answers = head.probabilities(val_rows), _golden(backbone, shown), head.probabilities(golden_rows)
    return Trained(examples, backbone, head, described, *answers, cross_validation, known, held_out)


def _golden(backbone: Backbone, shown: list[bytes]) -> Pixels | None:
    """Pictures as pixels; sounds go with the model as files."""
    if backbone.HasField("sound_preprocessing"):
        return None
    return np.stack([to_pixels(one, backbone.preprocessing) for one in shown])


def _fit(work: Work, described: Head, span: Span, labels: Labels, num_classes: int, passes: "_Passes") -> LinearHead:
    """The head on all training examples; every pass of the solver is an epoch, and LDA has one."""
    recipe = work.recipe
    rows, labels = flat(span.rows, labels)
    if described.kind == HEAD_KIND_LDA:
        head = span.back(discriminant.fit_rows(span, rows, labels, num_classes, recipe.shrinkage))
        passes.step(head)
    else:
        strength = (recipe.regularization_c or REGULARIZATION_C) / span.per_example
        head = span.back(
            logistic_regression.fit_rows(
                span,
                rows,
                labels,
                num_classes,
                strength,
                recipe.num_epochs,
                lambda one: passes.step(span.back(one)),
            )
        )
    return tempered(head, described.temperature or 1.0)


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
        "train/loss": float(0.0 - np.log(picked).mean()),
        "train/accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
    }
