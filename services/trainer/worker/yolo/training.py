"""Preset `baseline` of a YOLO: Ultralytics trains, in a process of its own; what it is given, the figures and the model
are ours. There are no checkpoints: a run that lost its worker begins again.
"""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import FREEZE_BODY, WEIGHTS_PRETRAINED, Backbone, Head
from services.trainer import input_sizes
from services.trainer.architectures import ArchitectureRow
from services.trainer.worker import backbones, topping_up
from services.trainer.worker.evaluation import scores
from services.trainer.worker.examples import Example, Examples, targets
from services.trainer.worker.memory import OutOfMemory
from services.trainer.worker.publishing import NUM_GOLDEN
from services.trainer.worker.work import Trained, Work
from services.trainer.worker.yolo import bodies, quarantine

# Ultralytics takes smaller pictures for corrupt.
MIN_SIDE = 10


def train(work: Work, examples: Examples) -> Trained:
    """Every epoch as Ultralytics ends it, measured by us; then its moving average of the weights as a model."""
    row = input_sizes.row(work.recipe)
    measured = examples.val or examples.train[:NUM_GOLDEN]
    with work.children.folder() as folder:
        pixels = _lay_measured(work, examples, measured, row, folder)
        task = _task(work, len(examples.labels), _lay_pictures(work, examples, folder), row)
        if work.recipe.weights == WEIGHTS_PRETRAINED:
            bodies.lay_weights(folder, work.weights.tensors(row))
        work.progress("fitting")
        probabilities = _epochs(work, examples, folder, task)
        work.progress("graph")
        head = load_file(folder / "head.safetensors")
        backbone = _backbone(work, row, folder, exports=task["export"])
    plain, mean = Head.NORMALIZATION_NONE, np.zeros(row.feature_width, np.float32)
    return Trained(
        examples,
        backbone,
        LinearHead(plain, head["weight"], head["bias"], mean),
        Head(normalization=plain),
        probabilities[: len(examples.val)],
        pixels[:NUM_GOLDEN],
        probabilities[:NUM_GOLDEN],
    )


def _task(work: Work, num_classes: int, num_pictures: int, row: ArchitectureRow) -> dict[str, Any]:
    """The recipe, for `child.py`."""
    recipe = work.recipe
    frozen, pretrained = recipe.freeze == FREEZE_BODY, recipe.weights == WEIGHTS_PRETRAINED
    return {
        "do": "train",
        "architecture": row.id,
        "size": row.preprocessing.size,
        "num_classes": num_classes,
        "num_pictures": num_pictures,
        "pretrained": pretrained,
        "frozen": frozen,
        # A body that did not change is known already.
        "export": not (frozen and pretrained),
        "seed": recipe.seed,
        "num_epochs": recipe.num_epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "horizontal_flip": recipe.horizontal_flip,
        "brightness": recipe.brightness,
        "saturation": recipe.saturation,
    }


def _lay_measured(
    work: Work, examples: Examples, measured: tuple[Example, ...], row: ArchitectureRow, folder: Path
) -> Any:
    """The pictures to measure on, as they come to the model when it serves: uint8[n, size, size, 3]."""
    size = row.preprocessing.size
    pixels = np.empty((len(measured), size, size, 3), dtype=np.uint8)
    for position, example in enumerate(measured):
        pixels[position] = examples.pixels(work.store, example, row.preprocessing)
        work.progress("loading", position + 1, len(measured))
    np.save(folder / "measured.npy", pixels)
    return pixels


def _lay_pictures(work: Work, examples: Examples, folder: Path) -> int:
    """The training pictures as files, a folder for each class, repeated where small classes are topped up; how many."""
    order = topping_up.positions(work, examples)
    for number, position in enumerate(order):
        example = examples.train[position]
        below = folder / "pictures" / f"{example.label:06d}"
        below.mkdir(parents=True, exist_ok=True)
        data = _large_enough(examples.data(work.store, example))
        kind = "png" if data.startswith(b"\x89PNG") else "jpg"
        (below / f"{number:06d}.{kind}").write_bytes(data)
        work.progress("loading", number + 1, len(order))
    return len(order)


def _large_enough(data: bytes) -> bytes:
    """A picture that Ultralytics takes: a tiny one enlarged, dot by dot."""
    with Image.open(BytesIO(data)) as picture:
        if min(picture.size) >= MIN_SIDE:
            return data
        factor = -(-MIN_SIDE // min(picture.size))
        enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    written = BytesIO()
    enlarged.save(written, "PNG")
    return written.getvalue()


def _epochs(work: Work, examples: Examples, folder: Path, task: dict[str, Any]) -> Floats:
    """The probabilities after the last epoch, float32[n, classes]."""
    probabilities = np.zeros((0, task["num_classes"]), dtype=np.float32)
    for epoch, metrics in _said(work, folder, task):
        file = folder / f"probabilities-{epoch}.npy"
        probabilities = np.load(file)
        file.unlink()
        found = scores(targets(examples.val), probabilities[: len(examples.val)])
        examples_per_second = task["num_pictures"] / metrics["seconds"]
        eta_seconds = metrics["seconds"] * (task["num_epochs"] - epoch)
        more = {"examples_per_second": examples_per_second, "eta_seconds": eta_seconds}
        work.epoch(epoch, {**metrics, **found, **more})
    return probabilities


def _said(work: Work, folder: Path, task: dict[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """The epochs as they end, with progress on the way."""
    num_pictures = task["num_pictures"]
    total = num_pictures * task["num_epochs"]
    for answer in _answers(work, folder, task):
        if "metrics" in answer:
            memory, accelerator = answer["memory_bytes"], answer["accelerator_bytes"]
            work.usage.apart(memory, accelerator)
            yield answer["epoch"], {**answer["metrics"], "peak_memory_bytes": accelerator or memory}
        elif "phase" in answer:
            work.progress(answer["phase"])
        else:
            work.progress("fitting", (answer["epoch"] - 1) * num_pictures + answer["seen"], total)


def _answers(work: Work, folder: Path, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        yield from quarantine.answers(work.children, folder, task, work.threads, work.reporter.check)
    except MemoryError as problem:
        size = task["batch_size"]
        smaller = f"Try batch_size={size // 2}." if size > 1 else "Try a smaller architecture."
        message = f"The memory of the worker does not suffice for batches of {size}. {smaller}"
        raise OutOfMemory(message) from problem


def _backbone(work: Work, row: ArchitectureRow, folder: Path, *, exports: bool) -> Backbone:
    plain = row.preprocessing
    if not exports:
        find = partial(backbones.find, work.store, work.weights, work.recipe, plain, work.project, work.children)
        return work.wait("graph", find)[0]
    graph, state = bodies.exported(folder)
    origin = "random" if work.recipe.freeze == FREEZE_BODY else "trained"
    return backbones.store_graph(work.store, graph, state, row, plain, project=work.project, origin=origin)[0]
