"""What the choice of the head and its temperature are worth: logistic regression, LDA and the rule, at 5, 15 and 50 per
class; accuracy, log-loss and calibration error on all examples that were not drawn, without and with the temperature.

Draws sets as `fast` would be given them, means of 20. Features are computed once.

usage: heads.py [DRAWS]   (needs ../shared/data/catsdogs)
"""

import sys
from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import pools
from benchmarks.pools import Labels, alone, drawn
from handful.bundle.heads import Floats, softmax
from handful.v1.bundle_pb2 import HEAD_KIND_LDA, HeadKind, Recipe
from services.trainer.recipes import resolve
from services.trainer.worker.cross_validation import Folds
from services.trainer.worker.evaluation import scores
from services.trainer.worker.head_choice import best, fitter, try_all
from services.trainer.worker.spans import Span

FAST = resolve(Recipe(preset="fast"), pools.ROW.id)
FIGURES = ("test/accuracy", "test/loss", "test/ece")


def figures(features: Floats, labels: Labels, n: int, seed: int) -> Iterator[tuple[str, float]]:
    """Of one draw, by name."""
    train, num_classes = drawn(labels, n, seed), int(labels.max()) + 1
    test = np.setdiff1d(np.arange(len(labels)), train)
    span, known = Span.of(features[train]), labels[train]
    folds = Folds.drawn(known, alone(known), num_classes, seed)
    candidates = try_all(FAST, span, known, num_classes, folds, lambda: None)
    chosen = best(candidates, known, np.arange(len(known)))
    yield "LDA taken", float(chosen.kind == HEAD_KIND_LDA)
    for one in candidates:
        name = HeadKind.Name(one.kind).removeprefix("HEAD_KIND_")
        logits = span.back(fitter(one.kind, FAST, span, num_classes)(span.rows, known)).logits(features[test])
        for how, temperature in (("raw", 1.0), ("tempered", one.temperature)):
            found = scores(labels[test], softmax(logits / np.float32(temperature)), "test")
            yield from ((f"{name} {how} {figure}", found[figure]) for figure in FIGURES)
        if one is chosen:
            yield "AUTO", found["test/accuracy"]


def line(name: str, features: Floats, labels: Labels, draws: int) -> None:
    for n in (5, 15, 50):
        found = [dict(figures(features, labels, n, seed)) for seed in range(draws)]
        mean = {key: np.mean([one[key] for one in found]) for key in found[0]}
        hurt = np.array([one["AUTO"] - one["LOGISTIC_REGRESSION raw test/accuracy"] for one in found])
        print(
            f"{name}, {n} per class: AUTO {mean['AUTO']:.3f}, took LDA in {mean['LDA taken']:.2f} of {draws} draws; "
            f"against logistic regression {hurt.mean():+.4f}, worst {hurt.min():+.3f}"
        )
        for kind in ("LOGISTIC_REGRESSION", "LDA"):
            shown = ("  ".join(f"{mean[f'{kind} {how} {one}']:.3f}" for one in FIGURES) for how in ("raw", "tempered"))
            print(f"  {kind:20} accuracy, log-loss, ECE: {'   with the temperature: '.join(shown)}", flush=True)


def main(draws: int) -> None:
    backbone = pools.session()
    animals, kinds = pools.photographs(backbone)
    numbers, values = pools.digits(backbone)
    with threadpool_limits(1, "blas"):
        line("cats and dogs", animals, kinds, draws)
        line("even and odd digits", numbers, values % 2, draws)
        line("ten digits", numbers, values, draws)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 20)
