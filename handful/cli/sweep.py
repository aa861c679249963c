"""`handful sweep`: a run for every combination of recipe fields, on one or more datasets, and one report of them."""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from handful import Client, Run, grid
from handful.cli import compare
from handful.cli.commands import console
from handful.cli.outcome import INTERRUPTED, state
from handful.cli.tables import plain_table
from handful.errors import Cancelled, DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from handful.recipe import as_dict
from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import TrainingRun

POLL_SECONDS = 0.5
_TO_NOTHING = (TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)
_OVER = (*_TO_NOTHING, TrainingRun.STATE_SUCCEEDED)
_FIGURES = ("val/loss", "val/accuracy")
_COME_BACK = (
    "The runs go on without you. To come back, say the same again, within a day: what is trained is not trained again. "
    "To see each: handful runs. To stop one: handful cancel RUN"
)


@dataclass(frozen=True)
class Wanted:
    """One run of a sweep: what was asked for, and what that means, resolved by the server."""

    dataset_version: str
    model: str
    recipe: Recipe
    asked: grid.Fields


def run(given: argparse.Namespace) -> int:
    compare.check_place(given.html)
    datasets, combinations = grid.parse(given.fields)
    if given.model and len(datasets) > 1:
        raise InvalidArgument("--model: each dataset has a model of its own; leave it out, or name one dataset")
    with Client.from_env() as client:
        wanted = checked(client, datasets, combinations, given.model)
        runs = begin(client, wanted)
        if not given.json:
            console.print(f"{len(runs)} runs on {', '.join(dict.fromkeys(one.dataset_version for one in wanted))}")
        try:
            _follow(runs, wanted, quiet=given.json)
        except KeyboardInterrupt:
            console.print(_COME_BACK)
            return INTERRUPTED
        compared = client.compare(one.name for one in runs)
    compare.report(compared, given.html or Path(f"{wanted[0].model}.html"), as_json=given.json)
    if not given.json:
        for line in _best(runs, _labels(wanted)):
            console.print(escape(line))
    return 0 if all(one.training_run.state == TrainingRun.STATE_SUCCEEDED for one in runs) else 1


def checked(client: Client, datasets: Sequence[str], combinations: Sequence[grid.Fields], model: str) -> list[Wanted]:
    """What is to be trained, each once, on versions that are sealed once; InvalidArgument naming the fields of every
    combination that makes no sense, before anything is queued.
    """
    found: dict[tuple[str, bytes], Wanted] = {}
    problems: dict[tuple[str, str], list[str]] = defaultdict(list)
    for dataset in datasets:
        version = client.seal(dataset).name
        named = model or f"{version.split('/')[3][:57]}-sweep"
        for asked in combinations:
            try:
                resolved = client.validate(version, model=named, **asked)
            except InvalidArgument as bad:
                for field, problem in bad.violations or (("recipe", bad.message),):
                    problems[field, problem].append(grid.said(asked))
            except FailedPrecondition as impossible:
                problems["recipe", impossible.message].append(grid.said(asked))
            else:
                key = version, resolved.recipe.SerializeToString(deterministic=True)
                found.setdefault(key, Wanted(version, named, resolved.recipe, asked))
    if problems:
        raise InvalidArgument.fields([(_where(field, said), what) for (field, what), said in problems.items()])
    return list(found.values())


def _where(field: str, combinations: Sequence[str]) -> str:
    """`recipe.learning_rate (preset=fast learning_rate=1, and 3 more)`."""
    each = list(dict.fromkeys(combinations))
    return f"{field} ({each[0]}{f', and {len(each) - 1} more' if len(each) > 1 else ''})"


def begin(client: Client, wanted: Sequence[Wanted]) -> list[Run]:
    """A run for each: the one that a sweep within a day began for the same, unless that came to nothing."""
    states = {one.name: one.state for one in client.runs()}
    runs = []
    for one in wanted:
        after, made = "", None
        while made is None or states.get(made.name) in _TO_NOTHING:
            id_ = grid.request_id(one.dataset_version, one.model, one.recipe, after)
            made = client.train(one.dataset_version, model=one.model, request_id=id_, **as_dict(one.recipe))
            after = made.name
        runs.append(made)
    return runs


def _follow(runs: Sequence[Run], wanted: Sequence[Wanted], *, quiet: bool) -> None:
    """Until all are over: a table of them on a terminal, else a line for each that ends; or nothing."""
    labels = dict(zip((one.name for one in runs), _labels(wanted), strict=True))
    if console.is_terminal and not quiet:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            for _ in _ends(runs, live.console.print):
                live.update(_table(runs, labels))
        return
    number = 0
    for ended in _ends(runs, Console(stderr=True, highlight=False).print if quiet else console.print):
        for one in ended:
            number += 1
            if not quiet:
                console.print(f"{number} of {len(runs)}: {_line(one, labels[one.name])}")


def _ends(runs: Iterable[Run], say: Callable[[str], None]) -> Iterator[list[Run]]:
    """Those that are over since the last look, every half second until all are. Where services are away it says so."""
    waited, away = list(runs), False
    while waited:
        lost = _refresh(waited)
        if lost and not away:
            say(f"{escape(lost)} The runs go on, and this does when it answers again.")
        elif away and not lost:
            say("It answers again.")
        away = bool(lost)
        ended = [one for one in waited if one.training_run.state in _OVER]
        waited = [one for one in waited if one not in ended]
        yield ended
        time.sleep(POLL_SECONDS if waited else 0)


def _refresh(runs: Iterable[Run]) -> str:
    """Reads them again; where the trainer is away, what is to be said of that."""
    try:
        for one in runs:
            one.refresh()
    except (Unavailable, DeadlineExceeded, Cancelled) as lost:
        return lost.message
    return ""


def _best(runs: Iterable[Run], labels: Iterable[str]) -> Iterator[str]:
    """Of each model the version that was best on its validation examples, and how it comes to serve."""
    made: dict[str, list[tuple[float, float, str, int]]] = defaultdict(list)
    for run, label in zip(runs, labels, strict=True):
        version = run.training_run.model_version
        figures = {metric.name: metric.value for metric in run.training_run.metrics}
        if version and "val/accuracy" in figures:
            model, _, number = version.partition("/versions/")
            rank = figures["val/accuracy"], -figures.get("val/loss", 0.0)
            made[model.rpartition("/")[2]].append((*rank, label, int(number)))
    for model, found in made.items():
        accuracy, _, best, chosen = max(found)
        yield f"Best on its validation examples: {best}, {accuracy:.1%} right. Next: handful promote {model} {chosen}"


def _labels(wanted: Sequence[Wanted]) -> list[str]:
    """What each was asked for, as far as it is not the same for all."""
    same = set.intersection(*(set(one.asked.items()) for one in wanted))
    datasets = {one.dataset_version for one in wanted}
    return [
        " ".join(
            [
                *([one.dataset_version.split("/")[3]] if len(datasets) > 1 else []),
                *(f"{name}={value}" for name, value in one.asked.items() if (name, value) not in same),
            ]
        )
        or grid.said(one.asked)
        for one in wanted
    ]


def _table(runs: Iterable[Run], labels: Mapping[str, str]) -> Table:
    table = plain_table("", "state", "epoch", *_FIGURES)
    for one in runs:
        epoch = str(one.training_run.epoch or "")
        table.add_row(escape(labels[one.name]), state(one.training_run), epoch, *_figures(one))
    return table


def _line(run: Run, label: str) -> str:
    figures = "".join(f"  {name} {value}" for name, value in zip(_FIGURES, _figures(run), strict=True) if value)
    why = f"  {run.training_run.failure.message}" if run.training_run.HasField("failure") else ""
    return escape(f"{label}: {state(run.training_run)}{figures}{why}")


def _figures(run: Run) -> list[str]:
    found = {metric.name: f"{metric.value:.4f}" for metric in run.training_run.metrics}
    return [found.get(name, "") for name in _FIGURES]
