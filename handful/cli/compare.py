"""`handful compare`: runs side by side, as a table, as JSON, or as a page."""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from google.protobuf import json_format
from rich.markup import escape

from handful import Client
from handful.cli import page
from handful.cli.commands import console
from handful.cli.outcome import state
from handful.cli.tables import plain_table, print_table
from handful.errors import InvalidArgument, NotFound
from handful.recipe import as_dict
from handful.v1.trainer_pb2 import ComparedTrainingRun, CompareTrainingRunsResponse, TrainingRun

# Of a model, where it is named instead of a run.
LATEST_RUNS = 20
# What fits beside a drawing.
MAX_LABEL = 40
_ALWAYS = ("preset", "architecture")
FIGURES = ("state", "val/accuracy", "95 % interval", "of", "val/f1", "val/loss", "seconds", "peak memory", "parameters")


def run(given: argparse.Namespace) -> int:
    check_place(given.html)
    with Client.from_env() as client:
        compared = client.compare(_runs(client, given.runs))
    report(compared, given.html, as_json=given.json)
    return 0


def report(compared: CompareTrainingRunsResponse, html: Path | None, *, as_json: bool) -> None:
    """The table, or all of it as JSON; and the page, where a file for it is given."""
    if as_json:
        print(json.dumps(json_format.MessageToDict(compared, preserving_proto_field_name=True)))
    else:
        show(compared)
    write(compared, html, quiet=as_json)


def check_place(html: Path | None) -> None:
    """InvalidArgument, before anything is done, where a page cannot lie there."""
    if html is not None and not html.resolve().parent.is_dir():
        raise InvalidArgument(f"--html: there is no folder {html.resolve().parent}")


def show(compared: CompareTrainingRunsResponse) -> None:
    """The table."""
    header, *rows = _rows(compared)
    table = plain_table(*header)
    for row in rows:
        table.add_row(*map(escape, row))
    print_table(table, console)


def write(compared: CompareTrainingRunsResponse, file: Path | None, *, quiet: bool = False) -> None:
    """The page, where a file for it is given."""
    if file is None:
        return
    header, *rows = _rows(compared)
    tables = [page.table(header, rows), *_by_data(compared)]
    file.write_text(page.html(tables, compared.training_runs, _labels(compared)), encoding="utf-8")
    if not quiet:
        console.print(escape(f"The report is {file}"))


def _rows(compared: CompareTrainingRunsResponse) -> list[list[str]]:
    """What stands above, and a row of text for every run: its data and what it differs in, its figures, its name."""
    named = list(dict.fromkeys((*_ALWAYS, *_differing(compared))))
    return [
        ["data", *named, *FIGURES, "model", "run"],
        *(
            [
                _data(one.training_run),
                *_fields(one, named),
                *_figures(one),
                *(name.rpartition("/")[2] for name in (one.training_run.model, one.training_run.name)),
            ]
            for one in compared.training_runs
        ),
    ]


def _differing(compared: CompareTrainingRunsResponse) -> list[str]:
    """Fields that tell runs apart: not those that one preset lacks and that are the same wherever they are, since the
    preset says as much.
    """
    recipes = [as_dict(one.training_run.recipe) for one in compared.training_runs]
    presets = {one["preset"] for one in recipes}

    def tells(name: str) -> bool:
        several = len({one[name] for one in recipes if name in one}) > 1
        return several or any(len({one.get(name) for one in recipes if one["preset"] == each}) > 1 for each in presets)

    return [name for name in compared.differing_fields if tells(name)]


def _by_data(compared: CompareTrainingRunsResponse) -> Iterator[str]:
    """Where runs are on several data: a table of accuracies with a row for each recipe and a column for each data."""
    data = list(dict.fromkeys(_data(one.training_run) for one in compared.training_runs))
    names = _differing(compared)
    recipes: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for one in compared.training_runs:
        _, accuracy, interval, *_ = _figures(one)
        cell = f"{accuracy} ({interval})" if interval else accuracy
        recipes[tuple(_fields(one, names))].setdefault(_data(one.training_run), cell)
    if len(data) > 1:
        rows = [[*recipe, *(cells.get(one, "") for one in data)] for recipe, cells in recipes.items()]
        yield "<h2>Accuracy by recipe and data, with the 95 % interval</h2>"
        yield page.table((*names, *data), rows)


def _labels(compared: CompareTrainingRunsResponse) -> dict[str, str]:
    """By the names of runs, short enough to stand in a drawing: what they differ in; of two alike, their ids."""
    runs = [one.training_run for one in compared.training_runs]
    told = {run.name: " ".join((_data(run), *_told_apart(run, runs, compared.differing_fields))) for run in runs}
    said = list(told.values())
    return {
        name: label if said.count(label) == 1 and len(label) <= MAX_LABEL else name.rpartition("/")[2]
        for name, label in told.items()
    }


def _told_apart(run: TrainingRun, runs: Sequence[TrainingRun], names: Iterable[str]) -> list[str]:
    """Values of a run's recipe: the preset, and what is other in a run of the same preset."""
    alike = [as_dict(one.recipe) for one in runs if one.recipe.preset == run.recipe.preset]
    own = as_dict(run.recipe)
    return [
        str(own[name])
        for name in names
        if name in own and (name == "preset" or any(one.get(name) != own[name] for one in alike))
    ]


def _data(run: TrainingRun) -> str:
    """`flowers/2` of a dataset version."""
    return "/".join(run.dataset_version.split("/")[3::2])


def _figures(one: ComparedTrainingRun) -> list[str]:
    run = one.training_run
    figures = {metric.name: f"{metric.value:.3f}" for metric in run.metrics}
    interval = one.accuracy_interval
    return [
        state(run),
        figures.get("val/accuracy", ""),
        f"{interval.low:.3f} to {interval.high:.3f}" if one.HasField("accuracy_interval") else "",
        str(one.num_val_examples),
        figures.get("val/f1_weighted", ""),
        figures.get("val/loss", ""),
        f"{one.seconds:.1f}" if one.HasField("seconds") else "",
        f"{one.peak_memory_bytes / 1e6:.0f} MB" if one.HasField("peak_memory_bytes") else "",
        f"{one.num_parameters / 1e6:.1f} M" if one.num_parameters else "",
    ]


def _fields(one: ComparedTrainingRun, names: Sequence[str]) -> list[str]:
    given = as_dict(one.training_run.recipe)
    return [str(given.get(name, "")) for name in names]


def _runs(client: Client, asked: Sequence[str]) -> list[str]:
    """Full names of runs: of those ids, and of the latest runs of those models; each once."""
    trained = [run for run in client.runs() if not run.evaluated_model_version]
    found: dict[str, None] = {}
    for named in asked:
        exact = [run.name for run in trained if named in (run.name, run.name.rpartition("/")[2])]
        of_model = [run.name for run in trained if named in (run.model, run.model.rpartition("/")[2])]
        if not exact and not of_model:
            raise NotFound(f"There is no training run or model {named} with one. `handful runs` lists them.")
        found |= dict.fromkeys(exact or of_model[:LATEST_RUNS])
    return list(found)
