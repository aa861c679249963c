"""The convex head, fitted to the optimum.

minimise  sum_i w_i CE_i / n  +  |W|^2 / (2 C n)

with balanced class weights w_i = n / (classes x n of the class), one weight vector per class and a free bias: the
objective of scikit-learn's multinomial LogisticRegression(C, class_weight="balanced"); of two classes scikit-learn
fits one vector, whose C is twice this one. Features are centred on the
training mean and scaled to the length sqrt(width); dividing each feature by its own deviation first costs many
points of accuracy at five examples per class (`benchmarks/recipe.py` prints how many).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeResult, minimize

from handful.bundle.heads import Floats, LinearHead, normalize
from handful.v1 import bundle_pb2
from services.trainer.worker.spans import Span

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
    span = Span.of(features)
    head = fit_rows(span, span.rows, labels, num_classes, c, max_passes, lambda head: step(span.back(head)))
    return span.back(head)


def fit_rows(
    span: Span,
    rows: Floats,
    labels: Labels,
    num_classes: int,
    c: float,
    max_passes: int,
    step: Callable[[LinearHead], None] | None = None,
) -> LinearHead:
    """The head on some rows of a span, in its coordinates; `step`, where there is one, gets it after every pass."""
    mean = rows.mean(axis=0)
    prepared = normalize(rows, mean, _CENTER_L2).astype(np.float64) * span.scale
    problem = Problem(prepared, labels, num_classes, c)

    def head(parameters: Doubles) -> LinearHead:
        weight, bias = problem.unpack(parameters)
        return LinearHead(_CENTER_L2, (weight * span.scale).astype(np.float32), bias.astype(np.float32), mean)

    def callback(intermediate_result: OptimizeResult) -> None:
        if step is not None:
            step(head(intermediate_result.x))

    start = np.zeros(num_classes * (prepared.shape[1] + 1))
    options = {"maxiter": max_passes, "gtol": GRADIENT_TOLERANCE}
    found = minimize(problem.objective, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
    return head(found.x)
