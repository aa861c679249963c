"""Whether what an evaluation promises is kept: how often the interval out of fold holds the accuracy on all the others,
whether wrong labels are found among the suspects, how far off is what twice as many examples are said to bring, and
what cross-validation costs.

Draws n pictures per class, cross-validates as `fast` does, fits the head on all of them and counts how often its
accuracy on the pictures that were not drawn lies in the interval. Features are computed once. Sets are drawn from one
pool and overlap; on a small rest the truth itself is uncertain, which counts against us.

usage: honesty.py [SETS] [FOLDER]   (sets per line of intervals, default 1000, 0: none; of 2 and of 10 folds a tenth;
folder: ../shared/data/catsdogs)
"""

import math
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
from services.trainer.worker import learning_curve, suspects
from services.trainer.worker.cross_validation import Folds
from services.trainer.worker.evaluation import cross_validated
from services.trainer.worker.head_choice import best, fitter, honest, try_all
from services.trainer.worker.spans import Span

FAST = resolve(Recipe(preset="fast"), pools.ROW.id)
PER_CLASS = 15
LARGE = 50
SETS, FLIPPED, WORST = 20, 0.1, 0.15


def trained(rows: Floats, labels: Labels, seed: int, num_folds: int = 0) -> tuple[CrossValidation, LinearHead]:
    """As `fast` does it: the figures out of fold, of as many as it has unless said, and the head on all rows."""
    num_classes, span = int(labels.max()) + 1, Span.of(rows)
    folds = Folds.drawn(labels, alone(labels), num_classes, seed, num_folds)
    candidates = try_all(FAST, span, labels, num_classes, folds, lambda: None)
    groups = np.arange(len(labels))
    chosen = best(candidates, labels, groups)
    head = fitter(chosen.kind, FAST, span, num_classes)(span.rows, labels)
    return cross_validated(labels, honest([candidates], labels, groups, folds, lambda: None)), span.back(head)


def coverage(name: str, features: Floats, labels: Labels, sets: int, num_folds: int = 0) -> None:
    """Prints how often the interval holds the truth, how wide it is, the accuracy out of fold, and the truth."""
    held, widths, measured, truths = 0, [], [], []
    for seed in range(sets):
        train = drawn(labels, PER_CLASS, seed)
        test = np.setdiff1d(np.arange(len(labels)), train)
        found, head = trained(features[train], labels[train], seed, num_folds)
        interval = found.accuracy_interval
        truths.append(float((head.logits(features[test]).argmax(axis=1) == labels[test]).mean()))
        held += interval.low <= truths[-1] <= interval.high
        measured.append(found.accuracy)
        widths.append(interval.high - interval.low)
    print(
        f"{name:20} {PER_CLASS} per class, {found.folds} folds, {sets} sets: the interval holds the truth in "
        f"{held / sets:.3f}, median width {np.median(widths):.3f}, mean truth {np.mean(truths):.3f}, out of fold "
        f"{np.mean(measured):.3f}",
        flush=True,
    )


def suspected(name: str, features: Floats, labels: Labels, n: int, sets: int) -> None:
    """Prints how many of the labels that were set wrong are among those that are believed least."""
    num_classes, shares, listed_shares, right = int(labels.max()) + 1, [], [], []
    for seed in range(sets):
        train, random = drawn(labels, n, seed), np.random.default_rng(seed)
        wrong = random.permutation(len(train))[: round(FLIPPED * len(train))]
        given = labels[train].copy()
        given[wrong] = (given[wrong] + random.integers(1, num_classes, len(wrong))) % num_classes
        folds = Folds.drawn(given, alone(given), num_classes, seed)
        found = suspects.believed(Span.of(features[train]), given, num_classes, folds, lambda: None)
        believed = found[np.arange(len(given)), given]
        worst = np.argsort(believed, kind="stable")[: math.ceil(WORST * len(given))]
        shares.append(np.isin(wrong, worst).mean())
        doubted = believed < suspects.PROBABILITY
        listed_shares.append(doubted[wrong].mean())
        right.append(np.isin(np.flatnonzero(doubted), wrong).mean() if doubted.any() else 1.0)
    print(
        f"{name:20} {n} per class, {FLIPPED:.0%} of the labels wrong, {sets} sets: the worst {WORST:.0%} hold "
        f"{np.mean(shares):.3f} of them (worst set {min(shares):.2f}); below {suspects.PROBABILITY} are "
        f"{np.mean(listed_shares):.2f} of them, and {np.mean(right):.2f} of what is below is wrong",
        flush=True,
    )


def grown(name: str, features: Floats, labels: Labels, n: int, sets: int) -> None:
    """Prints how far the accuracy with twice as many pictures is from what was predicted, and if it is in the band."""
    num_classes, errors, unchanged, held = int(labels.max()) + 1, [], [], 0
    for seed in range(sets):
        twice = drawn(labels, 2 * n, seed)
        few = np.concatenate([twice[labels[twice] == one][:n] for one in range(num_classes)])
        test = np.setdiff1d(np.arange(len(labels)), twice)
        known, span = labels[few], Span.of(features[few])
        folds = Folds.drawn(known, alone(known), num_classes, seed)
        candidates = try_all(FAST, span, known, num_classes, folds, lambda: None)
        groups = np.arange(len(known))
        chosen = best(candidates, known, groups)
        fit = fitter(chosen.kind, FAST, span, num_classes)
        curve = learning_curve.draw(span, known, groups, folds, fit, chosen.out_of_fold, seed, lambda: None)
        names = tuple(map(str, range(num_classes)))
        found = learning_curve.more(
            curve, names, known, groups, honest([candidates], known, groups, folds, lambda: None)
        )
        head = trained(features[twice], labels[twice], seed)[1]
        truth = float((head.logits(features[test]).argmax(axis=1) == labels[test]).mean())
        errors.append(abs(found.accuracy - truth))
        unchanged.append(abs(found.accuracy - found.gain - truth))
        held += found.accuracy_interval.low <= truth <= found.accuracy_interval.high
    print(
        f"{name:20} {n} to {2 * n} per class, {sets} sets: the prediction is off by {np.mean(errors):.3f} (saying that "
        f"nothing changes: {np.mean(unchanged):.3f}); the band holds the truth in {held / sets:.2f}",
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
        for n in (PER_CLASS, LARGE):
            suspected("cats and dogs", animals, kinds, n, SETS)
            suspected("ten digits", numbers, figures, n, SETS)
        for name, features, labels in (("cats and dogs", animals, kinds), ("ten digits", numbers, figures)):
            grown(name, features, labels, PER_CLASS, SETS)
            grown(name, features, labels, 2 * PER_CLASS, SETS)
        if not sets:
            return
        coverage("cats and dogs", animals, kinds, sets)
        coverage("even and odd digits", numbers, figures % 2, sets)
        coverage("ten digits", numbers, figures, sets)
        by_lot = np.random.default_rng(0).permutation(kinds)
        coverage("labels drawn by lot", animals, by_lot, sets)
        for num_folds in (2, 10):
            coverage("cats and dogs", animals, kinds, max(1, sets // 10), num_folds)
            coverage("even and odd digits", numbers, figures % 2, max(1, sets // 10), num_folds)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 1000, Path(given[1] if given[1:] else pools.PHOTOGRAPHS))
