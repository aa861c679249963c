"""Backbones in integers: the same bytes whoever makes them, numbers that no processor overflows on, ends as before."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from handful.bundle.predictor import Backbone
from services.trainer import quantizing
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from tests import real_bundles
from tests.bundles import mean_colour

SIZE = ARCHITECTURES[DEFAULT_ARCHITECTURE].preprocessing.size
OTHERS = [row.id for row in ARCHITECTURES.values() if row.int8 and row.id != DEFAULT_ARCHITECTURE]
# Of seven bits and a sign.
LARGEST = 64


@pytest.fixture(scope="module")
def graph() -> bytes:
    return quantizing.quantize(real_bundles.graph())


def test_its_pictures_are_the_same_everywhere() -> None:
    """What ranges are measured on is drawn by whole numbers alone, so a new release of numpy changes nothing."""
    digest = hashlib.sha256(b"".join(one.tobytes() for one in quantizing.pictures(SIZE))).hexdigest()
    assert digest == "89adf3f15caee3a58525dcda360e69ff4a5632438db6e82742a0f323641546d6"
    assert all(one.shape == (1, SIZE, SIZE, 3) and one.dtype == np.uint8 for one in quantizing.pictures(SIZE))


def test_a_graph_is_made_the_same_again(graph: bytes) -> None:
    assert quantizing.quantize(real_bundles.graph()) == graph


def test_no_product_overflows(graph: bytes) -> None:
    """A weight has seven bits: two products with uint8 fit into 16, where processors without VNNI add them up."""
    weights = [numpy_helper.to_array(one) for one in onnx.load_model_from_string(graph).graph.initializer]
    kernels = [one for one in weights if one.dtype == np.int8 and one.ndim == 4]
    assert len(kernels) == sum(node.op_type == "Conv" for node in onnx.load_model_from_string(graph).graph.node)
    assert max(np.abs(one.astype(int)).max() for one in kernels) == LARGEST
    assert 2 * LARGEST * 255 < 2**15


def test_its_ends_are_those_of_the_backbone(graph: bytes) -> None:
    """Pixels in; features and the map that they are the mean of out, in float32; of several pictures as of each."""
    answers_as_a_backbone(graph, SIZE)


@pytest.mark.parametrize("architecture", OTHERS)
def test_every_network_that_is_offered_is_made(architecture: str) -> None:
    """A quarter as large as in float32, with the same ends, and with weights whose products fit."""
    whole = real_bundles.graph(architecture)
    graph = quantizing.quantize(whole)
    assert len(graph) < 0.3 * len(whole)
    test_no_product_overflows(graph)
    answers_as_a_backbone(graph, ARCHITECTURES[architecture].preprocessing.size)


def answers_as_a_backbone(graph: bytes, size: int) -> None:
    pixels = np.concatenate(list(quantizing.pictures(size))[:3])
    features, feature_map = Backbone(graph).mapped(pixels)
    assert feature_map is not None
    np.testing.assert_allclose(feature_map.mean(axis=(2, 3)), features, atol=1e-5)
    alone = np.concatenate([Backbone(graph).features(one[None]) for one in pixels])
    np.testing.assert_array_equal(features, alone)


def test_pixels_are_not_rounded(graph: bytes) -> None:
    """The first convolution takes them as they are: halves, which runtimes round differently, cannot come up."""
    nodes = onnx.load_model_from_string(graph).graph.node
    kinds = [node.op_type for node in nodes[: next(at for at, node in enumerate(nodes) if node.op_type == "Conv")]]
    assert "Cast" not in kinds
    assert "QuantizeLinear" not in kinds


def test_a_graph_that_begins_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="begins otherwise"):
        quantizing.quantize(mean_colour())
