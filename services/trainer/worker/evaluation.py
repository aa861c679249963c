"""How good the answers are: figures by their well-known names, and the whole evaluation of a published model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import ClassEvaluation, ConfusionRow, EpochMetrics, Evaluation, Metric

TOP = 5
Labels = npt.NDArray[np.int64]


def scores(labels: Labels, probabilities: Floats) -> dict[str, float]:
    """`val/*` of probabilities float32[n, classes]; nothing where there are no examples.

    Loss is the mean cross-entropy in nats; precision, recall and F1 are means over the classes weighted by their
    examples; top-5 accuracy with fewer than five classes is 1.
    """
    if not len(labels):
        return {}
    picked = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    answers = top[:, 0]
    precision, recall, f1, _ = precision_recall_fscore_support(labels, answers, average="weighted", zero_division=0.0)
    return {
        "val/loss": float(-np.log(picked).mean()),
        "val/accuracy": float((answers == labels).mean()),
        "val/top5_accuracy": float((top == labels[:, None]).any(axis=1).mean()),
        "val/precision_weighted": float(precision),
        "val/recall_weighted": float(recall),
        "val/f1_weighted": float(f1),
    }


def evaluate(
    names: Sequence[str], labels: Labels, probabilities: Floats, history: Sequence[EpochMetrics]
) -> Evaluation:
    """The evaluation that stands in a bundle."""
    classes = np.arange(len(names))
    answers = probabilities.argmax(axis=1) if len(labels) else labels
    matrix = confusion_matrix(labels, answers, labels=classes) if len(labels) else np.zeros((len(names),) * 2, int)
    per_class = _per_class(labels, answers, classes)
    return Evaluation(
        metrics=[Metric(name=name, value=value) for name, value in scores(labels, probabilities).items()],
        classes=[
            ClassEvaluation(label=name, precision=p, recall=r, f1=f, num_examples=int(n))
            for name, p, r, f, n in zip(names, *per_class, strict=True)
        ],
        confusion_matrix=[ConfusionRow(counts=row.tolist()) for row in matrix],
        history=history,
    )


def _per_class(labels: Labels, answers: Labels, classes: Labels) -> Sequence[npt.NDArray[np.float64]]:
    if not len(labels):
        return [np.zeros(len(classes))] * 4
    figures: Sequence[npt.NDArray[np.float64]] = precision_recall_fscore_support(
        labels, answers, labels=classes, zero_division=0.0
    )
    return figures
