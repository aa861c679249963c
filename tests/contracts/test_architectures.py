"""What every row of the catalogue of architectures must keep: it builds, it exports, and it is what the row says."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load

from handful.bundle import images
from handful.bundle.manifest import graph_keys, sha256, weights_keys
from handful.bundle.predictor import Backbone, to_pixels
from handful.errors import InvalidArgument
from handful.folders import find as find_pictures
from handful.v1.bundle_pb2 import MODALITY_IMAGE, WEIGHTS_PRETRAINED, WEIGHTS_RANDOM, ImagePreprocessing, Recipe
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.trainer_pb2 import Architecture
from services.shared.objects import get_first
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import input_sizes
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, ArchitectureRow, find, message
from services.trainer.exports import contents
from services.trainer.worker import backbones, graphs
from services.trainer.worker.agreement import MAX_RELATIVE_DIFFERENCE, GraphDisagrees
from services.trainer.worker.architectures import BUILDERS, build
from services.trainer.worker.children import Children
from services.trainer.worker.logistic_regression import fit
from services.trainer.worker.pretrained import PretrainedWeights, WeightsUnavailable, key, offered
from services.trainer.worker.weights import tensors_sha256, to_kept
from tests.measuring import measure

# A graph takes a quarter of a minute, or several on a machine that has other things to do.
pytestmark = pytest.mark.timeout(600)
ROWS = list(ARCHITECTURES.values())
# Those that are exported and served here: one of each way to be built. `benchmarks/architectures.py` does it with all.
EXPORTED = [
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_b0",
    "alexnet",
    "inception_v3",
    "resnet18",
    "convnext_tiny",
    "vit_b_16",
    "dinov2_s_14",
]
# What a graph computes hangs on no size, and large pictures take long.
MAX_SIZE = 260


@dataclass(frozen=True)
class Stored:
    """A pretrained backbone of the catalogue, built and stored once for all tests of this file."""

    row: ArchitectureRow
    weights: PretrainedWeights
    body: torch.nn.Module
    store: FilesystemStore
    backbone: BackboneMessage
    graph: bytes

    def recipe(self) -> Recipe:
        return Recipe(architecture=self.row.id, weights=WEIGHTS_PRETRAINED)


def weights_of(row: ArchitectureRow, folder: Path) -> PretrainedWeights:
    """The real weights where a package has them; elsewhere a weights store that keeps random numbers in their place."""
    store = FilesystemStore(folder / "weights")
    if not offered(row).locate():
        torch.manual_seed(7)
        state = whole(row).state_dict()
        # Random numbers scale DINOv2's layers by 1e-5, and features hang on nothing that is seen; trained ones do not.
        state |= {name: torch.ones_like(tensor) for name, tensor in state.items() if name.endswith("gamma")}
        store.put(key(row), to_kept(state, offered(row).sha256))
    return PretrainedWeights(store, downloads=False)


def whole(row: ArchitectureRow) -> torch.nn.Module:
    """The row's network with its classifier, as its library builds it."""
    if row.network.library == "timm":
        return timm.create_model(row.network.name, pretrained=False)
    calm = {"init_weights": False} if "init_weights" in row.network.options else {}  # it takes minutes, and warns
    return torchvision.models.get_model(row.network.name, weights=None, **calm)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=EXPORTED)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    row = ARCHITECTURES[request.param]
    if row.preprocessing.size > MAX_SIZE:
        smaller = ImagePreprocessing(fit=ImagePreprocessing.FIT_SQUASH, size=MAX_SIZE, filter="bilinear")
        row = replace(row, preprocessing=smaller)
    folder = tmp_path_factory.mktemp(row.id)
    store, weights = FilesystemStore(folder), weights_of(row, folder)
    body = backbones.build_body(Recipe(architecture=row.id, weights=WEIGHTS_PRETRAINED), weights)
    # This exports the network and checks its graph against it, which takes some 15 s, and B7 50.
    backbone, graph = backbones.store_body(store, body, row, row.preprocessing, project=None, origin="pretrained")
    return Stored(row, weights, body, store, backbone, graph)


@pytest.fixture(scope="module")
def exported_model() -> Iterator[ModuleType]:
    """model.py as it lies in an export, beside images.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "images", images)
        found = spec_from_file_location("exported_model", contents.SHIPPED / "model.py")
        assert found is not None
        assert found.loader is not None
        module = module_from_spec(found)
        found.loader.exec_module(module)
        yield module


class MeanColour(torch.nn.Module):
    """A small body of the row's feature width, for what does not hang on the network; it exports in a second."""

    def __init__(self, row: ArchitectureRow, scale: float) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, row.feature_width, 1, bias=False)
        torch.nn.init.constant_(self.convolution.weight, scale)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_map = self.convolution(images[:, :, ::32, ::32])
        return feature_map.mean(dim=(2, 3)), feature_map


def pixels_for(row: ArchitectureRow, count: int) -> npt.NDArray[np.uint8]:
    size = row.preprocessing.size
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalised(row: ArchitectureRow, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    images = (pixels.astype(np.float64) / 255 - row.mean) / row.std
    return torch.from_numpy(images.transpose(0, 3, 1, 2)).float()


def test_the_catalogue_and_its_builders_name_the_same() -> None:
    """Every row is of a library that has a builder, every builder is needed, and the default is a row."""
    assert set(BUILDERS) == {row.network.library for row in ROWS if not row.members}
    assert all(row.id == key for key, row in ARCHITECTURES.items())
    assert DEFAULT_ARCHITECTURE in ARCHITECTURES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_complete(row: ArchitectureRow) -> None:
    """A row says what it is, how pictures come to its input, and where its weights come from under which licence."""
    assert row.modality == MODALITY_IMAGE
    assert row.description
    assert row.gflops > 0
    assert row.preprocessing.fit != ImagePreprocessing.FIT_UNSPECIFIED
    assert row.preprocessing.filter in {"bilinear", "bicubic"}
    assert row.preprocessing.resize >= row.preprocessing.size > 0
    shown = message(row, DEFAULT_ARCHITECTURE, Architecture.WEIGHTS_STATE_ABSENT)
    assert (shown.id, shown.is_default) == (row.id, row.id == DEFAULT_ARCHITECTURE)
    assert (shown.num_parameters, shown.feature_width) == (row.num_parameters, row.feature_width)
    assert find(row.id, "recipe.architecture") is row


@pytest.mark.parametrize("row", [row for row in ROWS if row.weights], ids=lambda row: row.id)
def test_weights_are_pinned(row: ArchitectureRow) -> None:
    """Weights that are offered have a whole hash, its source, a size and a licence."""
    weights = offered(row)
    assert weights.license
    assert re.fullmatch("[0-9a-f]{64}", weights.sha256)
    assert weights.sha256_from
    assert weights.max_bytes > (2 if row.extra else 4) * row.num_parameters  # Ultralytics publishes float16
    # Its official name carries the first digits, but for Meta's and Ultralytics'.
    assert weights.sha256[:8] in (weights.path or weights.url) or row.id == "dinov2_s_14" or row.extra
    assert weights.source.startswith(("https://", "python package "))


# At what is built in a process of its own tests/unit/test_yolo.py looks, at networks side by side test_side_by_side.py.
@pytest.mark.parametrize("row", [row for row in ROWS if not row.extra and not row.members], ids=lambda row: row.id)
def test_a_network_is_what_its_row_says(row: ArchitectureRow) -> None:
    """Parameters, cost, memory and shapes, of a network without numbers: torch's meta device computes shapes alone."""
    figures = measure(row)
    assert figures.num_parameters == row.num_parameters
    assert figures.gflops == pytest.approx(row.gflops, rel=0.005)
    assert figures.training_memory_bytes == pytest.approx(row.training_memory_bytes, rel=0.01)
    assert figures.features == (2, row.feature_width)
    assert figures.feature_map[:2] == (2, row.feature_width)
    assert figures.feature_map[2] == figures.feature_map[3] >= 6


@pytest.mark.parametrize("row", [row for row in ROWS if not row.extra and not row.members], ids=lambda row: row.id)
def test_training_reaches_every_weight(row: ArchitectureRow) -> None:
    """A step back from the features of two pictures, as gradient training takes it, has a gradient for all of a body:
    none is counted, stored and served that no training would ever change.
    """
    size = row.preprocessing.size
    with torch.device("meta"):
        body = build(row.network, None).train()
    body(torch.empty(2, 3, size, size, device="meta"))[0].sum().backward()
    assert [name for name, weight in body.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("row", [row for row in ROWS if not row.members and not row.extra], ids=lambda row: row.id)
def test_a_network_takes_the_sizes_that_its_row_allows(row: ArchitectureRow) -> None:
    """At the smallest and the largest it has the features that it has at its own, in a map of as many more or fewer
    cells; one picture is enough to normalise by. One that takes another is a transformer.
    """
    own = row.preprocessing.size
    assert row.min_input_size <= own <= row.max_input_size
    if row.min_input_size == row.max_input_size:
        assert row.id.startswith(("vit", "dinov2", "siglip"))
        return
    for size in (row.min_input_size, row.max_input_size):
        assert size % input_sizes.STEP == 0
        found = measure(input_sizes.at(row, size))
        assert found.features == (2, row.feature_width)
        assert found.feature_map[:2] == found.features
        assert found.gflops == pytest.approx(row.gflops * (size / own) ** 2, rel=0.5)
        with torch.device("meta"):
            build(row.network, None).train()(torch.empty(1, 3, size, size))


def test_an_unknown_architecture_is_refused_with_those_there_are() -> None:
    """Whoever asks for an architecture that is not there is told which are."""
    with pytest.raises(InvalidArgument, match=r"did you mean alexnet[?] There are alexnet, vgg11, ") as caught:
        find("alexnet_2000", "recipe.architecture")
    assert caught.value.violations[0][0] == "recipe.architecture"


@pytest.mark.parametrize("row", [ARCHITECTURES[id_] for id_ in EXPORTED], ids=lambda row: row.id)
def test_a_body_builds_with_random_weights(row: ArchitectureRow, tmp_path: Path) -> None:
    """A seed gives its own weights, the same every time; width and number of parameters are what the row says."""
    recipes = [Recipe(architecture=row.id, weights=WEIGHTS_RANDOM, seed=seed) for seed in (1, 1, 2)]
    nothing = PretrainedWeights(FilesystemStore(tmp_path), downloads=False)
    bodies = [backbones.build_body(recipe, nothing) for recipe in recipes]
    first, again, other = (tensors_sha256(body.state_dict()) for body in bodies)
    assert first == again != other
    with torch.inference_mode():
        features, feature_map = bodies[0].eval()(normalised(row, pixels_for(row, 1)))
    assert features.shape == (1, row.feature_width)
    assert feature_map.shape[:2] == (1, row.feature_width)
    assert features.isfinite().all()
    assert features.std() > 0


def test_pretrained_weights_are_in_the_body(stored: Stored) -> None:
    """Every tensor of the body, counters aside, is one of the weights file's, so that none was left random; embeddings
    of positions are those of another number of positions, interpolated.
    """
    theirs = {tensors_sha256({"": tensor}) for tensor in stored.weights.tensors(stored.row).values()}
    positions = {"network.pos_embed"} if stored.row.network.options.get("img_size") else set()
    ours = [name for name, tensor in stored.body.state_dict().items() if tensor.dim() and name not in positions]
    assert ours
    assert [name for name in ours if tensors_sha256({"": stored.body.state_dict()[name]}) not in theirs] == []


def test_the_graph_is_what_the_contract_says(stored: Stored) -> None:
    """One file: uint8 pixels in, features and feature map out, any batch size, opset 18, nothing stored outside."""
    model = onnx.load_model_from_string(stored.graph)
    assert [one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}] == [graphs.OPSET]
    assert [one.name for one in model.graph.input] == ["pixels"]
    assert [one.name for one in model.graph.output] == ["features", "feature_map"]
    pixels = model.graph.input[0].type.tensor_type
    assert pixels.elem_type == onnx.TensorProto.UINT8
    size = stored.row.preprocessing.size
    assert [one.dim_param or one.dim_value for one in pixels.shape.dim] == ["n", size, size, 3]
    assert all(one.data_location != onnx.TensorProto.EXTERNAL for one in model.graph.initializer)
    assert b"stack_trace" not in stored.graph  # no word of where it was built


def test_the_graph_computes_what_the_network_computes(stored: Stored) -> None:
    """Features of pixels through the graph are those of normalised pictures through the network, at any batch size."""
    pixels = pixels_for(stored.row, 3)
    with torch.inference_mode():
        expected = stored.body.eval()(normalised(stored.row, pixels))[0].numpy()
    together = Backbone(stored.graph).features(pixels)
    assert together.shape == (3, stored.row.feature_width)
    assert np.abs(together - expected).max() <= MAX_RELATIVE_DIFFERENCE * np.abs(expected).max()
    for one, row in zip(pixels, together, strict=True):
        # A matrix product of more rows may add in another order.
        assert np.abs(Backbone(stored.graph).features(one[None])[0] - row).max() <= 1e-5 * np.abs(row).max()


def test_a_graph_of_another_network_is_noticed(stored: Stored) -> None:
    """A graph checked against a network with other weights, or with other normalisation, is refused."""
    graphs.check(stored.graph, stored.body, stored.row)
    other = backbones.build_body(Recipe(architecture=stored.row.id, weights=WEIGHTS_RANDOM, seed=1), stored.weights)
    with pytest.raises(GraphDisagrees, match=stored.row.id):
        graphs.check(stored.graph, other, stored.row)
    with pytest.raises(GraphDisagrees, match=stored.row.id):
        graphs.check(stored.graph, stored.body, replace(stored.row, mean=(0.1, 0.2, 0.3)))


def test_a_stored_backbone_is_found_again(stored: Stored) -> None:
    """A run that asks for a stored backbone gets the very one, files under their own hashes, and builds nothing."""
    assert stored.backbone.weights_sha256 == offered(stored.row).sha256
    assert stored.backbone.feature_width == stored.row.feature_width
    folder = f"backbones/{stored.backbone.backbone_id}"
    keys = [
        f"{folder}/{stored.backbone.weights_file_sha256}.safetensors",
        f"{folder}/{stored.backbone.graph_sha256}.onnx",
    ]
    assert list(stored.store.keys("backbones/")) == keys
    assert stored.store.get(keys[1], stored.backbone.graph_sha256) == stored.graph
    assert backbones.find(
        stored.store, stored.weights, stored.recipe(), stored.row.preprocessing, "any", Children()
    ) == (
        stored.backbone,
        stored.graph,
    )
    assert list(stored.store.keys("backbones/")) == keys


def test_the_stored_weights_are_the_body(stored: Stored) -> None:
    """The weights beside a graph are the body's state dict: loaded into a body of random weights they make it equal."""
    other = backbones.build_body(Recipe(architecture=stored.row.id, weights=WEIGHTS_RANDOM, seed=1), stored.weights)
    data = get_first(stored.store, weights_keys("any", stored.backbone), stored.backbone.weights_file_sha256)
    other.load_state_dict(load(data), strict=True)
    assert tensors_sha256(other.state_dict()) == tensors_sha256(stored.body.state_dict())


@pytest.mark.parametrize("stored", [row.id for row in ROWS if row.weights and row.weights.distribution], indirect=True)
def test_real_weights_know_what_they_see(stored: Stored, photographs: Path) -> None:
    """With the real weights that a package has, a head on fifty photographs a class tells cats from dogs; a wrong order
    of tensors or wrong preprocessing would not.
    """
    session = Backbone(stored.graph)

    def of(split: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        files = find_pictures(photographs / split)
        rows = [
            session.features(to_pixels(file.path.read_bytes(), stored.row.preprocessing)[None])[0] for file in files
        ]
        return np.stack(rows), np.array([file.label == "dog" for file in files], dtype=np.int64)

    features, labels = of("train")
    head = fit(features, labels, 2, 1.0, 200, lambda _: None)
    features, labels = of("val")
    assert (head.probabilities(features).argmax(axis=1) == labels).mean() >= 0.97


def test_an_export_builds_the_body(stored: Stored, exported_model: ModuleType) -> None:
    """model.py of an export, given the row's network by library and name, and the stored weights, is the body."""
    network = stored.row.network
    built = exported_model.Body(network.library, network.name, dict(network.options)).eval()
    weights = get_first(stored.store, weights_keys("any", stored.backbone), stored.backbone.weights_file_sha256)
    built.load_state_dict(load(weights))
    pictures = normalised(stored.row, pixels_for(stored.row, 1))
    with torch.inference_mode():
        np.testing.assert_allclose(built(pictures), stored.body.eval()(pictures)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("id_", ["mobilenet_v1", "siglip2_b_16"])
def test_a_network_without_weights_travels_the_same_path(
    id_: str, store: FilesystemStore, exported_model: ModuleType
) -> None:
    """From random numbers it is exported, served as it computes, and built again by model.py."""
    row = ARCHITECTURES[id_]
    nothing = PretrainedWeights(store, downloads=False)
    with pytest.raises(WeightsUnavailable, match="weights=RANDOM"):
        nothing.tensors(row)
    body = backbones.build_body(Recipe(architecture=id_, weights=WEIGHTS_RANDOM, seed=3), nothing).eval()
    backbone, graph = backbones.store_body(store, body, row, row.preprocessing, "any", "random")
    pixels = pixels_for(row, 1)
    with torch.inference_mode():
        expected = body(normalised(row, pixels))[0].numpy()
        built = exported_model.Body(row.network.library, row.network.name, dict(row.network.options)).eval()
        built.load_state_dict(load(get_first(store, weights_keys("any", backbone), backbone.weights_file_sha256)))
        np.testing.assert_allclose(built(normalised(row, pixels)), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(Backbone(graph).features(pixels) - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("stored", [DEFAULT_ARCHITECTURE], indirect=True)
def test_other_preprocessing_is_another_backbone(stored: Stored, store: FilesystemStore) -> None:
    """The same network with other preprocessing has another id and, without being built again, the same graph."""
    for known in stored.store.keys("backbones/"):
        store.put(known, stored.store.get(known))
    squash = ImagePreprocessing(
        fit=ImagePreprocessing.FIT_SQUASH, size=stored.row.preprocessing.size, filter=stored.row.preprocessing.filter
    )
    other, graph = backbones.find(store, stored.weights, stored.recipe(), squash, "any", Children())
    assert graph == stored.graph
    assert other.preprocessing == squash
    assert other.backbone_id != stored.backbone.backbone_id
    for files, digest in ((graph_keys, stored.backbone.graph_sha256), (weights_keys, other.weights_file_sha256)):
        assert store.get(files("any", other)[0], digest)
    assert other.weights_file_sha256 == stored.backbone.weights_file_sha256


@pytest.mark.parametrize("stored", [DEFAULT_ARCHITECTURE], indirect=True)
def test_other_weights_are_another_backbone(stored: Stored, store: FilesystemStore) -> None:
    """A network of the same architecture and preprocessing with weights of its own has an id of its own."""
    row = stored.row
    body = backbones.build_body(Recipe(architecture=row.id, weights=WEIGHTS_RANDOM, seed=2), stored.weights)
    other, _ = backbones.store_body(store, body, row, row.preprocessing, None, "random")
    assert other.weights_sha256 != stored.backbone.weights_sha256
    assert other.backbone_id != stored.backbone.backbone_id
    assert (other.weights_origin, stored.backbone.weights_origin) == ("random", "pretrained")


def test_the_first_graph_of_a_backbone_wins(store: FilesystemStore) -> None:
    """The same network has the same id, and where another worker stored its graph first, that graph is taken."""
    row = ARCHITECTURES["efficientnet_b0"]
    body = MeanColour(row, 0.1)
    mine, graph = backbones.store_body(store, body, row, row.preprocessing, "flowers", "trained")
    assert store.get(f"projects/flowers/backbones/{mine.backbone_id}/{mine.graph_sha256}.onnx") == graph
    model = onnx.load_model_from_string(graph)
    model.producer_name = "another exporter"
    theirs = model.SerializeToString()
    store.put(f"backbones/{mine.backbone_id}/{sha256(theirs)}.onnx", theirs)
    taken, taken_graph = backbones.store_body(store, MeanColour(row, 0.1), row, row.preprocessing, None, "random")
    assert (taken.backbone_id, taken.graph_sha256) == (mine.backbone_id, sha256(theirs))
    assert taken_graph == theirs
