"""Whether "at most x % wrong" is kept, and how much is answered then: draws n pictures per class, cross-validates as
`fast` does, fits the head on all of them, and asks it about all pictures that were not drawn, for 1, 5 and 10 %.

The promise is a mean over models: of all that is asked, the share that is answered, and wrongly, must be at most x, up
to its standard error. Sets are drawn from one pool and overlap, so that error is told a little too small.

usage: few_errors.py [SETS] [FOLDER]   (sets per line, default 60; folder: ../shared/data/catsdogs)
"""

import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import pools
from benchmarks.honesty import FAST, LARGE, PER_CLASS
from benchmarks.pools import Labels, alone, drawn
from handful.bundle.error_control import groups_needed, min_confidence
from handful.bundle.heads import Floats, LinearHead, softmax
from services.trainer.worker.calibration import tempered
from services.trainer.worker.cross_validation import Folds
from services.trainer.worker.head_choice import as_published, best, fitter, honest, try_all
from services.trainer.worker.held_out import ERROR_RATES, HeldOut
from services.trainer.worker.spans import Span


def trained(rows: Floats, labels: Labels, seed: int) -> tuple[HeldOut, LinearHead]:
    """As `fast` does it: the answers out of fold as they are published, and the head."""
    num_classes, span, groups = int(labels.max()) + 1, Span.of(rows), np.arange(len(labels))
    folds = Folds.drawn(labels, alone(labels), num_classes, seed)
    candidates = try_all(FAST, span, labels, num_classes, folds, lambda: None)
    answers = honest([candidates], labels, groups, folds, lambda: None, as_published)
    chosen = best(candidates, labels, groups)
    head = span.back(fitter(chosen.kind, FAST, span, num_classes)(span.rows, labels))
    probabilities = np.stack([softmax(one) for one in answers.logits])
    return HeldOut(probabilities, labels, groups), tempered(head, chosen.temperature)


def kept(name: str, features: Floats, labels: Labels, n: int, sets: int) -> None:
    """Prints what was promised, what became of it, and what was answered."""
    wrong, answered = np.zeros((2, len(ERROR_RATES), sets))
    total = np.zeros(sets)
    for seed in range(sets):
        train = drawn(labels, n, seed)
        test = np.setdiff1d(np.arange(len(labels)), train)
        held_out, head = trained(features[train], labels[train], seed)
        control, probabilities = held_out.error_control(), head.probabilities(features[test])
        is_wrong = probabilities.argmax(axis=1) != labels[test]
        total[seed] = is_wrong.mean()
        for place, rate in enumerate(ERROR_RATES):
            threshold = None if control is None else min_confidence(control, rate)
            given = probabilities.max(axis=1) > (1 if threshold is None else threshold)
            wrong[place, seed], answered[place, seed] = (is_wrong & given).mean(), given.mean()
    print(f"{name}, {n} per class, {sets} sets: answering everything is wrong on {total.mean():.2%}")
    num_examples = n * (int(labels.max()) + 1)
    for place, rate in enumerate(ERROR_RATES):
        if num_examples < groups_needed(rate):
            print(f"  at most {rate:4.0%} cannot be promised: {num_examples} examples of {groups_needed(rate)}")
            continue
        error = wrong[place].std() / np.sqrt(sets)
        print(
            f"  at most {rate:4.0%}: {wrong[place].mean():.2%} +- {error:.2%} is answered wrongly, "
            f"{answered[place].mean():.1%} is answered (in the middle half of the sets "
            f"{np.quantile(answered[place], 0.25):.0%} to {np.quantile(answered[place], 0.75):.0%})",
            flush=True,
        )


def main(sets: int, folder: Path) -> None:
    backbone = pools.session()
    animals, kinds = pools.photographs(backbone, folder)
    numbers, figures = pools.digits(backbone)
    with threadpool_limits(1, "blas"):
        for n in (PER_CLASS, LARGE):
            kept("cats and dogs", animals, kinds, n, sets)
            kept("even and odd digits", numbers, figures % 2, n, sets)
            kept("ten digits", numbers, figures, n, sets)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 60, Path(given[1] if given[1:] else pools.PHOTOGRAPHS))
