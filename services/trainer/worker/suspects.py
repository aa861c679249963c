"""Label suspects: training examples whose label heads that were fitted on others do not believe."""

from functools import partial

import numpy as np

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import LabelSuspect
from services.trainer.worker import calibration, logistic_regression
from services.trainer.worker.cross_validation import Folds, Labels, Step
from services.trainer.worker.examples import Examples
from services.trainer.worker.spans import Span

# A strong penalty: such a head learns fewer wrong labels by heart (`benchmarks/honesty.py`).
REGULARIZATION_C = 0.01
MAX_PASSES = 200
# What is listed: labels less probable than this, and of these no more than a share of the examples, or a few.
PROBABILITY = 0.2
SHARE, FEWEST, MOST = 0.15, 5, 50


def believed(span: Span, labels: Labels, num_classes: int, folds: Folds, step: Step) -> Floats:
    """How probable each class is for each example, float32[n, classes]: out of fold, at a temperature."""
    fit = partial(
        logistic_regression.fit_rows, span, num_classes=num_classes, c=REGULARIZATION_C, max_passes=MAX_PASSES
    )
    found = folds.out_of_fold(span.plain, labels, num_classes, fit, step)
    return found.divided(calibration.temperature(found.logits, labels, smoothed=False)).probabilities


def listed(examples: Examples, probabilities: Floats) -> list[LabelSuspect]:
    """The training examples whose labels are improbable, the least probable first."""
    given = probabilities[np.arange(len(examples.train)), [one.label for one in examples.train]]
    most = min(MOST, max(FEWEST, int(SHARE * len(given))))
    answers, labels = probabilities.argmax(axis=1), [one.label for one in examples.train]
    doubted = [place for place in np.argsort(given, kind="stable") if answers[place] != labels[place]]
    worst = [place for place in doubted[:most] if given[place] < PROBABILITY]
    return [
        LabelSuspect(
            content_sha256=examples.train[place].content_sha256,
            label=examples.labels[examples.train[place].label],
            probability=float(given[place]),
            suggested_label=examples.labels[answers[place]],
            suggested_probability=float(probabilities[place].max()),
        )
        for place in worst
    ]
