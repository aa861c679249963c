"""How pictures come to a network: as its weights were trained, unless a recipe says otherwise."""

import pytest

from handful.recipe import recipe
from handful.v1.bundle_pb2 import ImagePreprocessing
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, backbone_id, preprocessing
from services.trainer.recipes import resolve

OWN = ARCHITECTURES[DEFAULT_ARCHITECTURE].preprocessing
TEXTBOOK = ImagePreprocessing(fit=ImagePreprocessing.FIT_SQUASH, size=OWN.size, filter="bilinear")


@pytest.mark.parametrize("preset", ["fast", "fine_tune"])
@pytest.mark.parametrize("asked", [{}, {"fit": "CENTER_CROP"}], ids=str)
def test_pictures_come_as_the_weights_were_trained(preset: str, asked: dict[str, object]) -> None:
    """Unless told otherwise, and then nothing is written down that a worker of an earlier release would not know."""
    settled = resolve(recipe({"preset": preset, **asked}), DEFAULT_ARCHITECTURE)
    assert preprocessing(settled) == OWN
    assert not settled.fit


@pytest.mark.parametrize("preset", ["fast", "fine_tune"])
def test_all_of_a_picture_is_taken_where_the_recipe_says_so(preset: str) -> None:
    """Squashed, at the same size; that is another backbone, with features of its own."""
    squashed = preprocessing(resolve(recipe({"preset": preset, "fit": "SQUASH"}), DEFAULT_ARCHITECTURE))
    assert (squashed.fit, squashed.size, squashed.filter) == (ImagePreprocessing.FIT_SQUASH, OWN.size, OWN.filter)
    assert len({backbone_id(DEFAULT_ARCHITECTURE, one, "weights") for one in (squashed, OWN, TEXTBOOK)}) == 3


@pytest.mark.parametrize(("asked", "expected"), [({}, TEXTBOOK), ({"fit": "SQUASH"}, TEXTBOOK)])
def test_the_textbook_squashes(asked: dict[str, object], expected: ImagePreprocessing) -> None:
    """As published results were made, and with the same backbone as in releases before there was a choice."""
    settled = resolve(recipe({"preset": "baseline", **asked}), DEFAULT_ARCHITECTURE)
    assert preprocessing(settled, textbook=True) == expected
    cropped = resolve(recipe({"preset": "baseline", "fit": "CENTER_CROP"}), DEFAULT_ARCHITECTURE)
    assert preprocessing(cropped, textbook=True) == OWN
