"""`handful predict`: what files show or are of: a line for each, a table for folders, JSON lines for programs."""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from handful import Client
from handful.bundle import error_control
from handful.cli import commands
from handful.cli.tables import plain_table, print_table
from handful.errors import HandfulError
from handful.folders import media
from handful.v1.inference_pb2 import Prediction, PredictResponse, Segment

EXIT_SOME_CANNOT = 2

# What is no sound is sent as a picture.
_OTHER_KIND = {
    "sounds": "It is a sound, and the model understands pictures.",
    "images": "It is no sound in WAV, FLAC, OGG or MP3, and the model understands sounds.",
}

Answered = tuple[Path, PredictResponse | str]


def share(text: str) -> float:
    """`5%` or `0.05` as a number; ArgumentTypeError where it is neither, or no part of the whole."""
    try:
        return error_control.share(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def run(given: argparse.Namespace) -> int:
    """Predicts every file, and every picture and sound in every folder; 2 where one could not be."""
    problems = Console(stderr=True, highlight=False, soft_wrap=True)
    files = list(_files(given.files, problems))
    if not files:
        return EXIT_SOME_CANNOT
    as_table = not given.json and any(one.is_dir() for one in given.files)
    wary = given.max_wrong is not None
    table = plain_table("file", "label", "score", "unknown", *["unsure"] * wary)
    failed, num_unsure = sum(not one.exists() for one in given.files), 0
    try:
        with Client.from_env() as client:
            for file, answer in _answers(client, given, files, as_table=as_table):
                if isinstance(answer, str):
                    failed += 1
                    problems.print(f"handful: {escape(str(file))}: [yellow]{escape(answer)}[/yellow]")
                elif given.json:
                    print(json.dumps(_as_dict(file, answer)), flush=True)
                elif as_table:
                    best, unsure = answer.predictions[0], ["unsure" * answer.unsure] * wary
                    num_unsure += answer.unsure
                    table.add_row(
                        *map(escape, (str(file), best.label, f"{best.score:.3f}", "unknown" * answer.unknown, *unsure))
                    )
                else:
                    _show(file, answer)
    finally:  # what is known already is not lost with the rest
        if as_table and table.rows:
            print_table(table, commands.console)
    if wary and table.rows and not num_unsure:
        problems.print("It is unsure of none of them.")  # not among the rows, which programs read
    return EXIT_SOME_CANNOT if failed else 0


def _files(given: Iterable[Path], problems: Console) -> Iterator[Path]:
    for path in given:
        if not path.is_dir():
            if path.exists():
                yield path
            else:
                problems.print(f"handful: {escape(str(path))}: [yellow]There is no such file or folder.[/yellow]")
            continue
        found, num_others = media(path)
        if num_others or not found:
            skipped = f"skipped files that are neither pictures nor sounds: {num_others}"
            said = skipped if found else "There are no pictures or sounds in it."
            problems.print(f"handful: {escape(str(path))}: [yellow]{said}[/yellow]")
        yield from found


def _answers(client: Client, given: argparse.Namespace, files: list[Path], *, as_table: bool) -> Iterator[Answered]:
    """The answer to each, or why there is none, under a progress bar where nothing else is printed on the way."""
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn())
    quiet = not (as_table and commands.console.is_terminal)
    with Progress(*columns, console=commands.console, disable=quiet, transient=True) as bar:
        asked = client.predict_many(given.model, files, given.top, given.max_wrong)
        answers = bar.track(asked, total=len(files))
        for file, answer in zip(files, answers, strict=True):
            yield file, answer if isinstance(answer, PredictResponse) else _why(answer)


def _why(problem: HandfulError | OSError) -> str:
    if isinstance(problem, OSError):
        return str(problem.strerror)
    other = next((_OTHER_KIND[field] for field, _ in problem.violations if field in _OTHER_KIND), None)
    # Fields say nothing to whoever named a file.
    return other or problem.message.removeprefix("image: ").removeprefix("sound: ")


def _show(file: Path, answer: PredictResponse) -> None:
    said = f"{file}: {_said(answer)}"
    commands.console.print(f"{escape(said)}  [dim]({commands.short(answer.model_version)})[/dim]")
    for one in answer.segments:
        commands.console.print(escape(f"  {one.start_seconds:6.1f} to {one.end_seconds:6.1f} s: {_said(one)}"))


def _said(answer: PredictResponse | Segment) -> str:
    shown = "  ".join(f"{one.label} {one.score:.3f}" for one in answer.predictions) or "nothing"
    why = _held_back(answer)
    return f"{why}; of the classes most like: {shown}" if why else shown


def _held_back(answer: PredictResponse | Segment) -> str:
    """Why it is no answer; empty where it is one."""
    if answer.unknown:
        return "unknown"
    return "unsure" * answer.unsure


def _as_dict(file: Path, answer: PredictResponse) -> dict[str, object]:
    """`distance` and `max_distance` are None where the model cannot tell what is unknown, and `min_confidence` where no
    share of wrong answers was asked for.
    """
    return {
        "file": str(file),
        "label": answer.predictions[0].label,
        "score": answer.predictions[0].score,
        "unknown": answer.unknown,
        "distance": answer.distance if answer.HasField("distance") else None,
        "max_distance": answer.max_distance if answer.HasField("max_distance") else None,
        "unsure": answer.unsure,
        "min_confidence": answer.min_confidence if answer.HasField("min_confidence") else None,
        "predictions": _listed(answer.predictions),
        "segments": [
            {
                "start_seconds": one.start_seconds,
                "end_seconds": one.end_seconds,
                "unknown": one.unknown,
                "unsure": one.unsure,
                "predictions": _listed(one.predictions),
            }
            for one in answer.segments
        ],
        "model_version": answer.model_version,
    }


def _listed(predictions: Iterable[Prediction]) -> list[dict[str, object]]:
    return [{"label": one.label, "score": one.score} for one in predictions]
