"""Whether what an evaluation promises is kept: how often the interval out of fold holds the accuracy on all the others;
and what cross-validation costs.

Draws n pictures per class, cross-validates as `fast` does, fits the head on all of them and counts how often its
accuracy on the pictures that were not drawn lies in the interval. Features are computed once. Sets are drawn from one
pool and overlap; on a small rest the truth itself is uncertain, which counts against us.

usage: honesty.py [SETS] [FOLDER]   (sets per line, default 1000; default folder: ../shared/data/catsdogs)
"""

import io
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from handful.bundle.heads import Floats, LinearHead
from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, CrossValidation, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.cross_validation import Folds, Labels
from services.trainer.worker.evaluation import cross_validated
from services.trainer.worker.linear_probe import fit
from services.trainer.worker.pretrained import PretrainedWeights

ROW = ARCHITECTURES[DEFAULT_ARCHITECTURE]
DIGITS = 1000
PER_CLASS = 15
LARGE = 50


def head(num_classes: int, rows: Floats, labels: Labels) -> LinearHead:
    """As `fast` fits it."""
    return fit(rows, labels, num_classes, 1.0, 200, lambda _: None)


def validated(rows: Floats, labels: Labels, seed: int) -> CrossValidation:
    """Out of fold, every example a group of its own."""
    num_classes = int(labels.max()) + 1
    folds = Folds.drawn(labels, [f"{place:06}" for place in range(len(labels))], num_classes, seed)
    found = folds.out_of_fold(rows, labels, num_classes, partial(head, num_classes), lambda _, __: None)
    return cross_validated(labels, found)


def drawn(labels: Labels, n: int, seed: int) -> Labels:
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == one))[:n] for one in np.unique(labels)])


def coverage(name: str, features: Floats, labels: Labels, sets: int) -> None:
    """Prints how often the interval holds the truth, how wide it is, and what the truth is."""
    held, widths, truths = 0, [], []
    for seed in range(sets):
        train = drawn(labels, PER_CLASS, seed)
        test = np.setdiff1d(np.arange(len(labels)), train)
        interval = validated(features[train], labels[train], seed).accuracy_interval
        fitted = head(int(labels.max()) + 1, features[train], labels[train])
        truths.append(float((fitted.logits(features[test]).argmax(axis=1) == labels[test]).mean()))
        held += interval.low <= truths[-1] <= interval.high
        widths.append(interval.high - interval.low)
    print(
        f"{name:20} {PER_CLASS} per class, {sets} sets: the interval holds the truth in {held / sets:.3f}, "
        f"median width {np.median(widths):.3f}, mean truth {np.mean(truths):.3f}",
        flush=True,
    )


def seconds(name: str, features: Floats, labels: Labels) -> None:
    """Prints what cross-validation takes, the second time."""
    train = drawn(labels, LARGE, 0)
    validated(features[train], labels[train], 0)
    started = time.perf_counter()
    repeats = validated(features[train], labels[train], 0).repeats
    taken = time.perf_counter() - started
    print(f"{name:20} {LARGE} per class: {taken:.2f} s for {repeats} repeats", flush=True)


def photographs(session: Backbone, folder: Path) -> tuple[Floats, Labels]:
    files = find(folder)
    names = sorted({file.label for file in files})
    rows = [session.features(to_pixels(file.path.read_bytes(), ROW.preprocessing)[None])[0] for file in files]
    return np.stack(rows), np.array([names.index(file.label) for file in files])


def digits(session: Backbone) -> tuple[Floats, Labels]:
    """Dark digits on white, as large as the network takes them."""
    found, rows = load_digits(), []
    for pixels in found.images[:DIGITS]:
        file = io.BytesIO()
        Image.fromarray((255 - pixels * 255 / 16).astype(np.uint8)).convert("RGB").save(file, "PNG")
        rows.append(session.features(to_pixels(file.getvalue(), ROW.preprocessing)[None])[0])
    return np.stack(rows), found.target[:DIGITS]


def main(sets: int, folder: Path) -> None:
    store = FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-"))
    recipe = Recipe(architecture=ROW.id, weights=WEIGHTS_PRETRAINED)
    graph = backbones.find(store, PretrainedWeights(store), recipe, ROW.preprocessing, "bench", Children())[1]
    animals, kinds = photographs(Backbone(graph), folder)
    numbers, figures = digits(Backbone(graph))
    with threadpool_limits(1, "blas"):
        seconds("cats and dogs", animals, kinds)
        seconds("ten digits", numbers, figures)
        coverage("cats and dogs", animals, kinds, sets)
        coverage("even and odd digits", numbers, figures % 2, sets)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 1000, Path(given[1] if given[1:] else "../shared/data/catsdogs"))
