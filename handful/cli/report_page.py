"""A run's report as an HTML page that needs nothing else: sentences, tables, plots, pictures. It knows no client."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from handful.cli import findings
from handful.cli.page import document, table
from handful.recipe import as_dict
from handful.v1.bundle_pb2 import Baseline, Evaluation, Interval
from handful.v1.trainer_pb2 import TrainingRun

_FIGURES = (
    ("accuracy", "accuracy"),
    ("top5_accuracy", "right among the five most probable"),
    ("precision_weighted", "precision, weighted by examples"),
    ("recall_weighted", "recall, weighted by examples"),
    ("f1_weighted", "F1, weighted by examples"),
    ("precision_macro", "precision, mean of the classes"),
    ("recall_macro", "recall, mean of the classes"),
    ("f1_macro", "F1, mean of the classes"),
    ("loss", "log-loss, in nats"),
    ("ece", "calibration error"),
)
_KNOWS = {
    Baseline.KIND_MAJORITY_CLASS: "always the most common class",
    Baseline.KIND_COLOUR_AND_SIZE: "colours and sizes alone",
}
_PLOTS = {
    "loss": "Loss and accuracy by epoch",
    "metrics": "Precision, recall and F1 on the validation examples, by epoch",
    "learning_curve": "Accuracy out of fold by training examples, and what more are likely to bring",
    "confusion_matrix": "Confusion matrix",
    "confusion_matrix_normalized": "The same, as shares of each class",
}
_MEANING = (
    "Precision: of the answers with this class, the share that was right. Recall: of the examples of this class, the "
    "share that was found; the interval holds what it is on all such examples, 95 times of 100, and counts pieces of a "
    "recording, or other groups, once."
)


@dataclass(frozen=True)
class Report:
    """What stands on the page. `plots` are PNG files by name, `pictures` JPEG files by content, as are file `names`."""

    run: TrainingRun
    model_version: str
    evaluation: Evaluation
    plots: Mapping[str, bytes]
    notices: Sequence[str]
    pictures: Mapping[str, bytes]
    names: Mapping[str, str]


def html(report: Report) -> str:
    """The page."""
    name = "/".join(report.model_version.split("/")[3::2])
    parts = [
        f"<h1>Model {escape(name)}</h1>",
        "".join(f"<p class='lead'>{escape(sentence)}</p>" for sentence in _sentences(report.evaluation)),
        "".join(f"<p class='note'>{escape(notice)}</p>" for notice in report.notices),
        *_section("Figures", _figures(report.evaluation)),
        *_section("Against what to hold them", _baselines(report.evaluation)),
        *_section("Class by class", _classes(report.evaluation)),
        *_section("Plots", _plots(report)),
        *_section("Answered wrongly", _wrong(report)),
        *_section("Labels to look at", _suspects(report)),
        *_section("More examples", _curve(report.evaluation)),
        *_section("How it was made", _making(report)),
    ]
    return document(f"Model {name}", parts)


def _sentences(evaluation: Evaluation) -> Iterator[str]:
    accuracy, num = _of(evaluation, "val/accuracy"), sum(one.num_examples for one in evaluation.classes)
    if accuracy is not None:
        between = f"; of all such examples, {findings.percents(evaluation.accuracy_interval)}"
        yield f"It was right on {accuracy:.1%} of {num} examples that it was not trained on{between}."
    yield from findings.sentences(evaluation)


def _figures(evaluation: Evaluation) -> str:
    rows = [
        (title, *(_number(_of(evaluation, f"{which}/{name}")) for which in ("val", "cv"))) for name, title in _FIGURES
    ]
    return table(("", "validation", "out of fold"), [row for row in rows if row[1] or row[2]])


def _baselines(evaluation: Evaluation) -> str:
    found = evaluation.cross_validation
    rows = [
        (_KNOWS[one.kind], _number(one.accuracy), _interval(one.accuracy_interval))
        for one in found.baselines
        if one.kind in _KNOWS
    ]
    if not rows:
        return ""
    rows.append(("this model", _number(found.accuracy), _interval(found.accuracy_interval)))
    return table(("who knows", "accuracy out of fold", "95 % interval"), rows)


def _classes(evaluation: Evaluation) -> str:
    rows = [
        (
            one.label,
            str(one.num_examples),
            *map(_number, (one.precision, one.recall, one.f1)),
            _interval(one.recall_interval),
        )
        for one in evaluation.classes
        if one.num_examples
    ]
    header = ("class", "examples", "precision", "recall", "F1", "95 % interval of the recall")
    return f"<p>{_MEANING}</p>{table(header, rows)}" if rows else ""


def _plots(report: Report) -> str:
    measured = any(one.num_examples for one in report.evaluation.classes)
    # A matrix of no examples would look like one of a model that knows nothing.
    plots = {name: png for name, png in report.plots.items() if measured or not name.startswith("confusion_matrix")}
    shown = "".join(
        f"<figure><img class='plot' alt='{escape(title)}' src='{_data('png', plots[name])}'>"
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for name, title in _PLOTS.items()
        if name in plots
    )
    return f"<div class='plots'>{shown}</div>" if shown else ""


def _wrong(report: Report) -> str:
    cards = [
        (one.content_sha256, f"is {one.label}, taken for {one.answer} ({one.probability:.0%})")
        for one in report.evaluation.wrong_answers
    ]
    return _cards(report, cards)


def _suspects(report: Report) -> str:
    cards = [
        (
            one.content_sha256,
            f"is called {one.label}, looks like {one.suggested_label} ({one.suggested_probability:.0%})",
        )
        for one in report.evaluation.cross_validation.label_suspects
    ]
    note = "Not all of these labels are wrong, and not all that are wrong are here."
    return f"<p>{note}</p>{_cards(report, cards)}" if cards else ""


def _cards(report: Report, cards: Iterable[tuple[str, str]]) -> str:
    """Pictures with a line each; where there is no picture, the line alone; of sounds, a list of lines."""
    told = [(content, escape(report.names.get(content, content[:12])), escape(line)) for content, line in cards]
    if not any(content in report.pictures for content, _, _ in told):
        lines = "".join(f"<li><b>{name}</b> {line}</li>" for _, name, line in told)
        return f"<ul>{lines}</ul>" if told else ""
    made = []
    for content, name, line in told:
        jpeg = report.pictures.get(content)
        image = f"<img alt='' src='{_data('jpeg', jpeg)}'>" if jpeg else "<span class='none'>no picture</span>"
        made.append(f"<figure>{image}<figcaption><b>{name}</b><br>{line}</figcaption></figure>")
    return f"<div class='cards'>{''.join(made)}</div>"


def _curve(evaluation: Evaluation) -> str:
    curve = evaluation.cross_validation.more_examples
    rows = [(str(point.num_examples), _number(point.accuracy), "") for point in curve.curve]
    if not rows:
        return ""
    rows.append((f"{curve.num_examples} (expected)", _number(curve.accuracy), _interval(curve.accuracy_interval)))
    return table(("fitted on", "accuracy", "likely between"), rows)


def _making(report: Report) -> str:
    run, used = report.run, report.evaluation.resources
    rows = [
        ("run", run.name.rpartition("/")[2]),
        ("data", f"{'/'.join(run.dataset_version.split('/')[3::2])} ({run.dataset_manifest_sha256[:12]})"),
        *((name, str(value)) for name, value in as_dict(run.recipe).items()),
        *((f"seconds: {phase.phase}", f"{phase.seconds:.2f}") for phase in used.phases),
        ("seconds in all", f"{(run.finish_time.ToNanoseconds() - run.start_time.ToNanoseconds()) / 1e9:.2f}"),
    ]
    if run.HasField("estimated_seconds"):
        rows.append(("seconds expected", f"{run.estimated_seconds:.2f}"))
    if used.peak_memory_bytes:
        rows.append(("peak memory", f"{used.peak_memory_bytes / 1e6:.0f} MB"))
    if used.peak_accelerator_bytes:
        rows.append(("peak memory of the accelerator", f"{used.peak_accelerator_bytes / 1e6:.0f} MB"))
    return table(("", ""), rows)


def _section(title: str, body: str) -> tuple[str, ...]:
    return (f"<h2>{escape(title)}</h2>", body) if body else ()


def _of(evaluation: Evaluation, name: str) -> float | None:
    return next((metric.value for metric in evaluation.metrics if metric.name == name), None)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
