"""How well a model knows what it does not know: pictures that are like none of its classes, and those that are.

Fits on n cats and n dogs, 20 times, and shows the model the other cats and dogs, handwritten digits, spectrograms of
recordings, noise and flat colours, and, where a folder of other photographs is given, those. Prints the share that is
called unknown: of the first the fewer the better.

usage: unknown.py [SHARED] [OTHERS]   (default: ../shared, with data/catsdogs and data/spoken-digits)
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import wavfile
from scipy.signal import spectrogram
from sklearn.datasets import load_digits

from handful.bundle import neighbours
from handful.bundle.heads import Floats
from handful.bundle.images import fit
from handful.bundle.predictor import Backbone, plain, to_pixels
from handful.folders import find
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.pretrained import PretrainedWeights

DRAWS = 20
PER_CLASS = (5, 15, 50)
STRANGERS = 60
ROW = ARCHITECTURES[DEFAULT_ARCHITECTURE]
Array = npt.NDArray[np.float64]


def picture(array: Array) -> Image.Image:
    """Of numbers in [0, 1]: [rows, columns] grey, or [rows, columns, 3]."""
    grey = array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
    return Image.fromarray((grey * 255).round().astype(np.uint8), "RGB")


def spectrum(path: Path) -> Image.Image:
    """The spectrogram of a recording, 80 dB from dark to bright."""
    rate, samples = wavfile.read(path)
    mono = samples.astype(np.float64).reshape(len(samples), -1).mean(axis=1)
    power = spectrogram(mono, rate, nperseg=512, noverlap=256)[2]
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-30), 1e-8))
    return picture(np.flipud(decibels / 80 + 1))


def strangers(shared: Path) -> dict[str, list[Image.Image]]:
    """Pictures that are like no cat and no dog."""
    random = np.random.default_rng(0)
    recordings = sorted((shared / "data" / "spoken-digits").rglob("*.wav"))[:STRANGERS]
    return {
        "handwritten digits": [picture(one / 16) for one in load_digits().images[:STRANGERS]],
        "spectrograms": [spectrum(path) for path in recordings],
        "noise": [picture(random.random((224, 224, 3))) for _ in range(STRANGERS)],
        "flat colours": [picture(np.ones((224, 224, 3)) * random.random(3)) for _ in range(STRANGERS)],
    }


def features_by(session: Backbone) -> Callable[[Image.Image], Floats]:
    return lambda image: session.features(np.asarray(fit(image, plain(ROW.preprocessing)))[None])[0]


def draw(known: Floats, labels: npt.NDArray[np.int64], n: int, seed: int, strange: dict[str, Floats]) -> list[float]:
    """Shares called unknown: of the pictures of the classes that were not drawn, then of every kind of stranger."""
    random = np.random.default_rng(seed)
    train = np.concatenate([random.permutation(np.flatnonzero(labels == one))[:n] for one in (0, 1)])
    test = np.setdiff1d(np.arange(len(labels)), train)
    fitted = neighbours.fit(known[train], [str(one) for one in train])
    if fitted is None:
        raise ValueError("there are too few pictures")
    rows = [known[test], *strange.values()]
    return [float((fitted.distances(one) > fitted.max_distance).mean()) for one in rows]


def main(shared: Path, others: Path | None) -> None:
    store = FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-"))
    recipe = Recipe(architecture=ROW.id, weights=WEIGHTS_PRETRAINED)
    graph = backbones.find(store, PretrainedWeights(store), recipe, ROW.preprocessing, "bench", Children())[1]
    session = Backbone(graph)
    compute = features_by(session)
    files = find(shared / "data" / "catsdogs")
    names = sorted({file.label for file in files})
    labels = np.array([names.index(file.label) for file in files])
    read = [to_pixels(file.path.read_bytes(), ROW.preprocessing)[None] for file in files]
    known = np.stack([session.features(one)[0] for one in read])
    strange = {name: np.stack([compute(one) for one in made]) for name, made in strangers(shared).items()}
    if others is not None:
        read = [to_pixels(file.path.read_bytes(), ROW.preprocessing)[None] for file in find(others)]
        strange["other photographs"] = np.stack([session.features(one)[0] for one in read])
    print(f"{'called unknown, by pictures per class':38} {'                '.join(map(str, PER_CLASS))}")
    found = [np.array([draw(known, labels, n, seed, strange) for seed in range(DRAWS)]) for n in PER_CLASS]
    for column, name in enumerate(["cats and dogs (wrongly)", *strange]):
        cells = [f"{one[:, column].mean():.3f} ± {one[:, column].std() / np.sqrt(DRAWS):.3f}" for one in found]
        print(f"{name:38} {'   '.join(cells)}")


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    main(given[0] if given else Path("../shared"), given[1] if given[1:] else None)
