"""How pictures come to a network: as its weights were trained, unless a recipe says otherwise."""

import pytest

from handful.recipe import recipe
from handful.v1.bundle_pb2 import ImagePreprocessing
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, backbone_id
from services.trainer.input_sizes import preprocessing
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


@pytest.mark.parametrize("preset", ["fast", "fine_tune"])
def test_another_size_sees_the_same_part_of_a_picture(preset: str) -> None:
    """The ratio of the crop, and of the smallest sides that a JPEG is decoded to, is that of the row."""
    smaller = preprocessing(resolve(recipe({"preset": preset, "input_size": 160}), DEFAULT_ARCHITECTURE))
    assert (smaller.fit, smaller.size, smaller.filter, smaller.draft) == (OWN.fit, 160, OWN.filter, 320)
    assert smaller.size / smaller.resize == pytest.approx(OWN.size / OWN.resize, rel=0.01)
    squashed = preprocessing(
        resolve(recipe({"preset": preset, "input_size": 160, "fit": "SQUASH"}), DEFAULT_ARCHITECTURE)
    )
    assert (squashed.fit, squashed.size, squashed.draft) == (ImagePreprocessing.FIT_SQUASH, 160, 320)
    assert len({backbone_id(DEFAULT_ARCHITECTURE, one, "weights") for one in (smaller, squashed, OWN)}) == 3


def test_the_textbook_has_another_size_too() -> None:
    settled = resolve(recipe({"preset": "baseline", "input_size": 96}), DEFAULT_ARCHITECTURE)
    expected = ImagePreprocessing(fit=ImagePreprocessing.FIT_SQUASH, size=96, filter="bilinear")
    assert preprocessing(settled, textbook=True) == expected


@pytest.mark.parametrize("preset", ["fast", "fine_tune", "baseline"])
@pytest.mark.parametrize(("architecture", "own"), [("efficientnet_b7", 600), ("resnet18", 224), ("vit_b_16", 224)])
@pytest.mark.parametrize("says", [0, 1])
def test_an_architectures_own_size_says_nothing(preset: str, architecture: str, own: int, says: int) -> None:
    """Whoever names it gets the very recipe of those who do not, which a worker of an earlier release knows."""
    named = {"preset": preset, "architecture": architecture, "weights": "AUTO"}
    settled = resolve(recipe({**named, "input_size": says * own}), DEFAULT_ARCHITECTURE)
    assert settled == resolve(recipe(named), DEFAULT_ARCHITECTURE)
    assert not settled.HasField("input_size")
