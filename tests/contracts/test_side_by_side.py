"""What every row of networks side by side must keep: it is its members on one picture, each at its own size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load

from handful.bundle.heads import Floats
from handful.bundle.manifest import weights_keys
from handful.bundle.predictor import Backbone, Pixels, to_pixels
from handful.folders import find as find_pictures
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.trainer_pb2 import Architecture
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import (
    ARCHITECTURES,
    DEFAULT_ARCHITECTURE,
    ArchitectureRow,
    message,
    weights_sha256,
    with_members,
)
from services.trainer.worker import backbones
from services.trainer.worker.agreement import MAX_RELATIVE_DIFFERENCE
from services.trainer.worker.architectures import build
from services.trainer.worker.children import Children
from services.trainer.worker.pretrained import PretrainedWeights, offered
from services.trainer.worker.side_by_side import spread

pytestmark = pytest.mark.timeout(600)
ROWS = [row for row in ARCHITECTURES.values() if row.members]


@dataclass(frozen=True)
class Stored:
    """A row as a worker finds it in a store that had nothing, built from the weights that packages carry."""

    row: ArchitectureRow
    store: FilesystemStore
    weights: PretrainedWeights
    backbone: BackboneMessage
    graph: bytes


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.id)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    row: ArchitectureRow = request.param
    store = FilesystemStore(tmp_path_factory.mktemp(row.id))
    weights, recipe = PretrainedWeights(store, downloads=False), Recipe(architecture=row.id, weights=WEIGHTS_PRETRAINED)
    backbone, graph = backbones.find(store, weights, recipe, row.preprocessing, "any", Children())
    return Stored(row, store, weights, backbone, graph)


@pytest.fixture
def pixels(stored: Stored, photographs: Path) -> Pixels:
    """Of some photographs, uint8[n, size, size, 3]."""
    files, row = find_pictures(photographs)[::150], stored.row
    return np.stack([to_pixels(file.path.read_bytes(), row.preprocessing) for file in files])


def by_torch(member: ArchitectureRow, weights: PretrainedWeights, pixels: Pixels) -> Floats:
    """A member's features of pictures that are resized by torch."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    side = member.preprocessing.size
    if side != images.shape[-1]:
        images = torch.nn.functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (member.mean, member.std))
    with torch.inference_mode():
        body = build(member.network, weights.tensors(member)).eval()
        features: Floats = body((images / 255 - mean) / std)[0].numpy()
    return features


def test_there_are_some() -> None:
    """The suite looks at something, and what it looks at is made of rows of the catalogue."""
    assert ROWS
    for row in ROWS:
        assert len(row.members) > 1
        assert all(ARCHITECTURES[member.id] is member and not member.members for member in row.members)
        assert not any(member.code_license for member in row.members)
        assert {(member.mean, member.std) for member in row.members} == {(row.mean, row.std)}


def test_features_are_those_of_the_members_on_the_same_picture(stored: Stored, pixels: Pixels) -> None:
    """Each member, as torch builds it, on the picture as torch resizes it, scaled to the length 1; in their order."""
    apart = [by_torch(member, stored.weights, pixels) for member in stored.row.members]
    expected = np.concatenate([one / np.linalg.norm(one, axis=1, keepdims=True) for one in apart], axis=1)
    together = Backbone(stored.graph).features(pixels)
    assert together.shape == (len(pixels), stored.row.feature_width)
    assert np.abs(together - expected).max() <= MAX_RELATIVE_DIFFERENCE * np.abs(expected).max()
    for one, row in zip(pixels, together, strict=True):
        assert np.abs(Backbone(stored.graph).features(one[None])[0] - row).max() <= 1e-5 * np.abs(row).max()


def test_the_feature_map_is_made_of_the_members_maps(stored: Stored, pixels: Pixels) -> None:
    """Its mean is the features, so places are told exactly; a coarser map gives each place its share."""
    features, feature_map = Backbone(stored.graph).mapped(pixels[:1])
    assert feature_map is not None
    assert feature_map.shape[1] == stored.row.feature_width
    assert np.abs(feature_map.mean(axis=(2, 3)) - features).max() <= 1e-5 * np.abs(features).max()


def test_a_line_is_spread_by_shares() -> None:
    """Two places over three: the one in the middle has half of each; the mean is what it was."""
    assert spread(2, 3).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    for side, finer in ((7, 9), (8, 9), (7, 8), (9, 9)):
        line = np.random.default_rng(0).random(side)
        assert (spread(side, finer) @ line).mean() == pytest.approx(line.mean())


def test_the_graph_is_what_the_contract_says(stored: Stored) -> None:
    """One file: uint8 pixels in, features and feature map out, any batch size."""
    model = onnx.load_model_from_string(stored.graph)
    (pixels,), size = model.graph.input, stored.row.preprocessing.size
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert [one.dim_param or one.dim_value for one in pixels.type.tensor_type.shape.dim] == ["n", size, size, 3]
    assert [one.name for one in model.graph.output] == ["features", "feature_map"]


def test_the_backbone_says_what_it_is_made_of(stored: Stored) -> None:
    """Its members with the files that they began from, of which its own identity is made."""
    members = [(one.architecture, one.weights_sha256) for one in stored.backbone.members]
    assert members == [(one.id, offered(one).sha256) for one in stored.row.members]
    assert stored.backbone.weights_sha256 == weights_sha256(stored.row.pinned)
    assert stored.backbone.weights_origin == "pretrained"
    recipe = Recipe(architecture=stored.row.id, weights=WEIGHTS_PRETRAINED)
    plain = stored.row.preprocessing
    again = backbones.find(stored.store, stored.weights, recipe, plain, "other", Children())
    assert again == (stored.backbone, stored.graph)


def test_the_stored_weights_are_the_members(stored: Stored) -> None:
    """Beside the graph lie the state dicts of all, as they lie beside the members' own graphs."""
    key = weights_keys("any", stored.backbone)[0]
    ours = load(stored.store.get(key, stored.backbone.weights_file_sha256))
    theirs = 0
    for member in stored.row.members:
        recipe = Recipe(architecture=member.id, weights=WEIGHTS_PRETRAINED)
        plain = member.preprocessing
        backbone, _ = backbones.find(stored.store, stored.weights, recipe, plain, "any", Children())
        state = load(stored.store.get(weights_keys("any", backbone)[0], backbone.weights_file_sha256))
        assert all(np.array_equal(ours[f"{member.id}/{name}"], array) for name, array in state.items())
        theirs += len(state)
    assert len(ours) == theirs


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_the_sum_of_its_members(row: ArchitectureRow) -> None:
    """What it costs, what it gives, and every file that it needs; it is had where all of them are."""
    members = [message(one, DEFAULT_ARCHITECTURE, Architecture.WEIGHTS_STATE_PRESENT) for one in row.members]
    shown = message(row, DEFAULT_ARCHITECTURE, Architecture.WEIGHTS_STATE_PRESENT)
    assert list(shown.members) == [one.id for one in members]
    for name in ("num_parameters", "feature_width", "weights_max_bytes"):
        assert getattr(shown, name) == sum(getattr(one, name) for one in members)
    assert shown.gflops == pytest.approx(sum(one.gflops for one in members))
    assert shown.input_size == max(one.input_size for one in members)
    assert all(one.weights_source in shown.weights_source for one in members)
    assert shown.weights_license == "Apache-2.0"
    ids = [one.id for one in members]
    assert row.id in with_members(ids)
    assert row.id not in with_members(ids[1:])
