"""Linear discriminant analysis: classes as Gaussians around their means, all with the same covariance.

The covariance is that within the classes, over all examples, shrunk: (1 - s) S + s (trace S / width) I, as in
scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s); every class is as probable beforehand as any
other. Its answers are far too sure of themselves: they need a temperature (`calibration.py`).
"""

import numpy as np

from handful.bundle.heads import Floats, LinearHead, normalize
from handful.v1 import bundle_pb2
from services.trainer.worker.logistic_regression import Doubles, Labels
from services.trainer.worker.spans import Span

_CENTER_L2 = bundle_pb2.Head.NORMALIZATION_CENTER_L2


def fit_rows(span: Span, rows: Floats, labels: Labels, num_classes: int, shrinkage: float) -> LinearHead:
    """The head on some rows of a span, in its coordinates; every class has a row. Rows are prepared as for logistic
    regression.
    """
    mean = rows.mean(axis=0)
    prepared = normalize(rows, mean, _CENTER_L2).astype(np.float64) * span.scale
    weight, bias = solve(prepared, labels, num_classes, shrinkage, span.width)
    return LinearHead(_CENTER_L2, (weight * span.scale).astype(np.float32), bias.astype(np.float32), mean)


def solve(prepared: Doubles, labels: Labels, num_classes: int, shrinkage: float, width: int) -> tuple[Doubles, Doubles]:
    """Weight and bias on rows as they are, whose variance spreads over so many features."""
    means = np.stack([prepared[labels == one].mean(axis=0) for one in range(num_classes)])
    within = prepared - means[labels]
    covariance = (1 - shrinkage) * (within.T @ within) / len(prepared)
    variance = float((within**2).sum()) / len(prepared) / width
    # What has no variance at all tells nothing; then every class is as probable as any other.
    covariance[np.diag_indices_from(covariance)] += max(shrinkage * variance, np.finfo(np.float64).tiny)
    weight = np.linalg.solve(covariance, means.T).T
    return weight, -(means * weight).sum(axis=1) / 2
