"""What the constants of `fast` are worth, on one pool of pictures: normalisation, strength, resizing filter, views.

Draws n pictures per class for training, tests on all the others, 20 times; prints mean accuracy and its standard error.

usage: recipe.py [FOLDER]   (default: ../shared/data/catsdogs; train/ and val/ folders are pooled)
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.bundle.manifest import sha256
from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import HEAD_KIND_LOGISTIC_REGRESSION, WEIGHTS_PRETRAINED, ImagePreprocessing, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.head_choice import fitter
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.spans import Span, plain
from services.trainer.worker.views import Views

DRAWS = 20
PER_CLASS = (5, 15, 50)
VIEWS = (1, 4)
Labels = npt.NDArray[np.int64]


def accuracy(features: Floats, labels: Labels, n: int, draw: int, c: float, *, standardise: bool) -> float:
    """Of a head fitted on `n` rows per class, or on their views, on all the others as they are."""
    random = np.random.default_rng(draw)
    train = np.concatenate([random.permutation(np.flatnonzero(labels == one))[:n] for one in np.unique(labels)])
    test = np.setdiff1d(np.arange(len(labels)), train)
    if standardise:
        features = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6)
    span, num_classes = Span.of(features[train]), len(np.unique(labels))
    recipe = Recipe(regularization_c=c, num_epochs=200)
    head = span.back(fitter(HEAD_KIND_LOGISTIC_REGRESSION, recipe, span, num_classes)(span.rows, labels[train]))
    return float((head.logits(plain(features)[test]).argmax(axis=1) == labels[test]).mean())


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
    seen = features["bilinear"]
    for number in VIEWS:
        drawn = Views(number, 0)
        contents = ((data, sha256(data)) for data in (file.path.read_bytes() for file in files))
        shown = (drawn.of(data, digest, row.preprocessing) for data, digest in contents)
        rows = [np.concatenate([session.features(one[None]) for one in pixels]) for pixels in shown]
        features[f"{number} views"] = np.concatenate([seen[:, None], np.stack(rows)], axis=1)
    print(f"{'accuracy on the others, by pictures per class':46} {'               '.join(map(str, PER_CLASS))}")
    line("as `fast` has it: per row, C = 1, bilinear", features["bilinear"], labels)
    for number in VIEWS:
        line(f"{number} augmented view{'s' * (number > 1)} beside each picture", features[f"{number} views"], labels)
    line("bicubic", features["bicubic"], labels)
    line("C = 0.1", features["bilinear"], labels, 0.1)
    line("C = 10", features["bilinear"], labels, 10.0)
    line("each feature by its own deviation first", features["bilinear"], labels, standardise=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/catsdogs"))
