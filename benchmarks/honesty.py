"""Whether what an evaluation promises is kept: how often the interval out of fold holds the accuracy on all the others;
and what cross-validation costs.

Draws n pictures per class, cross-validates as `fast` does, fits the head on all of them and counts how often its
accuracy on the pictures that were not drawn lies in the interval. Features are computed once. Sets are drawn from one
pool and overlap; on a small rest the truth itself is uncertain, which counts against us.

usage: honesty.py [SETS] [FOLDER]   (sets per line, default 1000; default folder: ../shared/data/catsdogs)
"""

import sys
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import pools
from benchmarks.pools import Labels, alone, drawn
from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import CrossValidation, Recipe
from services.trainer.recipes import resolve
from services.trainer.worker.cross_validation import Folds
from services.trainer.worker.evaluation import cross_validated
from services.trainer.worker.head_choice import best, fitter, try_all
from services.trainer.worker.spans import Span

FAST = resolve(Recipe(preset="fast"), pools.ROW.id)
PER_CLASS = 15
LARGE = 50


def trained(rows: Floats, labels: Labels, seed: int) -> tuple[CrossValidation, LinearHead]:
    """As `fast` does it: the figures out of fold, and the head on all rows."""
    num_classes, span = int(labels.max()) + 1, Span.of(rows)
    folds = Folds.drawn(labels, alone(labels), num_classes, seed)
    candidates = try_all(FAST, span, labels, num_classes, folds, lambda: None)
    chosen = best(candidates, labels, np.arange(len(labels)))
    head = fitter(chosen.kind, FAST, span, num_classes)(span.rows, labels)
    return cross_validated(labels, chosen.out_of_fold), span.back(head)


def coverage(name: str, features: Floats, labels: Labels, sets: int) -> None:
    """Prints how often the interval holds the truth, how wide it is, and what the truth is."""
    held, widths, truths = 0, [], []
    for seed in range(sets):
        train = drawn(labels, PER_CLASS, seed)
        test = np.setdiff1d(np.arange(len(labels)), train)
        found, head = trained(features[train], labels[train], seed)
        interval = found.accuracy_interval
        truths.append(float((head.logits(features[test]).argmax(axis=1) == labels[test]).mean()))
        held += interval.low <= truths[-1] <= interval.high
        widths.append(interval.high - interval.low)
    print(
        f"{name:20} {PER_CLASS} per class, {sets} sets: the interval holds the truth in {held / sets:.3f}, "
        f"median width {np.median(widths):.3f}, mean truth {np.mean(truths):.3f}",
        flush=True,
    )


def seconds(name: str, features: Floats, labels: Labels) -> None:
    """Prints what cross-validation, the choice of the head and the head take, the second time."""
    train = drawn(labels, LARGE, 0)
    trained(features[train], labels[train], 0)
    started = time.perf_counter()
    repeats = trained(features[train], labels[train], 0)[0].repeats
    taken = time.perf_counter() - started
    print(f"{name:20} {LARGE} per class: {taken:.2f} s for {repeats} repeats", flush=True)


def main(sets: int, folder: Path) -> None:
    backbone = pools.session()
    animals, kinds = pools.photographs(backbone, folder)
    numbers, figures = pools.digits(backbone)
    with threadpool_limits(1, "blas"):
        seconds("cats and dogs", animals, kinds)
        seconds("ten digits", numbers, figures)
        coverage("cats and dogs", animals, kinds, sets)
        coverage("even and odd digits", numbers, figures % 2, sets)
        coverage("ten digits", numbers, figures, sets)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 1000, Path(given[1] if given[1:] else pools.PHOTOGRAPHS))
