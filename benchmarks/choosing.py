"""What choosing a network out of fold is worth, as `quality` does: on photographs and on digits, at 5, 15 and 50 per
class, accuracy on all that was not drawn, means of the draws.

Beside the choice: each network alone, and each row of networks side by side, which see the same pixels; what would be
chosen of those and the networks; what one standard error from the cheapest on would take; all networks, each on pixels
of its own, their features at length 1, which no graph of one picture does; how good the choice looks by the answers it
was made by, how good it says it is, and in what share of the draws the interval of the run holds what it is.

usage: choosing.py [DRAWS]   (default: 10; needs ../shared/data/catsdogs)
"""

import io
import sys
import tempfile
import time
from collections import Counter, defaultdict

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from benchmarks.pools import PHOTOGRAPHS, Labels, alone, drawn
from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import HEAD_KIND_LOGISTIC_REGRESSION, WEIGHTS_PRETRAINED, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, to_choose_from, with_members
from services.trainer.recipes import resolve
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.cross_validation import Folds, better
from services.trainer.worker.evaluation import cross_validated
from services.trainer.worker.head_choice import best_architecture, fitter, honest, try_all
from services.trainer.worker.pretrained import Place, PretrainedWeights
from services.trainer.worker.spans import Span

FAST = resolve(Recipe(preset="fast", head=HEAD_KIND_LOGISTIC_REGRESSION), DEFAULT_ARCHITECTURE)
DIGITS = 800
TOGETHER, WIDER = "each on its own pixels", "with those side by side"
Pools = dict[str, Floats]


def pictures() -> dict[str, tuple[list[bytes], Labels]]:
    """Files, and the classes that they are of."""
    files, digits = find(PHOTOGRAPHS), load_digits()
    names = sorted({file.label for file in files})
    drawings = []
    for pixels in digits.images[:DIGITS]:
        file = io.BytesIO()
        Image.fromarray((255 - pixels * 255 / 16).astype(np.uint8)).convert("RGB").save(file, "PNG")
        drawings.append(file.getvalue())
    photographs = [file.path.read_bytes() for file in files]
    return {
        "cats and dogs": (photographs, np.array([names.index(file.label) for file in files])),
        "ten digits": (drawings, digits.target[:DIGITS]),
    }


def features(files: list[bytes]) -> Pools:
    """By every network that comes with a package, and those of them that stand side by side; the cheapest first."""
    store = FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-"))
    weights, found = PretrainedWeights(store), {}
    here = [id_ for id_, place in weights.places().items() if place == Place.PACKAGE and id_ in ARCHITECTURES]
    beside = [ARCHITECTURES[id_] for id_ in sorted(with_members(here) - set(here))]
    for row in (*to_choose_from(here, 10), *beside):
        recipe = Recipe(architecture=row.id, weights=WEIGHTS_PRETRAINED)
        graph = backbones.find(store, weights, recipe, row.preprocessing, "bench", Children())[1]
        backbone, pixels = Backbone(graph), [to_pixels(one, row.preprocessing)[None] for one in files]
        began = time.process_time()
        found[row.id] = np.concatenate([backbone.features(one) for one in pixels])
        took = (time.process_time() - began) / len(files)
        print(f"{row.id}: {1000 * took:.0f} ms of the processor a picture, {len(graph) / 1e6:.0f} MB", flush=True)
    return found


def together(rows: Pools) -> Floats:
    return np.concatenate([one / np.linalg.norm(one, axis=1, keepdims=True) for one in rows.values()], axis=1)


def figures(pools: Pools, labels: Labels, n: int, seed: int) -> tuple[str, dict[str, float]]:
    """Of one draw: what was taken, and the figures by name."""
    train, num_classes = drawn(labels, n, seed), int(labels.max()) + 1
    test, known = np.setdiff1d(np.arange(len(labels)), train), labels[train]
    folds, tried, true = Folds.drawn(known, alone(known), num_classes, seed), {}, {}
    singles = {name: rows for name, rows in pools.items() if not ARCHITECTURES[name].members}
    for name, rows in {**pools, TOGETHER: together(singles)}.items():
        span = Span.of(rows[train])
        fit = fitter(HEAD_KIND_LOGISTIC_REGRESSION, FAST, span, num_classes)
        tried[name] = try_all(FAST, span, known, num_classes, folds, lambda: None)
        answers = span.back(fit(span.rows, known)).logits(rows[test]).argmax(axis=1)
        true[name] = float((answers == labels[test]).mean())
    right = {name: tried[name][0].out_of_fold.right(known) for name in singles}
    careful, groups = next(iter(singles)), np.arange(len(known))
    for name, one in right.items():
        if better(one - right[careful], groups):
            careful = name
    alone_, wider = [tried[name] for name in singles], [tried[name] for name in pools]
    chosen = list(singles)[best_architecture(alone_, known)]
    measured = cross_validated(known, honest(alone_, known, groups, folds, lambda: None))
    interval = measured.accuracy_interval
    return chosen, true | {
        "the choice": true[chosen],
        WIDER: true[list(pools)[best_architecture(wider, known)]],
        f"{WIDER} says": float(honest(wider, known, groups, folds, lambda: None).right(known).mean()),
        "one standard error": true[careful],
        "looks": float(right[chosen].mean()),
        "says": measured.accuracy,
        "interval holds": float(interval.low <= true[chosen] <= interval.high),
    }


def main(draws: int) -> None:
    for what, (files, labels) in pictures().items():
        pools = features(files)
        for n in (5, 15, 50):
            with threadpool_limits(1, "blas"):
                found = [figures(pools, labels, n, seed) for seed in range(draws)]
            means, errors = defaultdict(float), defaultdict(float)
            for name in found[0][1]:
                values = [each[name] for _, each in found]
                means[name], errors[name] = float(np.mean(values)), float(np.std(values) / np.sqrt(draws))
            print(f"{what}, {n} per class: took {dict(Counter(taken for taken, _ in found))}")
            for name, mean in means.items():
                print(f"  {name:30} {mean:.3f} ± {errors[name]:.3f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10)
