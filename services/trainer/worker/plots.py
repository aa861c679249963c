"""Plots of a run as PNG files: the loss curve and the confusion matrices. It knows figures only."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from handful.v1.bundle_pb2 import EpochMetrics, Evaluation

mpl.use("agg")
# Numbers stand in the cells as long as they can be read.
MAX_CELLS_WITH_NUMBERS = 20
_COLOURS = {"train": "#7a7a7a", "val": "#1f6feb"}


def draw(names: Sequence[str], evaluation: Evaluation) -> dict[str, bytes]:
    """The plots by name."""
    counts = np.array([row.counts for row in evaluation.confusion_matrix])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    curves = {"loss": _curves(evaluation.history)} if evaluation.history else {}
    return curves | {
        "confusion_matrix": _matrix(names, counts, "{:d}"),
        "confusion_matrix_normalized": _matrix(names, shares, "{:.2f}"),
    }


def _curves(history: Sequence[EpochMetrics]) -> bytes:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curve(left, history, "loss", "Loss (cross-entropy)")
    _curve(right, history, "accuracy", "Accuracy")
    right.set_ylim(0, 1.02)
    return _png(figure)


def _curve(axes: Axes, history: Sequence[EpochMetrics], metric: str, title: str) -> None:
    for split, colour in _COLOURS.items():
        points = [(one.epoch, m.value) for one in history for m in one.metrics if m.name == f"{split}/{metric}"]
        if points:
            marker = "o" if len(points) == 1 else ""
            axes.plot(*zip(*points, strict=True), label=split, color=colour, marker=marker)
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def _matrix(names: Sequence[str], matrix: npt.NDArray[np.generic], form: str) -> bytes:
    side = max(3.2, min(12.0, 1.6 + 0.45 * len(names)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues", vmin=0)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="taken for", ylabel="is")
    if len(names) <= MAX_CELLS_WITH_NUMBERS:
        middle = float(np.max(matrix, initial=0)) / 2
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if float(value) > middle else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=8)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
