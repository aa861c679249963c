"""Augmented views of pictures without torch: what `fast` learns from beside the pictures as they are. A view is drawn
from its seed, the picture's content and its number, so that whoever draws it again draws the same.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from handful.bundle.images import decode, fit
from handful.bundle.predictor import Pixels, plain
from handful.v1.bundle_pb2 import ImagePreprocessing
from services.trainer.presets import VIEW

# To be raised where the same numbers would draw other views.
VERSION = 1


@dataclass(frozen=True)
class Views:
    """So many views of each picture, as strong as `fine_tune` draws them by default: a crop of most of the area, a
    flip, a rotation, changes of brightness, contrast and saturation.
    """

    number: int
    seed: int

    @property
    def specification(self) -> Mapping[str, object]:
        """All that a view depends on beside the picture, the preprocessing and its place."""
        return {"name": "augmented", "version": VERSION, "seed": self.seed, **VIEW}

    def of(self, data: bytes, content_sha256: str, preprocessing: ImagePreprocessing, first: int = 0) -> Pixels:
        """uint8[number - first, size, size, 3] of an encoded picture: from a place on."""
        image = decode(data, preprocessing.draft)
        drawn = [self._random(content_sha256, place) for place in range(first, self.number)]
        return np.stack([np.asarray(draw(image, preprocessing, random)) for random in drawn])

    def _random(self, content_sha256: str, place: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}/{content_sha256}/{place}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16]))


def draw(image: Image.Image, preprocessing: ImagePreprocessing, random: np.random.Generator) -> Image.Image:
    """One view at the input size, RGB."""
    view = fit(_crop(image, preprocessing, random), replace(plain(preprocessing), fit="squash"))
    if random.random() < VIEW["horizontal_flip"]:
        view = ImageOps.mirror(view)
    view = view.rotate(_within(random, VIEW["rotation_degrees"]), Image.Resampling.BILINEAR)
    for change, strength in (
        (ImageEnhance.Brightness, VIEW["brightness"]),
        (ImageEnhance.Contrast, VIEW["contrast"]),
        (ImageEnhance.Color, VIEW["saturation"]),
    ):
        view = change(view).enhance(1 + _within(random, strength))
    return view


def _crop(image: Image.Image, preprocessing: ImagePreprocessing, random: np.random.Generator) -> Image.Image:
    """A part of the picture, of the shape that preprocessing takes: a square where it cuts one out."""
    squashed = preprocessing.fit == ImagePreprocessing.FIT_SQUASH
    width, height = image.size if squashed else (min(image.size),) * 2
    side = np.sqrt(random.uniform(VIEW["crop_scale"], 1))
    width, height = max(1, round(width * side)), max(1, round(height * side))
    left = random.integers(image.width - width, endpoint=True)
    top = random.integers(image.height - height, endpoint=True)
    return image.crop((left, top, left + width, top + height))


def _within(random: np.random.Generator, strength: float) -> float:
    return float(random.uniform(-strength, strength))
