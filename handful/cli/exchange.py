"""`handful export` and `handful import`: a model into a zip, and out of one."""

import argparse
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from handful import Client, names
from handful.cli import commands
from handful.cli.outcome import next_step
from handful.cli.tables import plain_table, print_table
from handful.errors import FailedPrecondition, InvalidArgument
from handful.exchange import Exported, OnBytes
from handful.v1.model_pb2 import ExportFormat

# The environment that exports are tried in.
BARE = ".venv-export"
_PYTHON = (
    "  python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt",
    "  python predict.py FILE",
)
# Of formats that are not run by predict.py.
_NEXT = {"browser": ("  python3 -m http.server", "and open http://localhost:8000")}


def export(given: argparse.Namespace) -> int:
    if given.list:
        return _list(given)
    if not given.model:
        raise InvalidArgument("Say which model to export, or --list for the formats there are.")
    with Client.from_env() as client:
        model = commands.named(given.model)
        made = export_with_progress(client, model, given.out, commands.console, given.format)
    show(made, commands.console)
    folder = made.path.stem
    commands.console.print("Next, here or on any machine with Python 3.11 or newer:")
    commands.console.print(escape(f"  unzip {made.path} -d {folder} && cd {folder}"), soft_wrap=True)
    for line in _NEXT.get(made.export.format, _PYTHON):
        commands.console.print(line)
    return 0


def import_(given: argparse.Namespace) -> int:
    model = given.model or _model_of(given.zip)
    with Client.from_env() as client:
        with _bar("sending", commands.console) as on_bytes:
            version = client.import_model(given.zip, model, promote=given.promote, on_bytes=on_bytes)
        commands.console.print(f"[green]{version.name}[/green]: {len(version.labels)} classes")
        commands.console.print(next_step(client, version.name))
    return 0


def _list(given: argparse.Namespace) -> int:
    """Every format: what stands in it, what it needs, how near it is, and why the model cannot be had in it."""
    with Client.from_env() as client:
        found = client.export_formats(commands.named(given.model) if given.model else "")
    if given.json:
        print(json.dumps(list(map(_as_dict, found)), indent=2, ensure_ascii=False))
        return 0
    table = plain_table("format", "title", "probabilities differ by at most", "needs", "")
    for one in found:
        needs = escape("; ".join(one.needs))
        table.add_row(
            one.name, escape(one.title), f"{one.max_abs_diff:g}", needs, f"[yellow]{escape(one.refusal)}[/yellow]"
        )
    print_table(table, commands.console)
    return 0


def _as_dict(one: ExportFormat) -> dict[str, object]:
    return MessageToDict(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def export_with_progress(
    client: Client, model_version: str, to: Path, console: Console, format_name: str = ""
) -> Exported:
    """Fetches the zip of a version under a progress bar, to a file or into a folder."""
    with _bar("exporting", console) as on_bytes:
        return client.export(model_version, to, on_bytes, format_name)


def show(made: Exported, console: Console) -> None:
    export = made.export
    console.print(escape(f"{made.path}: {export.size_bytes / 1e6:.0f} MB"), soft_wrap=True)
    console.print(
        f"Its graph was tried on {export.num_golden} examples: {export.top1_agreement:.0%} of its answers are the "
        f"model's; probabilities differ by {export.max_abs_diff:.0e} at most."
    )
    if export.num_examples:
        console.print(
            f"On {export.num_examples} examples that the model was validated on it is "
            f"{export.examples_top1_agreement:.0%}, and {export.examples_max_abs_diff:.0e} at most."
        )


def self_test(made: Exported, folder: Path) -> dict[str, object]:
    """Unpacks a zip and has it test itself: in `.venv-export`, which `make setup` makes of what exports need, or else
    in the Python that runs this; the answer says where. FailedPrecondition where the test fails.
    """
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(folder)
    bare = Path(__file__).parents[2] / BARE / "bin" / "python"
    python = bare if bare.is_file() else Path(sys.executable)
    command: list[str | Path] = [python, "-E", folder / "predict.py", "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise FailedPrecondition(f"The export's self-test failed: {said[-1] if said else 'it said nothing'}")
    report: dict[str, object] = json.loads(done.stdout)
    torch = "with" if find_spec("torch") else "without"
    return {
        "path": str(made.path),
        "self_test": report["self_test"],
        "top1_agreement": report["top1_agreement"],
        "max_abs_diff": report["max_abs_diff"],
        "python": BARE if python == bare else f"the Python that ran this, {torch} torch",
    }


def _model_of(file: Path) -> str:
    """`flowers` of `flowers-3.zip`."""
    model = re.sub(r"-[0-9]+$", "", file.stem)
    if not names.ID.fullmatch(model):
        raise InvalidArgument(f"{file.name} is no name of a model. Give one: --model flowers")
    return model


@contextmanager
def _bar(what: str, console: Console) -> Iterator[OnBytes]:
    columns = (TextColumn(what), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
