"""How good the answers are: figures by their well-known names, and the whole evaluation of a published model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from handful.bundle.heads import Floats, softmax
from handful.v1.bundle_pb2 import (
    ClassEvaluation,
    ConfusionRow,
    CrossValidation,
    EpochMetrics,
    Evaluation,
    HeadCandidate,
    Metric,
    WrongAnswer,
)
from services.trainer.intervals import corrected_wilson, independent, wilson
from services.trainer.worker.cross_validation import OutOfFold
from services.trainer.worker.examples import Example

TOP = 5
MAX_BINS = 15
MAX_WRONG_ANSWERS = 50
EXAMPLES_PER_BIN = 10
# Fields of CrossValidation, by the name of their figure.
_FIELDS = {
    "cv/loss": "log_loss",
    **{f"cv/{name}": name for name in ("accuracy", "top5_accuracy", "ece")},
    **{
        f"cv/{name}_{kind}": f"{name}_{kind}"
        for kind in ("weighted", "macro")
        for name in ("precision", "recall", "f1")
    },
}
Labels = npt.NDArray[np.int64]


def scores(labels: Labels, probabilities: Floats, which: str = "val") -> dict[str, float]:
    """`val/*` of probabilities float32[n, classes]; nothing where there are no examples.

    Loss is the mean cross-entropy in nats; weighted precision, recall and F1 are means over the classes weighted by
    their examples, macro ones plain means over the classes that have any; top-5 accuracy with fewer than five classes
    is 1.
    """
    if not len(labels):
        return {}
    picked = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    answers = top[:, 0]
    *figures, num_examples = precision_recall_fscore_support(
        labels, answers, labels=np.unique(labels), zero_division=0.0
    )
    means = {
        f"{name}_{kind}": float(np.average(values, weights=weights))
        for kind, weights in (("weighted", num_examples), ("macro", None))
        for name, values in zip(("precision", "recall", "f1"), figures, strict=True)
    }
    found = {
        "loss": float(0.0 - np.log(picked).mean()),
        "accuracy": float((answers == labels).mean()),
        "top5_accuracy": float((top == labels[:, None]).any(axis=1).mean()),
        **means,
        "ece": calibration_error(labels, probabilities),
    }
    return {f"{which}/{name}": value for name, value in found.items()}


def calibration_error(labels: Labels, probabilities: Floats) -> float:
    """The expected calibration error of the answers (C. Guo et al., On Calibration of Modern Neural Networks, 2017), in
    equally wide bins: one for every ten examples, at least 1 and at most 15.
    """
    bins = min(MAX_BINS, max(1, len(labels) // EXAMPLES_PER_BIN))
    confidence = probabilities.max(axis=1).astype(np.float64)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    of_bin = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(of_bin, weights=excess, minlength=bins)).sum() / len(labels))


def evaluate(
    names: Sequence[str],
    labels: Labels,
    probabilities: Floats,
    history: Sequence[EpochMetrics],
    cross_validation: CrossValidation | None = None,
    groups: Sequence[str] | None = None,
) -> Evaluation:
    """The evaluation that stands in a bundle. Its intervals take examples of a group to fail together
    (`independent`); if not said, each is a group of its own.
    """
    classes = np.arange(len(names))
    numbered = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    answers = probabilities.argmax(axis=1) if len(labels) else labels
    matrix = confusion_matrix(labels, answers, labels=classes) if len(labels) else np.zeros((len(names),) * 2, int)
    per_class = _per_class(labels, answers, classes)
    found = scores(labels, probabilities)
    return Evaluation(
        metrics=[Metric(name=name, value=value) for name, value in (found | _metrics(cross_validation)).items()],
        classes=[
            ClassEvaluation(
                label=names[one],
                precision=p,
                recall=r,
                f1=f,
                num_examples=int(n),
                recall_interval=wilson(r, independent(numbered[labels == one].tolist())),
            )
            for one, p, r, f, n in zip(classes, *per_class, strict=True)
        ],
        confusion_matrix=[ConfusionRow(counts=row.tolist()) for row in matrix],
        history=history,
        accuracy_interval=wilson(found["val/accuracy"], independent(numbered.tolist())) if found else None,
        cross_validation=cross_validation,
    )


def wrong_answers(names: Sequence[str], examples: Sequence[Example], probabilities: Floats) -> list[WrongAnswer]:
    """The examples that were answered wrongly, the surest answers first."""
    answers = probabilities.argmax(axis=1) if len(examples) else []
    wrong = [
        WrongAnswer(
            content_sha256=one.content_sha256,
            label=names[one.label],
            answer=names[answer],
            probability=float(row[answer]),
        )
        for one, answer, row in zip(examples, answers, probabilities, strict=True)
        if answer != one.label
    ]
    return sorted(wrong, key=lambda one: (-one.probability, one.content_sha256))[:MAX_WRONG_ANSWERS]


def repeated_scores(labels: Labels, out_of_fold: OutOfFold) -> dict[str, float]:
    """`cv/*`, means over the repeats: averaged answers would be those of several heads, and one is published."""
    each = [scores(labels, softmax(logits), "cv") for logits in out_of_fold.logits]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def cross_validated(
    labels: Labels, out_of_fold: OutOfFold, candidates: Sequence[HeadCandidate] = (), groups: Labels | None = None
) -> CrossValidation:
    """The figures of what a head answered out of fold. Examples of a group, int64[n], are taken to fail together
    (`independent`). If not said, each is a group of its own.
    """
    found = repeated_scores(labels, out_of_fold)
    chance = float(np.bincount(labels).max() / len(labels))
    worth = out_of_fold.worth(len(labels) if groups is None else independent(groups.tolist()))
    measured = CrossValidation(
        folds=out_of_fold.folds,
        repeats=out_of_fold.repeats,
        num_examples=len(labels),
        accuracy_interval=corrected_wilson(found["cv/accuracy"], worth, chance, out_of_fold.folds),
        candidates=candidates,
    )
    for name, field in _FIELDS.items():
        setattr(measured, field, found[name])
    return measured


def _metrics(found: CrossValidation | None) -> dict[str, float]:
    """The figures by their well-known names."""
    return {} if found is None else {name: getattr(found, field) for name, field in _FIELDS.items()}


def _per_class(labels: Labels, answers: Labels, classes: Labels) -> Sequence[npt.NDArray[np.float64]]:
    if not len(labels):
        return [np.zeros(len(classes))] * 4
    figures: Sequence[npt.NDArray[np.float64]] = precision_recall_fscore_support(
        labels, answers, labels=classes, zero_division=0.0
    )
    return figures
