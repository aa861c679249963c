"""Features of real pictures, once, for benchmarks that draw many small sets from them."""

import io
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.pretrained import PretrainedWeights

ROW = ARCHITECTURES[DEFAULT_ARCHITECTURE]
PHOTOGRAPHS = Path("../shared/data/catsdogs")
DIGITS = 1000

Labels = npt.NDArray[np.int64]
Pool = tuple[Floats, Labels]


def session() -> Backbone:
    """The default backbone."""
    store = FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-"))
    recipe = Recipe(architecture=ROW.id, weights=WEIGHTS_PRETRAINED)
    graph = backbones.find(store, PretrainedWeights(store), recipe, ROW.preprocessing, "bench", Children())[1]
    return Backbone(graph)


def photographs(backbone: Backbone, folder: Path = PHOTOGRAPHS) -> Pool:
    files = find(folder)
    names = sorted({file.label for file in files})
    rows = [backbone.features(to_pixels(file.path.read_bytes(), ROW.preprocessing)[None])[0] for file in files]
    return np.stack(rows), np.array([names.index(file.label) for file in files])


def digits(backbone: Backbone) -> Pool:
    """Dark digits on white, as large as the network takes them."""
    found, rows = load_digits(), []
    for pixels in found.images[:DIGITS]:
        file = io.BytesIO()
        Image.fromarray((255 - pixels * 255 / 16).astype(np.uint8)).convert("RGB").save(file, "PNG")
        rows.append(backbone.features(to_pixels(file.getvalue(), ROW.preprocessing)[None])[0])
    return np.stack(rows), found.target[:DIGITS]


def drawn(labels: Labels, n: int, seed: int) -> Labels:
    """So many places of each class."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == one))[:n] for one in np.unique(labels)])


def alone(labels: Labels) -> list[str]:
    """Every example a group of its own."""
    return [f"{place:06}" for place in range(len(labels))]
