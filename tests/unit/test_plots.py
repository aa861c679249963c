"""Plots of a run: which there are, and that they show what was measured."""

import io

import numpy as np
import pytest
from PIL import Image

from handful.v1.bundle_pb2 import (
    ConfusionRow,
    CrossValidation,
    EpochMetrics,
    Evaluation,
    Interval,
    Metric,
    MoreExamples,
)
from services.trainer.imports.reading import MAX_BYTES
from services.trainer.worker import plots

NAMES = ("cat", "dog")
MATRICES = {"confusion_matrix", "confusion_matrix_normalized"}


def evaluation(figures: tuple[str, ...] = (), points: int = 0) -> Evaluation:
    """Of twelve epochs with some figures, and of a curve of so many points."""
    rising = [
        EpochMetrics(epoch=epoch, metrics=[Metric(name=name, value=1 - 1 / epoch) for name in figures])
        for epoch in range(1, 13)
    ]
    more = MoreExamples(
        num_examples=40,
        accuracy=0.9,
        accuracy_interval=Interval(low=0.7, high=1),
        curve=[MoreExamples.Point(num_examples=4 * place, accuracy=0.6 + place / 20) for place in range(1, points + 1)],
    )
    return Evaluation(
        history=rising if figures else [],
        confusion_matrix=[ConfusionRow(counts=[3, 1]), ConfusionRow(counts=[0, 4])],
        cross_validation=CrossValidation(
            num_examples=20, accuracy_interval=Interval(low=0.6, high=0.95), more_examples=more
        ),
    )


@pytest.mark.parametrize(
    ("measured", "drawn"),
    [
        (evaluation(), set()),
        (evaluation(("train/loss", "val/accuracy")), {"loss"}),
        (evaluation(("train/loss", "val/f1_weighted")), {"loss", "metrics"}),
        (evaluation((), 4), {"learning_curve"}),
    ],
    ids=["matrices", "loss", "metrics", "curve"],
)
def test_what_was_measured_is_drawn(measured: Evaluation, drawn: set[str]) -> None:
    """There is a plot of whatever there are figures of; all are pictures, and small enough to be imported again."""
    found = plots.draw(NAMES, measured)
    assert set(found) == MATRICES | drawn
    for name, png in found.items():
        assert len(png) <= MAX_BYTES[f"plots/{name}.png"]
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        assert (pixels != 255).any()


def test_a_curve_that_differs_looks_different() -> None:
    """What is drawn hangs on the figures, those of precision, recall and F1 and those of the curve."""
    low, high = evaluation(("val/f1_weighted",), 4), evaluation(("val/f1_weighted",), 4)
    high.history[3].metrics[0].value = 0.1
    high.cross_validation.more_examples.accuracy_interval.low = 0.8
    one, other = plots.draw(NAMES, low), plots.draw(NAMES, high)
    assert {name for name in one if one[name] != other[name]} == {"metrics", "learning_curve"}
    assert plots.draw(NAMES, low) == one
