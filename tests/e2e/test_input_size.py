"""A network at another input size, from pictures to answers: a backbone, a graph and features of its own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handful import Client
from handful.bundle import manifest
from handful.cli.stack import Stack
from handful.v1.bundle_pb2 import Evaluation, ImagePreprocessing, ModelManifest
from handful.v1.inference_pb2 import EvidenceMap
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRunEvent
from services.trainer.exports.formats import FORMATS
from tests.e2e.test_export import alike, bare, run, serve
from tests.unit.test_export_files import self_tested

pytestmark = pytest.mark.timeout(600)
NUM_PICTURES = 300
SIZE = 160


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.addresses) as client:
        yield client


def train(client: Client, dataset: str, **recipe: Any) -> tuple[str, FeaturesReady]:
    """The version that a run made, and what its features cost."""
    started = client.train(dataset, **recipe)
    events = [event for event in started.watch() if isinstance(event, TrainingRunEvent)]
    ready = [event.features_ready for event in events if event.HasField("features_ready")]
    return started.result().model_version, ready[0] if ready else FeaturesReady()


@pytest.fixture(scope="module")
def sizes(client: Client, photographs: Path) -> dict[int, tuple[str, FeaturesReady]]:
    """Cats and dogs by `fast`, at the architecture's own size (0) and at another."""
    client.push("photographs-small", photographs)
    return {size: train(client, "photographs-small", input_size=size) for size in (0, SIZE)}


def taken_out(client: Client, version: str, folder: Path) -> tuple[ModelManifest, Evaluation]:
    """What an export says of its model; it lies unpacked in the folder."""
    with zipfile.ZipFile(client.export(version, folder / "out.zip").path) as archive:
        archive.extractall(folder)
    model = manifest.from_bytes(ModelManifest, (folder / "bundle" / "manifest.json").read_bytes())
    return model, manifest.from_bytes(Evaluation, (folder / "bundle" / "evaluation.json").read_bytes())


def test_another_size_is_trained_served_and_taken_along(
    client: Client, photographs: Path, sizes: dict[int, tuple[str, FeaturesReady]], tmp_path: Path
) -> None:
    """Features are computed anew and kept beside those of the architecture's own size; what is served, explained,
    exported and imported again sees pictures of that size, and answers alike.
    """
    (own, _), (version, ready) = sizes[0], sizes[SIZE]
    assert (ready.features_computed, ready.features_cached) == (NUM_PICTURES, 0)
    for again in ({"input_size": SIZE}, {"input_size": 224}, {}):
        _, ready = train(client, "photographs-small", **again)
        assert (ready.features_computed, ready.features_cached) == (0, NUM_PICTURES)

    (tmp_path / "own").mkdir()
    usual, _ = taken_out(client, own, tmp_path / "own")
    model, evaluation = taken_out(client, version, tmp_path)
    assert (usual.recipe.input_size, usual.backbone.preprocessing.size) == (0, 224)
    assert (model.recipe.input_size, model.backbone.preprocessing.size) == (SIZE, SIZE)
    assert model.backbone.weights_sha256 == usual.backbone.weights_sha256
    assert model.backbone.backbone_id != usual.backbone.backbone_id
    assert model.backbone.graph_sha256 != usual.backbone.graph_sha256
    assert {one.name: one.value for one in evaluation.metrics}["val/accuracy"] >= 0.95

    pictures = sorted((photographs / "val").rglob("*.jpg"))[::10]
    served = serve(client, version, pictures)
    lines = run(bare(), tmp_path / "predict.py", "--json", *pictures).splitlines()
    alike([{one["label"]: one["score"] for one in json.loads(line)["predictions"]} for line in lines], served, 1e-3)
    assert client.explain(version, pictures[0]).evidence.method == EvidenceMap.METHOD_CLASS_ACTIVATION
    taken = client.import_model(tmp_path / "out.zip", "taken-small")
    alike(serve(client, taken.name, pictures), served, 1e-6)


@pytest.mark.parametrize("wanted", FORMATS)
def test_every_format_carries_another_size(
    client: Client, sizes: dict[int, tuple[str, FeaturesReady]], tmp_path: Path, wanted: str
) -> None:
    """It is exported within the format's bound, and tests itself by its own code where that runs."""
    with zipfile.ZipFile(client.export(sizes[SIZE][0], tmp_path / "out.zip", format_name=wanted).path) as archive:
        archive.extractall(tmp_path / "unpacked")
    told = json.loads((tmp_path / "unpacked" / "preprocessing.json").read_text())
    assert told["image"]["size"] == SIZE
    report = self_tested(wanted, tmp_path / "unpacked")
    assert (report["self_test"], report["top1_agreement"]) == ("passed", 1)


@pytest.mark.parametrize(
    ("recipe", "fit"),
    [
        ({"preset": "fine_tune", "num_epochs": 1}, ImagePreprocessing.FIT_CENTER_CROP),
        ({"preset": "baseline", "num_epochs": 1, "target_size": 0}, ImagePreprocessing.FIT_SQUASH),
        (
            {"preset": "baseline", "num_epochs": 1, "target_size": 0, "freeze": "NONE", "weights": "RANDOM"},
            ImagePreprocessing.FIT_SQUASH,
        ),
    ],
    ids=["fine_tune", "baseline", "baseline of everything"],
)
def test_gradient_training_has_another_size(
    client: Client,
    picture: Callable[..., bytes],
    tmp_path: Path,
    recipe: dict[str, Any],
    fit: ImagePreprocessing.Fit.ValueType,
) -> None:
    """Bodies that are trained, and those that are not, answer at the size that they were trained at."""
    for label, colour in (("red", (210, 50, 50)), ("blue", (50, 50, 210))):
        (tmp_path / label).mkdir()
        for seed in range(8):
            (tmp_path / label / f"{seed}.jpg").write_bytes(picture(seed, colour))
    client.push("small-colours", tmp_path)
    version, _ = train(client, "small-colours", input_size=96, **recipe)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    model, _ = taken_out(client, version, unpacked)
    how = model.backbone.preprocessing
    assert (model.recipe.input_size, how.size, how.fit) == (96, 96, fit)
    assert model.parity.max_abs_diff <= 1e-3
    pictures = sorted(tmp_path.glob("*/*.jpg"))[::5]
    lines = run(bare(), unpacked / "predict.py", "--json", *pictures).splitlines()
    found = [{one["label"]: one["score"] for one in json.loads(line)["predictions"]} for line in lines]
    alike(found, serve(client, version, pictures), 1e-3)
