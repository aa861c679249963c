"""The catalogue against the libraries it speaks of: their own metadata say the same."""

import math

import pytest
import timm
import torchvision
from torchvision.transforms import InterpolationMode

from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, ArchitectureRow

OF_TORCHVISION = [row for row in ARCHITECTURES.values() if row.network.library == "torchvision"]
OF_TIMM = [row for row in ARCHITECTURES.values() if row.network.library == "timm"]


@pytest.mark.parametrize("row", OF_TORCHVISION, ids=lambda row: row.id)
def test_torchvision_says_the_same(row: ArchitectureRow) -> None:
    """Address, size, preprocessing and cost are those that torchvision's own weights have."""
    official = torchvision.models.get_model_weights(row.network.name).IMAGENET1K_V1
    if row.weights is not None:
        assert row.weights.url == official.url
        # It gives the size in MiB with three digits.
        size = row.weights.max_bytes / 2**20
        assert official.meta["_file_size"] - 0.0006 < size < official.meta["_file_size"] + 0.0006
    # Its figure has the classifier in it, which is much of AlexNet's and of the smallest networks'.
    assert 0.9 * official.meta["_ops"] < row.gflops < 1.01 * official.meta["_ops"]
    preset = official.transforms()
    assert preset.interpolation == InterpolationMode(row.preprocessing.filter)
    assert (preset.resize_size, preset.crop_size) == ([row.preprocessing.resize], [row.preprocessing.size])
    if row.id in ("googlenet", "inception_v3"):
        # These came from TensorFlow; with their weights torchvision makes the one normalisation into the other.
        assert (row.mean, row.std) == ((0.5,) * 3, (0.5,) * 3)
    else:
        assert (preset.mean, preset.std) == (list(row.mean), list(row.std))


@pytest.mark.parametrize("row", OF_TIMM, ids=lambda row: row.id)
def test_timm_says_the_same(row: ArchitectureRow) -> None:
    """Preprocessing is timm's, but for the default's filter, whose choice docs/why.md explains."""
    tag = {"siglip2_b_16": ".v2_webli"}.get(row.id, "")
    config = timm.get_pretrained_cfg(row.network.name + tag)
    assert config is not None
    size = row.network.options.get("img_size", config.input_size[1])
    assert row.preprocessing.size == size
    assert config.input_size[1] == size or row.network.options
    assert row.preprocessing.resize == math.floor(row.preprocessing.size / config.crop_pct)
    assert (config.mean, config.std) == (row.mean, row.std)
    expected = "bilinear" if row.id == DEFAULT_ARCHITECTURE else config.interpolation
    assert row.preprocessing.filter == expected
