"""What colours and sizes alone say of pictures: a few numbers of each, and a head on them. It sees nothing of what a
picture shows. Where it is as good as the model, classes differ in background, light or format, and the model may know
no more than that.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from handful.bundle.heads import Floats, LinearHead
from handful.bundle.images import FORMATS, decode
from handful.v1.bundle_pb2 import Head
from services.trainer.worker import discriminant
from services.trainer.worker.cross_validation import Labels
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.features import cached, prefix
from services.trainer.worker.work import Work

SPECIFICATION = {"name": "colour_and_size", "version": 1}
# Pictures are looked at no larger than this on the short side, in pixels: large enough for colours.
SIDE = 64
# Of the sides of a picture, what counts as its border.
BORDER = 8
SHRINKAGE = 0.1


def of(work: Work, examples: Examples, wanted: Sequence[Example], step: Callable[[], None]) -> Floats:
    """float32[n, 23], in order, each computed once and kept as features are; `step` is called after every example."""
    folder = prefix(examples.project, SPECIFICATION)

    def row(example: Example) -> Floats:
        key = f"{folder}/{example.content_sha256}.safetensors"
        rows, _ = cached(work.cache, key, 1, lambda _: measure(examples.data(work.store, example))[None])
        return rows.reshape(-1)

    rows: list[Floats] = []
    with ThreadPoolExecutor(work.threads, "colours") as pool:
        try:
            for one in pool.map(row, wanted):
                rows.append(one)
                step()
        finally:
            pool.shutdown(cancel_futures=True)
    return np.stack(rows)


def measure(data: bytes) -> Floats:
    """float32[23] of an encoded picture: its size; of each colour the mean, the deviation and three quantiles, and the
    means at the border.
    """
    width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
    image = decode(data, SIDE)
    size = np.log([width, height, width / height, width * height, len(data) / (width * height)])
    image.thumbnail((SIDE, SIDE), reducing_gap=1.0)
    pixels = np.asarray(image, dtype=np.float32) / 255
    rows, columns = (max(1, side // BORDER) for side in pixels.shape[:2])
    inside = pixels[rows:-rows, columns:-columns].reshape(-1, 3)
    flat = pixels.reshape(-1, 3)
    border = (flat.sum(axis=0) - inside.sum(axis=0)) / (len(flat) - len(inside))
    quantiles = np.quantile(flat, (0.1, 0.5, 0.9), axis=0).ravel()
    return np.concatenate([size, flat.mean(axis=0), flat.std(axis=0), quantiles, border]).astype(np.float32)


def fit(rows: Floats, labels: Labels, num_classes: int) -> LinearHead:
    """LDA on each number divided by its own deviation."""
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, 1 / np.maximum(deviation, 1e-6), 0.0)
    weight, bias = discriminant.solve((rows - mean) * scale, labels, num_classes, SHRINKAGE, rows.shape[1])
    weight = weight * scale
    bias = bias - weight @ mean
    none = np.zeros(rows.shape[1], np.float32)
    return LinearHead(Head.NORMALIZATION_NONE, weight.astype(np.float32), bias.astype(np.float32), none)
