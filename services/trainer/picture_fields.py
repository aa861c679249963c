"""Fields of presets that say how pictures come to a network."""

from services.trainer.architectures import ARCHITECTURES
from services.trainer.fields import PICTURES, Field

FIT = Field(
    "fit",
    "How pictures are brought to the input size. CENTER_CROP: the middle, as the weights were trained. SQUASH: all of "
    "it, out of proportion, where what matters lies at the edges.",
    "CENTER_CROP",
    choices=("CENTER_CROP", "SQUASH"),
    modalities=PICTURES,
    unwritten=True,
)
INPUT_SIZE = Field(
    "input_size",
    "Side of the pictures that the network sees, a multiple of 32 that the architecture allows; 0: the architecture's "
    "own. Time and memory grow with its square: larger for what is small in the picture, smaller for a faster model.",
    0,
    0,
    max(row.max_input_size for row in ARCHITECTURES.values()),
    "pixels",
    modalities=PICTURES,
    unwritten=True,
)
