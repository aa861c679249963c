"""Plots of a run as PNG files: what epochs measured, the learning curve, confusion matrices. It knows figures only."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from handful.v1.bundle_pb2 import CrossValidation, EpochMetrics, Evaluation

mpl.use("agg")
# Numbers stand in the cells as long as they can be read.
MAX_CELLS_WITH_NUMBERS = 20
_TRAIN, _VAL = "#7a7a7a", "#1f6feb"
# Where the epochs have them.
_METRICS = {"val/precision_weighted": "#7a7a7a", "val/recall_weighted": "#d1571f", "val/f1_weighted": "#1f6feb"}


def draw(names: Sequence[str], evaluation: Evaluation) -> dict[str, bytes]:
    """The plots by name."""
    counts = np.array([row.counts for row in evaluation.confusion_matrix])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    curves = {"loss": _curves(evaluation.history)} if evaluation.history else {}
    if any(metric.name in _METRICS for one in evaluation.history for metric in one.metrics):
        curves["metrics"] = _metrics(evaluation.history)
    if evaluation.cross_validation.more_examples.curve:
        curves["learning_curve"] = _learning_curve(evaluation.cross_validation)
    confused = _matrices(
        names, {"confusion_matrix": (counts, "{:d}"), "confusion_matrix_normalized": (shares, "{:.2f}")}
    )
    return curves | confused


def _curves(history: Sequence[EpochMetrics]) -> bytes:
    figure = Figure(figsize=(8, 3.2))
    left, right = figure.subplots(1, 2, gridspec_kw=_margins(8))
    _curve(left, history, "Loss (cross-entropy)", {"train/loss": _TRAIN, "val/loss": _VAL})
    _curve(right, history, "Accuracy", {"train/accuracy": _TRAIN, "val/accuracy": _VAL})
    right.set_ylim(0, 1.02)
    return _png(figure)


def _metrics(history: Sequence[EpochMetrics]) -> bytes:
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots(gridspec_kw=_margins(5))
    _curve(axes, history, "Validation, weighted by examples", _METRICS)
    axes.set_ylim(0, 1.02)
    return _png(figure)


def _learning_curve(found: CrossValidation) -> bytes:
    """Accuracy out of fold by how many examples heads were fitted on, and what to expect of twice as many."""
    figure = Figure(figsize=(5, 3.2))
    axes, more = figure.subplots(gridspec_kw=_margins(5)), found.more_examples
    measured = [(point.num_examples, point.accuracy) for point in more.curve]
    axes.plot(*zip(*measured, strict=True), color=_VAL, marker="o", label="measured out of fold")
    axes.plot(*zip(measured[-1], (more.num_examples, more.accuracy), strict=True), color=_VAL, ls=":", label="expected")
    ends = (found.accuracy_interval, more.accuracy_interval)
    lows, highs = [one.low for one in ends], [one.high for one in ends]
    axes.fill_between((found.num_examples, more.num_examples), lows, highs, color=_VAL, alpha=0.15, label="likely")
    axes.set(title="Accuracy by training examples", xlabel="training examples", xlim=(0, None), ylim=(None, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return _png(figure)


def _margins(width: float) -> dict[str, float]:
    """Room for what stands around axes of numbers, as shares of a figure so many inches wide: to have it found by
    drawing everything twice took half as long again.
    """
    return {"left": 0.75 / width, "right": 1 - 0.1 / width, "bottom": 0.15, "top": 0.9, "wspace": 0.2}


def _curve(axes: Axes, history: Sequence[EpochMetrics], title: str, colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        points = [(one.epoch, metric.value) for one in history for metric in one.metrics if metric.name == name]
        if points:
            marker = "o" if len(points) == 1 else ""
            split, _, metric = name.partition("/")
            label = split if metric in {"loss", "accuracy"} else metric.removesuffix("_weighted")
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker)
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def _matrices(names: Sequence[str], wanted: Mapping[str, tuple[npt.NDArray[np.generic], str]]) -> dict[str, bytes]:
    """Matrices by name, each with how its numbers are written. Room is found for the names of classes once."""
    side = max(3.2, min(12.0, 1.6 + 0.45 * len(names)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="taken for", ylabel="is")
    drawn = {}
    for name, (matrix, form) in wanted.items():
        artists = [axes.imshow(matrix, cmap="Blues", vmin=0), *_numbers(axes, matrix, form)]
        drawn[name] = _png(figure)
        figure.set_layout_engine("none")
        for one in artists:
            one.remove()
    return drawn


def _numbers(axes: Axes, matrix: npt.NDArray[np.generic], form: str) -> list[Text]:
    if len(matrix) > MAX_CELLS_WITH_NUMBERS:
        return []
    middle = float(np.max(matrix, initial=0)) / 2
    return [
        axes.text(
            *(column, row, form.format(value)),
            ha="center",
            va="center",
            color="white" if float(value) > middle else "black",
            fontsize=8,
        )
        for (row, column), value in np.ndenumerate(matrix)
    ]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
