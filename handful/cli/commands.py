"""The commands: each a few calls of the client and what they print."""

import argparse
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handful import Client, Run
from handful.channel import Addresses
from handful.cli.outcome import behind, follow_to_the_end, state
from handful.cli.stack import DEFAULT_WORKER_ADDRESS, Stack
from handful.cli.tables import plain_table, print_table
from handful.cli.wording import for_people
from handful.errors import InvalidArgument, NotFound
from handful.recipe import as_dict, recipe
from handful.v1.trainer_pb2 import Failure, RecipeField, TrainingRun

# A pipe has no width; lines there are not broken.
PIPE_WIDTH = 10_000
SHOWN_VERSIONS = 10
console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def up(given: argparse.Namespace) -> int:
    home = given.home or Path(os.environ.get("HANDFUL_HOME") or Path.home() / ".handful")
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts what runs in the background without SIGINT
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    stack = Stack(home, Addresses.from_env(), os.environ.get("HANDFUL_WORKER_ADDRESS") or DEFAULT_WORKER_ADDRESS)
    # A line per call is for logs, not for people.
    stack.environment.setdefault("HANDFUL_LOG_LEVEL", "warning")
    console.print("Starting the services ...")
    with stack:
        console.print(f"[bold]Handful is up.[/bold] Data in {home}. Ctrl-C stops it.")
        for service, address in vars(stack.addresses).items():
            console.print(f"  {service:10} {address}")
        console.print("Next, in another terminal: handful push ./photos --dataset flowers")
        try:
            stack.supervise(console.print)
        except KeyboardInterrupt:
            console.print("Draining ...")
            stack.stop()
            console.print(f"Stopped. Data stays in {home}.")
            return 0


def train(given: argparse.Namespace) -> int:
    fields = as_dict(recipe({**_from_file(given.params), **assignments(given.fields)}))
    with Client.from_env() as client:
        _check_pushed(client, given.dataset)
        client.seal(given.dataset)
        run = client.train(given.dataset, model=given.model, promote=given.promote, **fields)
        resolved = run.training_run.recipe
        console.print(f"preset {resolved.preset} on {resolved.architecture}")
        return queued(run) if given.detach else follow_to_the_end(client, run, console)


def queued(run: Run) -> int:
    """Says that a run is left alone."""
    id_ = run.name.rpartition("/")[2]
    console.print(f"{run.name} is queued{behind(run.training_run)}. Watch it: handful watch {id_}")
    return 0


def watch(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        return follow_to_the_end(client, find_run(client, given.run), console)


def cancel(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        run = find_run(client, given.run).cancel()
    console.print(f"{run.name}: {state(run)}")
    return 0


def evaluate(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        _check_pushed(client, given.dataset)
        run = client.evaluate(named(given.model), given.dataset)
        code = follow_to_the_end(client, run, console)
        if code == 0 and given.plots:
            ended = run.training_run
            given.plots.mkdir(parents=True, exist_ok=True)
            for plot in client.evaluation(ended.evaluated_model_version, ended.dataset_version).plots:
                (given.plots / f"{plot.name}.png").write_bytes(plot.png)
            console.print(escape(f"Plots are in {given.plots}"))
    return code


def runs(_: argparse.Namespace) -> int:
    table = plain_table("run", "model", "preset", "state", "epoch", "val/accuracy", "created")
    with Client.from_env() as client:
        for run in client.runs():
            figures = {metric.name: metric.value for metric in run.metrics}
            accuracy = f"{figures['val/accuracy']:.3f}" if "val/accuracy" in figures else ""
            table.add_row(
                run.name.rpartition("/")[2],
                run.model.rpartition("/")[2],
                "(evaluation)" if run.evaluated_model_version else run.recipe.preset,
                _reasoned(run),
                str(run.epoch or ""),
                accuracy,
                f"{run.create_time.ToDatetime():%Y-%m-%d %H:%M}",
            )
    _print_table(table, "No runs yet. Start one: handful train DATASET")
    return 0


def models(_: argparse.Namespace) -> int:
    table = plain_table("model", "version", "aliases", "val/accuracy", "preset", "classes", "created")
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


def _reasoned(run: TrainingRun) -> str:
    """`failed (WORKER_LOST)`."""
    reason = Failure.Reason.Name(run.failure.reason).removeprefix("REASON_")
    return f"{state(run)} ({reason})" if run.HasField("failure") else state(run)


def recipes(_: argparse.Namespace) -> int:
    with Client.from_env() as client:
        for preset in client.recipes():
            default = " (default)" if preset.is_default else ""
            console.print(f"[bold]{preset.name}[/bold]{default}: {for_people(preset.description)}")
            table = plain_table("field", "default", "allowed", "")
            for field in preset.fields:
                table.add_row(field.name, field.default_value, _allowed(field), for_people(field.description))
            print_table(table, console)
    return 0


def promote(given: argparse.Namespace) -> int:
    model, at, alias = given.model.partition("@")
    if at:
        raise InvalidArgument(f"Name the alias by itself: handful promote {model} {given.version} --alias {alias}")
    with Client.from_env() as client:
        try:
            client.set_alias(model, given.alias, given.version)
        except NotFound as missing:
            newest = islice(client.model_versions(model), SHOWN_VERSIONS)  # which says so where there is no model
            there = ", ".join(one.name.rpartition("/")[2] for one in newest)
            raise NotFound(f"{missing.message} Versions, newest first: {there}.") from None
    console.print(f"{given.model}@{given.alias} is version {given.version} now.")
    return 0


def _check_pushed(client: Client, dataset: str) -> None:
    """NotFound or InvalidArgument that says how to push, where there is no dataset of that id."""
    if dataset.startswith("projects/"):
        return
    try:
        client.dataset(dataset)
    except (InvalidArgument, NotFound) as problem:
        if Path(dataset).is_dir():
            say = f"{dataset} is a folder: push it first: handful push {dataset} --dataset NAME"
            raise InvalidArgument(say) from None
        if isinstance(problem, NotFound):
            raise NotFound(f"{problem.message} To make it: handful push FOLDER --dataset {dataset}") from None
        raise


def named(model: str) -> str:
    """A model's name as a version's: `flowers` is `flowers@production`."""
    return model if "@" in model or "/" in model else f"{model}@production"


def short(model_version: str) -> str:
    """`flowers version 3` of a version's full name."""
    parts = model_version.split("/")
    return f"{parts[3]} version {parts[5]}"


def find_run(client: Client, named: str | None, *, trained: bool = False, succeeded: bool = False) -> Run:
    """The run of that id, or the latest of that model, or the latest at all; if wanted only one that `trained`, and one
    that `succeeded` if any did.
    """
    latest = ""
    for run in client.runs():
        if named in {run.name, run.name.rpartition("/")[2]}:
            return client.run(run.name)
        if named not in {None, run.model.rpartition("/")[2]} or (trained and run.evaluated_model_version):
            continue
        if not succeeded or run.state == TrainingRun.STATE_SUCCEEDED:
            return client.run(run.name)
        latest = latest or run.name
    if latest:
        return client.run(latest)
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


def assignments(fields: Iterable[str]) -> dict[str, str]:
    """The fields of FIELD=VALUE ...; InvalidArgument."""
    pairs = [field.partition("=") for field in fields]
    bad = [name for name, equals, value in pairs if not (name and equals and value)]
    if bad:
        raise InvalidArgument(f"Write recipe fields as FIELD=VALUE, such as num_epochs=10; not: {', '.join(bad)}")
    twice = [name for name, count in Counter(name for name, _, _ in pairs).items() if count > 1]
    if twice:
        raise InvalidArgument(f"Write each field once; not: {', '.join(twice)}")
    return {name: value for name, _, value in pairs}


def _allowed(field: RecipeField) -> str:
    if field.choices:
        return ", ".join(field.choices)
    return f"{field.minimum:.10g} to {field.maximum:.10g} {field.unit}".rstrip()


def _print_table(table: Table, empty: str) -> None:
    if table.rows:
        print_table(table, console)
    else:
        console.print(empty)
