"""`handful push`: a folder is looked through, doubted where it does not look like class folders, and sent."""

import argparse
import sys

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from handful import Client
from handful.cli import commands
from handful.cli.outcome import INTERRUPTED
from handful.errors import InvalidArgument
from handful.folders import LAYOUT, Survey, doubts, survey
from handful.names import check_id
from handful.uploads import Pushed
from handful.v1.dataset_pb2 import DatasetVersion, UploadExamplesResponse

SHOWN_CLASSES = 20
SHOWN_FOLDERS = 5


def run(given: argparse.Namespace) -> int:
    name = given.folder.resolve().name.lower().replace("_", "-").replace(" ", "-")
    dataset = check_id(given.dataset or name, "--dataset")
    found = survey(given.folder, given.groups)
    doubt = "" if given.yes else doubted(found)
    if doubt and not _is_meant(doubt):
        commands.console.print("Nothing was sent.")
        return 0
    with Client.from_env() as client:
        try:
            pushed = push_with_progress(client, dataset, found, given.groups)
        except KeyboardInterrupt:
            commands.console.print(
                "Stopped. What was stored stays in the dataset. To send the rest, push the folder again."
            )
            return INTERRUPTED
    show(pushed.version)
    if given.groups:
        num_groups = len({file.group for file in found.files})
        commands.console.print(f"groups found: {num_groups}, in {len(found.files)} files")
    commands.console.print(f"Next: handful train {dataset}")
    return 0


def push_with_progress(client: Client, dataset: str, found: Survey, groups: str = "") -> Pushed:
    """Pushes a folder under a progress bar; says what is passed by, and what is refused."""
    console = commands.console
    if found.num_hidden:
        console.print(f"skipped hidden files and folders, whose names begin with a dot: {found.num_hidden}")
    if found.num_loose:
        console.print(f"skipped files beside the class folders, which have no class: {found.num_loose}")
    columns = (TextColumn("pushing"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(found.files))

        def hear(verdict: UploadExamplesResponse) -> None:
            bar.advance(task)
            if verdict.HasField("rejected"):
                why = verdict.rejected
                refused = escape(f"{verdict.client_ref}: {why.message} {why.hint}")
                bar.console.print(f"[yellow]refused[/yellow] {refused}")

        return client.push(dataset, found.folder, hear, groups)


def show(version: DatasetVersion) -> None:
    """What a version holds, and what is odd about it."""
    console = commands.console
    train = sum(one.num_train for one in version.classes)
    val = sum(one.num_val for one in version.classes)
    console.print(f"{version.name}: {len(version.classes)} classes, {train} examples to train, {val} to validate")
    for one in version.classes[:SHOWN_CLASSES]:
        console.print(f"  {escape(one.label)}: {one.num_train} + {one.num_val}")
    if len(version.classes) > SHOWN_CLASSES:
        console.print(f"  and {len(version.classes) - SHOWN_CLASSES} more")
    for notice in version.notices:
        console.print(f"[yellow]note[/yellow] {escape(notice.message)}")


def doubted(found: Survey) -> str:
    """Why a folder does not look like class folders, what it holds, and what is expected; nothing where it does."""
    told = doubts(found)
    if not told:
        return ""
    labels = ", ".join(found.labels[:SHOWN_FOLDERS]) + (", ..." if len(found.labels) > SHOWN_FOLDERS else "")
    return (
        f"{found.folder.resolve()} does not look like a folder of examples. Its folders: {labels}; "
        f"files in them: {len(found.files):,}. {' '.join(told)} {LAYOUT}"
    )


def _is_meant(doubt: str) -> bool:
    """Whether whoever pushes a doubted folder says so. InvalidArgument where nobody can be asked."""
    if not (sys.stdin.isatty() and commands.console.is_terminal):
        raise InvalidArgument(f"{doubt} Nothing was sent. To push it all the same: --yes")
    commands.console.print(escape(doubt))
    return commands.console.input("Push it all the same? \\[y/N] ").strip().lower() in {"y", "yes"}
