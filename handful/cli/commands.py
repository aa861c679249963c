"""The commands: each a few calls of the client and what they print."""

import argparse
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from handful import Client, Run
from handful.channel import Addresses
from handful.cli.live import follow
from handful.cli.stack import Stack
from handful.client import Pushed
from handful.errors import InvalidArgument, NotFound
from handful.folders import find
from handful.v1.trainer_pb2 import RecipeField, TrainingRun

console = Console(highlight=False)


def up(given: argparse.Namespace) -> int:
    home = given.home or Path(os.environ.get("HANDFUL_HOME") or Path.home() / ".handful")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # drains as Ctrl-C does
    with Stack(home, Addresses.from_env()) as stack:
        console.print(f"[bold]Handful is up.[/bold] Data in {home}. Ctrl-C stops it.")
        for service, address in vars(stack.addresses).items():
            console.print(f"  {service:10} {address}")
        console.print("Next, in another terminal: handful push ./photos --dataset flowers")
        try:
            ended = stack.wait()
        except KeyboardInterrupt:
            console.print("draining ...")
            return 0
    console.print(f"The {ended} service ended; its log says why.")
    return 1


def push(given: argparse.Namespace) -> int:
    dataset = given.dataset or given.folder.resolve().name.lower().replace("_", "-").replace(" ", "-")
    with Client.from_env() as client:
        pushed = push_with_progress(client, dataset, given.folder)
    show(pushed)
    console.print(f"Next: handful train {dataset}")
    return 0


def push_with_progress(client: Client, dataset: str, folder: Path) -> Pushed:
    """Pushes a folder under a progress bar."""
    columns = (TextColumn("pushing"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(find(folder)))

        return client.push(dataset, folder, lambda _: bar.advance(task))


def show(pushed: Pushed) -> None:
    """What a version holds, and what is odd about it."""
    for one in pushed.rejected:
        console.print(f"[yellow]refused[/yellow] {one.client_ref}: {one.rejected.message} {one.rejected.hint}")
    version = pushed.version
    train = sum(one.num_train for one in version.classes)
    val = sum(one.num_val for one in version.classes)
    console.print(f"{version.name}: {len(version.classes)} classes, {train} examples to train, {val} to validate")
    for notice in version.notices:
        console.print(f"[yellow]note[/yellow] {notice.message}")


def train(given: argparse.Namespace) -> int:
    fields = {**_from_file(given.params), **_assignments(given.fields)}
    with Client.from_env() as client:
        client.seal(given.dataset)
        run = client.train(given.dataset, model=given.model, promote=given.promote, **fields)
        if given.detach:
            console.print(f"{run.name} is queued. Watch it: handful watch {run.name.rpartition('/')[2]}")
            return 0
        return _follow(client, run)


def watch(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        return _follow(client, _find_run(client, given.run))


def cancel(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        run = _find_run(client, given.run).cancel()
    console.print(f"{run.name}: {_state(run)}")
    return 0


def runs(_: argparse.Namespace) -> int:
    table = _table("run", "model", "preset", "state", "epoch", "val/accuracy", "asked for")
    with Client.from_env() as client:
        for run in client.runs():
            figures = {metric.name: metric.value for metric in run.metrics}
            accuracy = f"{figures['val/accuracy']:.3f}" if "val/accuracy" in figures else ""
            table.add_row(
                run.name.rpartition("/")[2],
                run.model.rpartition("/")[2],
                run.recipe.preset,
                _state(run),
                str(run.epoch or ""),
                accuracy,
                f"{run.create_time.ToDatetime():%Y-%m-%d %H:%M}",
            )
    _print_table(table, "No runs yet. Start one: handful train DATASET")
    return 0


def models(_: argparse.Namespace) -> int:
    table = _table("model", "version", "aliases", "val/accuracy", "preset", "classes", "made")
    with Client.from_env() as client:
        for model in client.models():
            name = model.name.rpartition("/")[2]
            for version in client.model_versions(name):
                number = int(version.name.rpartition("/")[2])
                figures = {metric.name: metric.value for metric in version.metrics}
                table.add_row(
                    name,
                    str(number),
                    ", ".join(one.alias for one in model.aliases if one.version == number),
                    f"{figures['val/accuracy']:.3f}" if "val/accuracy" in figures else "",
                    version.recipe.preset,
                    str(len(version.labels)),
                    f"{version.create_time.ToDatetime():%Y-%m-%d %H:%M}",
                )
    _print_table(table, "No models yet. Train one: handful train DATASET")
    return 0


def recipes(_: argparse.Namespace) -> int:
    with Client.from_env() as client:
        for preset in client.recipes():
            console.print(
                f"[bold]{preset.name}[/bold]{' (default)' if preset.is_default else ''}: {preset.description}"
            )
            table = _table("field", "default", "allowed", "")
            for field in preset.fields:
                table.add_row(field.name, field.default_value, _allowed(field), field.description)
            console.print(table)
    return 0


def predict(given: argparse.Namespace) -> int:
    failed = 0
    with Client.from_env() as client:
        for file in given.files:
            try:
                answer = client.predict(given.model, file, given.top)
            except InvalidArgument as bad:
                failed += 1
                console.print(f"{file}: [yellow]{bad.message}[/yellow]")
                continue
            shown = "  ".join(f"{one.label} {one.score:.3f}" for one in answer.predictions)
            console.print(f"{file}: {shown}")
    return 1 if failed else 0


def _follow(client: Client, run: Run) -> int:
    try:
        ended = follow(run, console)
    except KeyboardInterrupt:
        console.print(f"The run goes on. Watch it: handful watch {run.name.rpartition('/')[2]}")
        return 130
    if ended.state == TrainingRun.STATE_SUCCEEDED:
        model = ended.model.rpartition("/")[2]
        figures = {metric.name: metric.value for metric in client.evaluation(ended.model_version).evaluation.metrics}
        accuracy = f", {figures['val/accuracy']:.1%} right on validation" if figures else ""
        console.print(f"[green]{ended.model_version}[/green]{accuracy}")
        console.print(f"Next: handful predict {model} some.jpg")
        return 0
    console.print(f"[red]{_state(ended)}[/red] {ended.failure.message}")
    return 1


def _find_run(client: Client, named: str | None) -> Run:
    """The run of that id, or the latest of that model, or the latest at all."""
    for run in client.runs():
        if named in (None, run.name, run.name.rpartition("/")[2], run.model.rpartition("/")[2]):
            return client.run(run.name)
    raise NotFound(f"There is no run {named}. `handful runs` lists them." if named else "There are no runs yet.")


def _from_file(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    try:
        fields = json.loads(file.read_text())
    except ValueError:
        raise InvalidArgument(f"{file} is no JSON.") from None
    if not isinstance(fields, dict):
        raise InvalidArgument(f"{file} must hold a JSON object of recipe fields.")
    return fields


def _assignments(fields: Iterable[str]) -> dict[str, object]:
    pairs = [field.partition("=") for field in fields]
    bad = [name for name, equals, value in pairs if not (name and equals and value)]
    if bad:
        raise InvalidArgument(f"Write recipe fields as FIELD=VALUE, such as num_epochs=10; not: {', '.join(bad)}")
    return {name: value for name, _, value in pairs}


def _allowed(field: RecipeField) -> str:
    if field.choices:
        return ", ".join(field.choices)
    return f"{field.minimum:g} to {field.maximum:g} {field.unit}".rstrip()


def _state(run: TrainingRun) -> str:
    return TrainingRun.State.Name(run.state).removeprefix("STATE_").lower()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print_table(table: Table, empty: str) -> None:
    console.print(table if table.rows else empty)
