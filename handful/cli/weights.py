"""`handful weights`: which pretrained weights are here, and how to bring the others. The worker's own code does it, in
a process of its own.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from handful.cli import commands
from handful.cli.stack import MissingParts
from handful.cli.tables import plain_table, print_table

PLACES = {
    "package": "in a package",
    "store": "kept",
    "source": "can be fetched",
    "nowhere": "[yellow]missing[/yellow]",
}
_MODULE = "services.trainer.worker.pretrained"
_NEEDED = ("services", "structlog", "safetensors")


def show(_: argparse.Namespace) -> int:
    """Every architecture's weights: where they are, their size and licence."""
    table = plain_table("architecture", "weights", "size", "licence", "source")
    weights = list(ask("list"))
    for one in weights:
        size = f"{one['max_bytes'] / 1e6:.0f} MB"
        table.add_row(one["id"], PLACES[one["place"]], size, one["license"], escape(one["source"]))
    print_table(table, commands.console)
    commands.console.print(f"What is fetched or imported is kept in {escape(weights[0]['kept_in'])}")
    for one in weights:
        if one["license_note"]:
            commands.console.print(f"{one['id']}: {escape(one['license_note'])}")
    return 0


def fetch(given: argparse.Namespace) -> int:
    """Downloads weights, unless they are here, under a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=commands.console, disable=not commands.console.is_terminal) as bar:
        tasks = {id_: bar.add_task(id_, total=None) for id_ in given.ids}

        def ended() -> Iterator[dict[str, Any]]:
            for answer in ask("fetch", *given.ids):
                if "received" in answer:
                    bar.update(tasks[answer["id"]], completed=answer["received"], total=answer["of"])
                else:
                    yield answer

        return _tell(ended())


def bring(given: argparse.Namespace) -> int:
    """Keeps the weights of a file that is here."""
    given.file.open("rb").close()  # what is not there is said at once, not when the services are loaded
    return _tell(ask("import", str(given.file.resolve()), "--as", given.architecture))


def verify(_: argparse.Namespace) -> int:
    """Reads all weights that are here and compares them with their hashes."""
    return _tell(ask("verify"))


def ask(*words: str) -> Iterator[dict[str, Any]]:
    """What the worker's code answers, as it comes. MissingParts where it cannot be asked."""
    for part in _NEEDED:
        if importlib.util.find_spec(part) is None:
            raise MissingParts(
                f"Weights are the worker's business, and {part} is not installed here. Clone the repository and run "
                "`make setup`."
            )
    command = [sys.executable, "-m", _MODULE, *words]
    environment = {"HANDFUL_LOG_LEVEL": "error", **os.environ}
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        explained = False
        for line in process.stdout or ():
            answer = json.loads(line)
            explained |= "problem" in answer
            yield answer
        said = process.stderr.read().strip() if process.stderr else ""
    if process.returncode and not explained:
        raise MissingParts(said.splitlines()[-1] if said else f"{_MODULE} ended with {process.returncode}")


def _tell(answers: Iterator[dict[str, Any]]) -> int:
    failed = False
    for answer in answers:
        if "problem" in answer:
            failed = True
            commands.console.print(f"[red]{answer['id']}[/red]: {escape(answer['problem'])}")
        else:
            commands.console.print(f"{answer['id']}: {PLACES[answer['place']]}, verified")
    return 1 if failed else 0
