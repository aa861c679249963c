"""`handful demo`: the whole line in a temporary home, with your pictures or with handwritten digits."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from handful import Client
from handful.cli import commands, exchange, pushing
from handful.cli.live import follow
from handful.cli.stack import MissingParts, Stack
from handful.errors import FailedPrecondition, InvalidArgument
from handful.folders import LabelledFile, Survey, survey
from handful.recipe import as_dict
from handful.v1.bundle_pb2 import SPLIT_VAL
from handful.v1.dataset_pb2 import DatasetVersion
from handful.v1.trainer_pb2 import TrainingRun

DATASET = "demo"
# A demo shows how this machine is set up where these are set; everything else of it is its own.
HONOURED = ("HANDFUL_STORE", "HANDFUL_S3_", "HANDFUL_DATASET_DATABASE", "HANDFUL_TRAINER_DATABASE", "HANDFUL_WEIGHTS")
NUM_PREDICTED = 5
TRAIN_DIGITS, VAL_DIGITS = 50, 20
DIGIT_PIXELS, PAPER_PIXELS = 160, 224


def run(given: argparse.Namespace) -> int:
    """Everything from start to report; with `--json`, the report is the last line on standard output."""
    # With --json standard output is for programs; people read standard error.
    width = None if (sys.stderr if given.json else sys.stdout).isatty() else commands.PIPE_WIDTH
    console = commands.console = Console(stderr=given.json, highlight=False, width=width)
    seconds: dict[str, float] = {}
    folder = Path(tempfile.mkdtemp(prefix="handful-demo-"))
    home = folder / "home"
    try:
        data = given.data or _digits(folder / "digits", console)
        found = survey(data)
        if doubt := pushing.doubted(found):
            raise InvalidArgument(doubt)
        stack = Stack.on_free_ports(home)
        stack.environment |= (settings := honoured())
        project = _project(settings, console)
        with _timed(seconds, "start"):
            stack.start()
        try:
            with Client(stack.addresses, project) as client:
                report = _line(client, found, seconds, console, folder)
        finally:
            stack.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(folder / "digits", ignore_errors=True)
        with suppress(OSError):  # it has plots and a zip in it where all went well
            folder.rmdir()
    _show(report, console)
    if settings:
        console.print(f"What it kept as {', '.join(sorted(settings))} say is still there, in projects/{project}.")
    if given.json:
        print(json.dumps(report))
        sys.stdout.flush()
    return 0


def honoured() -> dict[str, str]:
    """The variables that name where artefacts and rows go."""
    return {name: value for name, value in os.environ.items() if name.startswith(HONOURED) and value}


def _project(settings: dict[str, str], console: Console) -> str:
    """Says where things go, and gives the project that they go to: the demo's own, where others may be there."""
    if not settings:
        console.print("Starting the services in a temporary home ...")
        return "default"
    project = f"demo-{uuid.uuid4().hex[:8]}"
    named = ", ".join(sorted(settings))
    console.print(f"Starting the services as {named} say, in projects/{project} ...")
    return project


def _line(
    client: Client, found: Survey, seconds: dict[str, float], console: Console, folder: Path
) -> dict[str, object]:
    plots = folder / "plots"
    with _timed(seconds, "push"):
        pushed = pushing.push_with_progress(client, DATASET, found)
    pushing.show(pushed.version)
    with _timed(seconds, "train"):
        ended = follow(client.train(DATASET), console)
    if ended.state != TrainingRun.STATE_SUCCEEDED:
        raise FailedPrecondition(f"The run failed: {ended.failure.message}")
    evaluation = client.evaluation(ended.model_version)
    plots.mkdir()
    for plot in evaluation.plots:
        (plots / f"{plot.name}.png").write_bytes(plot.png)
    with _timed(seconds, "predict"):
        _predict(client, found.files, console)
    with _timed(seconds, "export"):
        made = exchange.export_with_progress(client, f"{DATASET}@production", folder, console)
        exported = exchange.self_test(made, folder / "home" / "export")
    figures = {metric.name: metric.value for metric in evaluation.evaluation.metrics}
    return {**_report(pushed.version, ended, figures, seconds, plots), "export": exported}


def _predict(client: Client, files: list[LabelledFile], console: Console) -> None:
    unseen = [file for file in files if file.split == SPLIT_VAL]
    shown = unseen or files
    console.print("Some that it never saw:" if unseen else "Some of the examples, most of which it was trained on:")
    step = max(1, len(shown) // NUM_PREDICTED)
    for file in shown[::step][:NUM_PREDICTED]:
        best = client.predict(DATASET, file.path, top_k=1).predictions[0]
        line = f"  {file.path.name} is {file.label}: predicted {best.label}, {best.score:.3f}"
        console.print(line, markup=False)


def _report(
    version: DatasetVersion, ended: TrainingRun, figures: dict[str, float], seconds: dict[str, float], plots: Path
) -> dict[str, object]:
    recipe = as_dict(ended.recipe)
    return {
        "architecture": recipe["architecture"],
        "weights": recipe["weights"],
        "recipe": recipe["preset"],
        "classes": [one.label for one in version.classes],
        "train_examples": sum(one.num_train for one in version.classes),
        "val_examples": sum(one.num_val for one in version.classes),
        # None where there was nothing to measure on.
        "val_accuracy": round(figures["val/accuracy"], 4) if "val/accuracy" in figures else None,
        "seconds": {phase: round(spent, 2) for phase, spent in seconds.items()},
        "plots": {plot.stem: str(plot) for plot in sorted(plots.glob("*.png"))},
    }


def _show(report: dict[str, object], console: Console) -> None:
    seconds, plots, exported = report["seconds"], report["plots"], report["export"]
    accuracy = report["val_accuracy"]
    measured = f"{accuracy:.1%} right" if accuracy is not None else "How well it does is not known"
    console.print(
        f"\n[bold green]{measured}[/bold green] on {report['val_examples']} unseen examples: "
        f"{report['recipe']} on {report['architecture']} ({report['weights']} weights), "
        f"{report['train_examples']} training examples."
    )
    if isinstance(seconds, dict) and isinstance(plots, dict):
        console.print("seconds: " + ", ".join(f"{phase} {spent:.1f}" for phase, spent in seconds.items()))
        for name, path in plots.items():
            console.print(f"plot: {name:28} {path}", soft_wrap=True)
    if isinstance(exported, dict):
        console.print(
            f"export: {exported['path']}\n"
            f"its self-test {exported['self_test']}, in {exported['python']}: {exported['top1_agreement']:.0%} of the "
            f"answers are the same, probabilities differ by {exported['max_abs_diff']:.0e} at most",
            soft_wrap=True,
        )
    console.print(
        "The home is gone again. To keep what you train: handful up, then handful push; handful --help says more."
    )


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - started


def _digits(folder: Path, console: Console) -> Path:
    """Handwritten digits out of scikit-learn, drawn as pictures: 50 to train and 20 to validate per digit."""
    try:
        import numpy as np
        from PIL import Image
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingParts(
            "The demo's digits come with scikit-learn: run `make setup`, or give your own --data."
        ) from None
    console.print("No --data given: handwritten digits, 50 to train and 20 to validate each.")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for digit in range(10):
        chosen = order[digits.target[order] == digit][: TRAIN_DIGITS + VAL_DIGITS]
        for position, index in enumerate(chosen):
            split = "train" if position < TRAIN_DIGITS else "val"
            path = folder / split / str(digit) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Their pixels are 0 to 16, light on dark; drawn dark on light, as ink is, with a margin, as paper has.
            pixels = (255 - digits.images[index] * (255 / 16)).astype(np.uint8)
            paper = Image.new("L", (PAPER_PIXELS,) * 2, 255)
            margin = (PAPER_PIXELS - DIGIT_PIXELS) // 2
            paper.paste(Image.fromarray(pixels).resize((DIGIT_PIXELS,) * 2, Image.Resampling.BICUBIC), (margin, margin))
            paper.save(path)
    return folder
