"""Maps of places drawn over what a model looked at: orange speaks for the class, blue against it. PNG files."""

import io

import numpy as np
from PIL import Image

from handful.bundle.heads import Floats
from handful.bundle.predictor import Pixels

FOR, AGAINST = np.array([255, 127, 14], np.uint8), np.array([31, 119, 180], np.uint8)
# How much of the colour the strongest place has, and the smallest side of a drawing in pixels.
STRONGEST = 0.65
SHORTEST_SIDE = 448


def over_picture(pixels: Pixels, values: Floats) -> bytes:
    """A picture, uint8[height, width, 3], under a map, float32[rows, columns]: the first row is above."""
    height, width = pixels.shape[:2]
    scale = max(1.0, SHORTEST_SIDE / min(height, width))
    size = round(width * scale), round(height * scale)
    base = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    strength = values / max(float(np.abs(values).max()), 1e-12)
    smooth = np.asarray(Image.fromarray(strength).resize(size, Image.Resampling.BICUBIC)).clip(-1, 1)
    colour = Image.fromarray(np.where(smooth[..., None] > 0, FOR, AGAINST))
    alpha = Image.fromarray((np.abs(smooth) * STRONGEST * 255).round().astype(np.uint8))
    drawn = io.BytesIO()
    Image.composite(colour, base, alpha).save(drawn, "PNG")
    return drawn.getvalue()


def over_sound(loudness: Floats, values: Floats) -> bytes:
    """A spectrogram, float32[rows, frames] from 0 to 1, high pitches above, under a map of bands by times, the lowest
    band first.
    """
    grey = (loudness * 255).round().astype(np.uint8)
    wide = Image.fromarray(grey).resize((2 * SHORTEST_SIDE, SHORTEST_SIDE), Image.Resampling.BILINEAR)
    return over_picture(np.repeat(np.asarray(wide)[..., None], 3, axis=2), values[::-1])
