"""Recipe `fast`: features once, then a convex head fitted to the optimum.

minimise  sum_i w_i CE_i / n  +  |W|^2 / (2 C n)

with balanced class weights w_i = n / (classes x n of the class), one weight vector per class and a free bias: the
objective of scikit-learn's multinomial LogisticRegression(C, class_weight="balanced"); of two classes scikit-learn
fits one vector, whose C is twice this one. Features are centred on the
training mean and scaled to the length sqrt(width); dividing each feature by its own deviation first costs many
points of accuracy at five examples per class (`benchmarks/recipe.py` prints how many).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits

from handful.bundle import neighbours
from handful.bundle.heads import Floats, LinearHead, normalize, softmax
from handful.v1 import bundle_pb2
from handful.v1.bundle_pb2 import CrossValidation
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker import backbones
from services.trainer.worker.cross_validation import MIN_FOLDS, Folds
from services.trainer.worker.evaluation import cross_validated, scores
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.features import Features, gather
from services.trainer.worker.publishing import NUM_GOLDEN
from services.trainer.worker.work import Trained, Work, peak_memory_bytes

Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

GRADIENT_TOLERANCE = 1e-4
_CENTER_L2 = bundle_pb2.Head.NORMALIZATION_CENTER_L2


@dataclass(frozen=True)
class Problem:
    """Rows to fit: float64[n, d], their classes, the weight of each row."""

    rows: Doubles
    labels: Labels
    num_classes: int
    regularization_c: float

    def objective(self, parameters: Doubles) -> tuple[float, Doubles]:
        """The objective and its gradient at [weights (classes x d), bias (classes)]."""
        num_rows = len(self.rows)
        weight, bias = self.unpack(parameters)
        logits = self.rows @ weight.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        balance = self._balance()
        picked = logs[np.arange(num_rows), self.labels]
        penalty = (weight**2).sum() / (2 * self.regularization_c * num_rows)
        errors = np.exp(logs)
        errors[np.arange(num_rows), self.labels] -= 1
        errors *= balance[:, None] / num_rows
        gradient = errors.T @ self.rows + weight / (self.regularization_c * num_rows)
        return float(penalty - (balance * picked).mean()), np.concatenate([gradient.ravel(), errors.sum(axis=0)])

    def unpack(self, parameters: Doubles) -> tuple[Doubles, Doubles]:
        split = self.num_classes * self.rows.shape[1]
        return parameters[:split].reshape(self.num_classes, -1), parameters[split:]

    def _balance(self) -> Doubles:
        counts = np.bincount(self.labels, minlength=self.num_classes)
        weights: Doubles = (len(self.labels) / (self.num_classes * np.maximum(counts, 1)))[self.labels]
        return weights


def fit(
    features: Floats, labels: Labels, num_classes: int, c: float, max_passes: int, step: Callable[[LinearHead], None]
) -> LinearHead:
    """The head at the optimum; `step` gets the head after every pass of the solver, the last one included."""
    mean = features.mean(axis=0)
    rows = normalize(features, mean, _CENTER_L2).astype(np.float64)
    # The optimum lies in the span of the rows, so with fewer rows than features it is searched there. Exact.
    basis = np.linalg.qr(rows.T)[0] if len(rows) < rows.shape[1] else np.eye(rows.shape[1])
    problem = Problem(rows @ basis, labels, num_classes, c)

    def head(parameters: Doubles) -> LinearHead:
        weight, bias = problem.unpack(parameters)
        return LinearHead(_CENTER_L2, (weight @ basis.T).astype(np.float32), bias.astype(np.float32), mean)

    def callback(intermediate_result: OptimizeResult) -> None:
        step(head(intermediate_result.x))

    start = np.zeros(num_classes * (problem.rows.shape[1] + 1))
    options = {"maxiter": max_passes, "gtol": GRADIENT_TOLERANCE}
    found = minimize(problem.objective, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
    return head(found.x)


def train(work: Work, examples: Examples) -> Trained:
    """Features of every example, the head, and its answers on the validation examples."""
    recipe, plain = work.recipe, ARCHITECTURES[work.recipe.architecture].preprocessing
    find = partial(backbones.find, work.store, work.weights, recipe, plain, work.project, work.children)
    backbone, graph = work.wait("graph", find)
    features = Features(work.store, work.cache, examples, backbone, graph, work.threads)
    rows = gather(work, features, (*examples.train, *examples.val))
    train_rows, val_rows = rows[: len(examples.train)], rows[len(examples.train) :]
    train_labels, val_labels = targets(examples.train), targets(examples.val)
    num_classes = len(examples.labels)
    # One thread: the matrices are small, and the figures do not depend on how many cores there are.
    with threadpool_limits(1, "blas"):
        cross_validation = _cross_validate(work, examples, train_rows, train_labels)
        passes = _Passes(work, train_rows, train_labels, val_rows, val_labels)
        head = fit(train_rows, train_labels, num_classes, recipe.regularization_c, recipe.num_epochs, passes.step)
        known = neighbours.fit(train_rows, [example.group for example in examples.train])
    golden = (examples.val or examples.train)[:NUM_GOLDEN]
    pixels = np.stack([examples.pixels(work.store, one, backbone.preprocessing) for one in golden])
    golden_rows = (val_rows if examples.val else train_rows)[:NUM_GOLDEN]
    answers = head.probabilities(val_rows), pixels, head.probabilities(golden_rows)
    return Trained(examples, backbone, head, *answers, cross_validation, known)


def _cross_validate(work: Work, examples: Examples, rows: Floats, labels: Labels) -> CrossValidation | None:
    """Figures out of fold; None, with a notice, where a class cannot be divided."""
    recipe, num_classes = work.recipe, len(examples.labels)
    folds = Folds.drawn(labels, [one.group for one in examples.train], num_classes, recipe.seed)
    if folds.folds < MIN_FOLDS:
        label = examples.labels[folds.smallest_class]
        message = (
            f"There is no cross-validation: it needs {MIN_FOLDS} different training pictures of every class, "
            f"and {label} has {folds.folds}."
        )
        work.notice("NOT_CROSS_VALIDATED", message)
        return None

    def fitted(rows: Floats, labels: Labels) -> LinearHead:
        return fit(rows, labels, num_classes, recipe.regularization_c, recipe.num_epochs, lambda _: None)

    step = partial(work.progress, "validating")
    return cross_validated(labels, folds.out_of_fold(rows, labels, num_classes, fitted, step))


class _Passes:
    """Streams every pass of the solver as an epoch."""

    def __init__(self, work: Work, train_rows: Floats, train: Labels, val_rows: Floats, val: Labels) -> None:
        self._work = work
        self._rows = (train_rows, val_rows)
        self._labels = (train, val)
        self._epoch = 0
        self._started = time.perf_counter()

    def step(self, head: LinearHead) -> None:
        self._epoch += 1
        seconds, self._started = time.perf_counter() - self._started, time.perf_counter()
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
