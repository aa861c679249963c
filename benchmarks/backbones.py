"""What each architecture is worth as a backbone of `fast`, where its pretrained weights are on this machine: accuracy
on pictures that were not drawn for training, time, size.

Draws n pictures per class for training, tests on all the others, 20 times; prints mean accuracy and its standard error.

usage: backbones.py [FOLDER [ID SIZE ...]]   (default: ../shared/data/catsdogs; train/ and val/ folders are pooled)

With an architecture and sizes of its input, each of these instead.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.shared.settings import read
from services.trainer import input_sizes
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.logistic_regression import fit
from services.trainer.worker.pretrained import Place, opened
from services.trainer.worker.settings import WorkerSettings

DRAWS = 20
PER_CLASS = (5, 15, 50)
Labels = npt.NDArray[np.int64]


def accuracy(features: Floats, labels: Labels, n: int, draw: int) -> float:
    """Of a head fitted on `n` rows per class, on all the others."""
    random = np.random.default_rng(draw)
    train = np.concatenate([random.permutation(np.flatnonzero(labels == one))[:n] for one in np.unique(labels)])
    test = np.setdiff1d(np.arange(len(labels)), train)
    head = fit(features[train], labels[train], len(np.unique(labels)), 1.0, 200, lambda _: None)
    return float((head.probabilities(features[test]).argmax(axis=1) == labels[test]).mean())


def line(recipe: Recipe, files: list[Path], labels: Labels) -> str:
    store, weights = FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-")), opened(read(WorkerSettings))
    row, started = input_sizes.row(recipe), time.perf_counter()
    backbone, graph = backbones.find(store, weights, recipe, row.preprocessing, "bench", Children())
    session, built = Backbone(graph), time.perf_counter()
    features = np.stack([session.features(to_pixels(file.read_bytes(), row.preprocessing)[None])[0] for file in files])
    seconds = (time.perf_counter() - built) / len(files)
    cells = []
    for n in PER_CLASS:
        found = [accuracy(features, labels, n, draw) for draw in range(DRAWS)]
        cells.append(f"{np.mean(found):.3f} ± {np.std(found) / np.sqrt(DRAWS):.3f}")
    size = f"{row.preprocessing.size:6} {backbone.feature_width:7} {row.num_parameters / 1e6:12.1f}"
    return f"{row.id:20} {'   '.join(cells)} {size} {seconds * 1000:11.1f} {built - started:14.0f}"


def main(folder: Path, architecture: str = "", *sizes: str) -> None:
    files = find(folder)
    names = sorted({file.label for file in files})
    labels = np.array([names.index(file.label) for file in files])
    counts = "   ".join(f"{n} per class".ljust(13) for n in PER_CLASS)
    print(f"{'':20} {counts}   size   width  million par  ms/picture  s, the graph")
    for id_, place in opened(read(WorkerSettings)).places().items():
        if id_ not in ARCHITECTURES or architecture not in ("", id_):
            continue
        if place in (Place.PACKAGE, Place.STORE):
            for size in map(int, sizes or ("0",)):
                asked = Recipe(architecture=id_, weights=WEIGHTS_PRETRAINED, input_size=size)
                print(line(asked, [file.path for file in files], labels), flush=True)
        else:
            print(f"{id_:20} its weights are not here: handful weights fetch {id_}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/catsdogs"), *sys.argv[2:])
