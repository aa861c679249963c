"""What knowing next to nothing is worth, and whether a model is worth more."""

from collections.abc import Sequence

import numpy as np

from handful.bundle.heads import Floats
from handful.v1.bundle_pb2 import Baseline, Notice
from services.trainer.intervals import corrected_wilson
from services.trainer.worker.cross_validation import Labels, OutOfFold, better

# Standard errors by which a model has to beat a baseline to be called better.
CLEARLY = 2.0


def majority(labels: Labels) -> Floats:
    """float32[n]: whether the most common class is each one's."""
    right: Floats = (labels == np.bincount(labels).argmax()).astype(np.float32)
    return right


def message(
    kind: "Baseline.Kind.ValueType", labels: Labels, right: Floats, num_effective: float, folds: int
) -> Baseline:
    """How often it is right, out of so many folds, about examples that are worth so many (`intervals.effective`)."""
    accuracy, chance = float(right.mean()), float(majority(labels).mean())
    interval = corrected_wilson(accuracy, num_effective, chance, folds)
    return Baseline(kind=kind, accuracy=accuracy, accuracy_interval=interval)


def warning(
    names: Sequence[str], labels: Labels, groups: Labels, model: OutOfFold, coloured: Floats | None
) -> Notice | None:
    """A plain sentence where the model is not clearly better than knowing next to nothing; only of pictures it is known
    what colours say.
    """
    right, common = model.right(labels), majority(labels)
    if not better(right - common, groups, CLEARLY):
        always = names[int(np.bincount(labels).argmax())]
        message = (
            f"The model is not clearly better than always answering {always}: right on {right.mean():.0%} of the "
            f"training examples that it had not seen, against {common.mean():.0%}."
        )
        return Notice(reason="HARDLY_BETTER_THAN_MAJORITY", message=message)
    if coloured is not None and not better(right - coloured, groups, CLEARLY):
        message = (
            "It is not clear that the model is better than colours and sizes alone, which are right on "
            f"{coloured.mean():.0%} of the examples, against {right.mean():.0%}. It may have learnt backgrounds, light "
            "or formats: try it on pictures from elsewhere."
        )
        return Notice(reason="COLOURS_TELL_CLASSES_APART", message=message)
    return None
