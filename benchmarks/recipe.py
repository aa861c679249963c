"""What the constants of `fast` are worth, on one pool of pictures: normalisation, strength, resizing filter.

Draws n pictures per class for training, tests on all the others, 20 times; prints mean accuracy and its standard error.

usage: recipe.py [FOLDER]   (default: ../shared/data/catsdogs; train/ and val/ folders are pooled)
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, ImagePreprocessing, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.logistic_regression import fit
from services.trainer.worker.pretrained import PretrainedWeights

DRAWS = 20
PER_CLASS = (5, 15, 50)
Labels = npt.NDArray[np.int64]


def accuracy(features: Floats, labels: Labels, n: int, draw: int, c: float, *, standardise: bool) -> float:
    """Of a head fitted on `n` rows per class, on all the others."""
    random = np.random.default_rng(draw)
    train = np.concatenate([random.permutation(np.flatnonzero(labels == one))[:n] for one in np.unique(labels)])
    test = np.setdiff1d(np.arange(len(labels)), train)
    if standardise:
        features = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6)
    head = fit(features[train], labels[train], len(np.unique(labels)), c, 200, lambda _: None)
    return float((head.probabilities(features[test]).argmax(axis=1) == labels[test]).mean())


def line(name: str, features: Floats, labels: Labels, c: float = 1.0, *, standardise: bool = False) -> None:
    cells = []
    for n in PER_CLASS:
        found = [accuracy(features, labels, n, draw, c, standardise=standardise) for draw in range(DRAWS)]
        cells.append(f"{np.mean(found):.3f} ± {np.std(found) / np.sqrt(DRAWS):.3f}")
    print(f"{name:46} {'   '.join(cells)}")


def main(folder: Path) -> None:
    row = ARCHITECTURES[DEFAULT_ARCHITECTURE]
    store = FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-"))
    recipe = Recipe(architecture=row.id, weights=WEIGHTS_PRETRAINED)
    weights, children = PretrainedWeights(store), Children()
    found = backbones.find(store, weights, recipe, row.preprocessing, "bench", children)
    session = Backbone(found[1])
    files = find(folder)
    names = sorted({file.label for file in files})
    labels = np.array([names.index(file.label) for file in files])
    features = {}
    for resizing in ("bilinear", "bicubic"):
        preprocessing = ImagePreprocessing()
        preprocessing.CopyFrom(row.preprocessing)
        preprocessing.filter = resizing
        rows = [session.features(to_pixels(file.path.read_bytes(), preprocessing)[None])[0] for file in files]
        features[resizing] = np.stack(rows)
    print(f"{'accuracy on the others, by pictures per class':46} {'               '.join(map(str, PER_CLASS))}")
    line("as `fast` has it: per row, C = 1, bilinear", features["bilinear"], labels)
    line("bicubic", features["bicubic"], labels)
    line("C = 0.1", features["bilinear"], labels, 0.1)
    line("C = 10", features["bilinear"], labels, 10.0)
    line("each feature by its own deviation first", features["bilinear"], labels, standardise=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/catsdogs"))
