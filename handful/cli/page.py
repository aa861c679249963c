"""HTML pages that need nothing else; that of a comparison: a table, and drawings as inline SVG. It knows no client."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from handful.v1.bundle_pb2 import Metric
from handful.v1.trainer_pb2 import ComparedTrainingRun

# Of a drawing, in SVG units; the margins hold names and numbers.
WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, BOTTOM = 250, 70, 14, 30
ROW = 24
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.lead { font-size: 1.05rem; margin: .4rem 0; max-width: 46rem; }
.note { background: #fff6dd; border-left: 4px solid #e0a800; padding: .5rem .8rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
svg { width: 100%; max-width: 54rem; height: auto; } svg text { font-size: 12px; fill: #444; }
figure { margin: 0 0 1rem; } figcaption { font-size: 12px; color: #444; overflow-wrap: anywhere; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end; } .plot { max-width: min(100%, 44rem); }
.plots .plot { max-height: 24rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; }
.cards img, .none { display: block; width: 100%; height: 8rem; object-fit: contain; background: #f2f2f2; }
.none { line-height: 8rem; text-align: center; color: #888; font-size: 12px; }
"""
_BARS = (
    "The bar is the 95 % interval (Wilson): runs whose bars overlap much may be equally good. Colours are the same in "
    "all drawings."
)


def html(tables: Iterable[str], runs: Sequence[ComparedTrainingRun], labels: Mapping[str, str]) -> str:
    """The page, with tables that are HTML. `labels` are what runs are called in drawings, by their names."""
    parts = [
        "<h1>Training runs compared</h1>",
        *tables,
        "<h2>Accuracy on the validation examples</h2>",
        f"<p>{_BARS}</p>",
        _accuracies(runs, labels),
        *(f"<h2>{name}</h2>\n{_curves(runs, labels, name)}" for name in ("train/loss", "val/loss")),
        *(f"<h2>{title}</h2>\n{_amounts(runs, labels, of, form)}" for title, of, form in _AMOUNTS),
    ]
    return document("Training runs compared", parts)


def document(title: str, parts: Iterable[str]) -> str:
    """A page that needs nothing else, of parts that are HTML."""
    head = f"<head><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style></head>"
    return "\n".join([f"<!doctype html>\n<html lang='en'>{head}<body>", *parts, "</body></html>\n"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of texts."""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    titles = "".join(f"<th>{escape(title)}</th>" for title in header)
    head = f"<thead><tr>{titles}</tr></thead>" if any(header) else ""
    return f"<div class='wide'><table>{head}<tbody>{body}</tbody></table></div>"


def _accuracies(runs: Sequence[ComparedTrainingRun], labels: Mapping[str, str]) -> str:
    measured = [run for run in runs if run.HasField("accuracy_interval")]
    bottom = TOP + ROW * len(measured)
    # From the tenth below all intervals on, or differences could not be seen.
    least = min((9, *(math.floor(run.accuracy_interval.low * 10) for run in measured)))

    def across(accuracy: float) -> float:
        return _across((accuracy * 10 - least) / (10 - least))

    parts = [
        f"<line x1='{across(tick / 10):.1f}' x2='{across(tick / 10):.1f}' y1='{TOP}' y2='{bottom}' stroke='#ddd'/>"
        f"<text x='{across(tick / 10):.1f}' y='{bottom + 16}' text-anchor='middle'>{tick / 10:g}</text>"
        for tick in range(least, 11)
    ]
    for place, run in enumerate(measured):
        y = TOP + ROW * (place + 0.5)
        low, high = across(run.accuracy_interval.low), across(run.accuracy_interval.high)
        value = _of(run.training_run.metrics, "val/accuracy") or 0.0
        parts.append(
            f"<text x='{LEFT - 10}' y='{y + 4:.1f}' text-anchor='end'>{escape(labels[run.training_run.name])}</text>"
            f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='{_color(runs, run)}' "
            f"stroke-width='7' stroke-opacity='.4'/>"
            f"<circle cx='{across(value):.1f}' cy='{y:.1f}' r='5' fill='{_color(runs, run)}'/>"
            f"<text x='{WIDTH - RIGHT + 12}' y='{y + 4:.1f}'>{value:.3f}</text>"
        )
    return _svg(bottom + BOTTOM, parts) if measured else "<p>No run has an accuracy.</p>"


def _curves(runs: Sequence[ComparedTrainingRun], labels: Mapping[str, str], name: str) -> str:
    curves = [(run, points) for run in runs if (points := _points(run, name))]
    if not curves:
        return "<p>No run has one.</p>"
    last = max(2, *(points[-1][0] for _, points in curves))
    most = max(value for _, points in curves for _, value in points) or 1.0
    bottom = HEIGHT - BOTTOM
    axes = (
        f"<path d='M{LEFT},{TOP}V{bottom}H{WIDTH - RIGHT}' fill='none' stroke='#888'/>"
        f"<text x='{LEFT - 8}' y='{TOP + 8}' text-anchor='end'>{most:.3g}</text>"
        f"<text x='{LEFT - 8}' y='{bottom}' text-anchor='end'>0</text>"
        f"<text x='{LEFT}' y='{bottom + 18}'>epoch 1</text>"
        f"<text x='{WIDTH - RIGHT}' y='{bottom + 18}' text-anchor='end'>{last}</text>"
    )
    parts = [axes]
    for run, points in curves:
        path = " ".join(
            f"{_across((epoch - 1) / (last - 1)):.1f},{bottom - value / most * (bottom - TOP):.1f}"
            for epoch, value in points
        )
        title = f"<title>{escape(labels[run.training_run.name])}</title>"
        parts.append(
            f"<circle cx='{path.split(',')[0]}' cy='{path.split()[0].split(',')[1]}' r='2.5' "
            f"fill='{_color(runs, run)}'/>"
            f"<polyline points='{path}' fill='none' stroke='{_color(runs, run)}' stroke-width='2'>{title}</polyline>"
        )
    return _svg(HEIGHT, parts)


def _amounts(
    runs: Sequence[ComparedTrainingRun],
    labels: Mapping[str, str],
    of: Callable[[ComparedTrainingRun], float | None],
    form: str,
) -> str:
    """A bar from nothing for every run that has the figure."""
    found = [(run, value) for run in runs if (value := of(run)) is not None]
    most = max((value for _, value in found), default=0.0) or 1.0
    parts = []
    for place, (run, value) in enumerate(found):
        y = TOP + ROW * (place + 0.5)
        width = _across(value / most) - LEFT
        parts.append(
            f"<text x='{LEFT - 10}' y='{y + 4:.1f}' text-anchor='end'>{escape(labels[run.training_run.name])}</text>"
            f"<rect x='{LEFT}' y='{y - 6:.1f}' width='{width:.1f}' height='12' fill='{_color(runs, run)}' "
            f"fill-opacity='.55'/><text x='{LEFT + width + 8:.1f}' y='{y + 4:.1f}'>{form.format(value)}</text>"
        )
    return _svg(TOP + ROW * len(found) + TOP, parts) if found else "<p>No run has it.</p>"


def _points(run: ComparedTrainingRun, name: str) -> list[tuple[int, float]]:
    found = [(epoch.epoch, _of(epoch.metrics, name)) for epoch in run.history]
    return [(epoch, value) for epoch, value in found if value is not None]


def _of(metrics: Iterable[Metric], name: str) -> float | None:
    return next((metric.value for metric in metrics if metric.name == name), None)


_AMOUNTS: Sequence[tuple[str, Callable[[ComparedTrainingRun], float | None], str]] = (
    (
        "F1 on the validation examples, weighted by them",
        lambda run: _of(run.training_run.metrics, "val/f1_weighted"),
        "{:.3f}",
    ),
    (
        "Seconds, from the first claim to the end",
        lambda run: run.seconds if run.HasField("seconds") else None,
        "{:.1f}",
    ),
    (
        "Memory of the worker at most, in MB",
        lambda run: run.peak_memory_bytes / 1e6 if run.HasField("peak_memory_bytes") else None,
        "{:.0f}",
    ),
    ("Size of the network, in million parameters", lambda run: run.num_parameters / 1e6 or None, "{:.1f}"),
)


def _across(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _color(runs: Sequence[ComparedTrainingRun], run: ComparedTrainingRun) -> str:
    names = [one.training_run.name for one in runs]
    # The golden angle keeps neighbours apart, however many there are.
    return f"hsl({names.index(run.training_run.name) * 137.5 % 360:.0f} 65% 42%)"


def _svg(height: float, parts: Iterable[str]) -> str:
    return f"<svg viewBox='0 0 {WIDTH} {height}' role='img'>{''.join(parts)}</svg>"
