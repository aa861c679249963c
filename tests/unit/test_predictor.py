"""Pictures at a backbone's input, cheaply and still as Pillow would make them; and the best answers of a row."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidProtobuf
from PIL import Image

from handful.bundle.heads import LinearHead
from handful.bundle.images import Preprocessing, decode, fit
from handful.bundle.predictor import Backbone, Predictor, best, plain, to_pixels
from handful.v1.bundle_pb2 import Head, ImagePreprocessing
from tests.bundles import COLOURS, FEATURE_WIDTH, PREPROCESSING, SIZE, mean_colour

CROP = ImagePreprocessing(fit=ImagePreprocessing.FIT_CENTER_CROP, resize=256, size=224, filter="bilinear", draft=448)
SQUASH = ImagePreprocessing(fit=ImagePreprocessing.FIT_SQUASH, size=224, filter="bilinear", draft=448)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ORIENTATION = 0x0112

RUN_A_MODEL = """
import numpy as np
from handful.bundle.predictor import Backbone
from tests.bundles import SIZE, mean_colour
Backbone(mean_colour()).features(np.zeros((1, SIZE, SIZE, 3), np.uint8))
"""


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A picture without fine detail, as photographs mostly are: 12 x 12 random colours, blended."""
    spots = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def difference(one: Image.Image, other: Image.Image) -> npt.NDArray[np.int64]:
    assert one.size == other.size
    return np.abs(np.asarray(one, dtype=np.int64) - np.asarray(other, dtype=np.int64))


def resized_then_cropped(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    scale, size = preprocessing.resize / min(image.size), preprocessing.size
    whole = (round(image.width * scale), round(image.height * scale))
    resized = image.resize(whole, FILTERS[preprocessing.filter])
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("size", "mean", "largest"),
    [
        # Here resizing hits whole and even pixels, so that both ways must agree.
        ((256, 256), 0.1, 1),
        ((640, 512), 0.1, 1),
        ((512, 640), 0.1, 1),
        ((3000, 2000), 0.1, 1),
        # Here it does not, and resizing first shifts the picture by half a pixel.
        ((500, 375), 2.0, 10),
        ((375, 500), 2.0, 10),
        ((64, 48), 2.0, 10),
        ((224, 900), 2.0, 10),
    ],
)
def test_the_centre_crop_is_that_of_resizing_first(name: str, size: tuple[int, int], mean: float, largest: int) -> None:
    """Cutting first and resizing once gives what resizing the short side and cutting the middle gives."""
    preprocessing = replace(plain(CROP), filter=name)
    picture = smooth(size)
    pixels = difference(fit(picture, preprocessing), resized_then_cropped(picture, preprocessing))
    assert pixels.mean() <= mean
    assert pixels.max() <= largest


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 333), (1001, 77)])
def test_the_centre_crop_is_in_the_centre(size: tuple[int, int]) -> None:
    """The crop of the picture turned around is the crop, turned around."""
    picture = smooth(size)
    turned = fit(picture.transpose(Image.Transpose.ROTATE_180), plain(CROP))
    assert difference(turned, fit(picture, plain(CROP)).transpose(Image.Transpose.ROTATE_180)).max() <= 1


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [(500, 375), (64, 900), (224, 224)])
def test_squashing_is_resizing_both_sides(name: str, size: tuple[int, int]) -> None:
    """A squashed picture is Pillow's resize to the input size, to the last bit."""
    preprocessing = replace(plain(SQUASH), filter=name)
    expected = smooth(size).resize((224, 224), FILTERS[name])
    assert difference(fit(smooth(size), preprocessing), expected).max() == 0


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 3)])
def test_the_smallest_pictures_fit(preprocessing: ImagePreprocessing, size: tuple[int, int]) -> None:
    """A picture of few pixels is brought to the input size like any other."""
    pixels = to_pixels(jpeg(Image.new("RGB", size, (200, 10, 10))), preprocessing)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (200, 10, 10)).max() <= 4


def test_an_unset_fit_is_refused() -> None:
    """A manifest that does not say how pictures fit gives no pixels rather than wrong ones."""
    with pytest.raises(ValueError, match="fit"):
        to_pixels(jpeg(smooth((64, 48))), ImagePreprocessing(resize=256, size=224, filter="bilinear"))


@pytest.mark.parametrize("preprocessing", [CROP, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(3000, 2000), (2000, 3000), (900, 1500)])
def test_a_large_jpeg_decoded_small_looks_the_same(
    preprocessing: ImagePreprocessing, orientation: int, size: tuple[int, int]
) -> None:
    """The input of a JPEG decoded at a fraction of its size differs by a few of 255 levels from the full decode's."""
    data = jpeg(smooth(size), orientation)
    small = fit(decode(data, preprocessing.draft), plain(preprocessing))
    pixels = difference(small, fit(decode(data), plain(preprocessing)))
    assert pixels.mean() <= 0.5
    assert pixels.max() <= 4


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((4000, 3000), (1000, 750)),
        ((3000, 4000), (750, 1000)),
        ((1800, 1000), (900, 500)),
        ((895, 1500), (895, 1500)),
        ((8000, 500), (8000, 500)),
        ((448, 448), (448, 448)),
    ],
)
def test_a_draft_is_never_smaller_than_asked(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    """A JPEG is decoded at the smallest fraction whose short side has the pixels asked for, a small one whole."""
    assert decode(jpeg(smooth(size)), 448).size == decoded


def test_only_jpegs_are_decoded_small() -> None:
    """Other formats are decoded whole and bit for bit the same, draft or not."""
    buffer = io.BytesIO()
    smooth((1800, 1000)).save(buffer, "PNG")
    assert difference(decode(buffer.getvalue(), 448), smooth((1800, 1000))).max() == 0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_backbone_computes_each_picture_for_itself(count: int) -> None:
    """Features do not depend on how many pictures are computed together, bit for bit, nor on who else computes."""
    backbone = Backbone(mean_colour())
    pixels = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    features = backbone.features(pixels)
    np.testing.assert_allclose(features, pixels.mean(axis=(1, 2)), rtol=1e-5)
    with ThreadPoolExecutor(4) as threads:
        alone = list(threads.map(lambda one: backbone.features(one[None])[0], [*pixels] * 10))
    np.testing.assert_array_equal(alone, np.tile(features, (10, 1)))


def test_a_predictor_is_a_backbone_and_a_head() -> None:
    """Probabilities of pixels are the head's of the backbone's features."""
    backbone = Backbone(mean_colour())
    weight, mean = np.eye(FEATURE_WIDTH, dtype=np.float32), np.full(FEATURE_WIDTH, 100, np.float32)
    head = LinearHead(Head.NORMALIZATION_CENTER_L2, weight, np.array([0.1, 0.2, 0.3], np.float32), mean)
    predictor = Predictor(("r", "g", "b"), PREPROCESSING, backbone, head)
    pixels = np.stack([to_pixels(jpeg(Image.new("RGB", (64, 48), one)), PREPROCESSING) for one in COLOURS.values()])
    np.testing.assert_array_equal(predictor.probabilities(pixels), head.probabilities(backbone.features(pixels)))
    assert list(predictor.probabilities(pixels).argmax(axis=1)) == [0, 1, 2]


def test_what_is_no_graph_is_refused() -> None:
    """Bytes that are no ONNX graph make no backbone."""
    with pytest.raises(InvalidProtobuf):
        Backbone(b"not a graph")


@pytest.mark.parametrize(
    ("probabilities", "top_k", "expected"),
    [
        ([0.2, 0.5, 0.3], 1, ["b"]),
        ([0.2, 0.5, 0.3], 2, ["b", "c"]),
        ([0.2, 0.5, 0.3], 99, ["b", "c", "a"]),
        ([0.4, 0.2, 0.4], 3, ["a", "c", "b"]),
        ([1 / 3, 1 / 3, 1 / 3], 2, ["a", "b"]),
    ],
)
def test_the_best_come_first(probabilities: list[float], top_k: int, expected: list[str]) -> None:
    """The most probable classes come best first, equal ones in the order of the labels, each with its probability."""
    row = np.array(probabilities, np.float32)
    answers = best(("a", "b", "c"), row, top_k)
    assert [label for label, _ in answers] == expected
    assert all(score == row["abc".index(label)] for label, score in answers)


def test_equal_ones_keep_the_order_of_the_labels() -> None:
    """Of a thousand classes with two probabilities the better ones come first, in the order of the labels each."""
    row = np.tile(np.array([0.0005, 0.0015], np.float32), 500)
    labels = tuple(str(index) for index in range(1000))
    assert [label for label, _ in best(labels, row, 1000)] == [*labels[1::2], *labels[::2]]


def test_nobody_is_told(tmp_path: Path) -> None:
    """Running a model leaves no file: ONNX Runtime, left alone, makes up an id and keeps what it will send."""
    surroundings = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-B", "-c", RUN_A_MODEL], env=surroundings, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
