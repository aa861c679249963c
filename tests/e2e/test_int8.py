"""A model on a backbone in integers, from pictures to answers: an id, a graph and features of its own."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from handful import Client
from handful.bundle import manifest
from handful.cli.stack import Stack
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, Evaluation, ModelManifest
from handful.v1.inference_pb2 import EvidenceMap
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRunEvent

NUM_PICTURES = 300
SMALLER = 0.3


def train(client: Client, **recipe: Any) -> tuple[str, FeaturesReady]:
    """The version that a run made, and what its features cost."""
    run = client.train("photographs-int8", **recipe)
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    (ready,) = (event.features_ready for event in events if event.HasField("features_ready"))
    return run.result().model_version, ready


def bundled(path: Path) -> tuple[ModelManifest, Evaluation, set[str], dict[str, int]]:
    """What lies in an export: its manifest and evaluation, the names of its files and how large they are."""
    with zipfile.ZipFile(path) as archive:
        model = manifest.from_bytes(ModelManifest, archive.read("bundle/manifest.json"))
        evaluation = manifest.from_bytes(Evaluation, archive.read("bundle/evaluation.json"))
        return model, evaluation, set(archive.namelist()), {one.filename: one.file_size for one in archive.infolist()}


def test_a_backbone_in_integers_is_trained_served_and_taken_along(
    stack: Stack, photographs: Path, tmp_path: Path
) -> None:
    """Its features are computed anew and kept; it is as accurate, a quarter as large, explains exactly, and answers the
    same where it was imported.
    """
    with Client(stack.addresses) as client:
        client.push("photographs-int8", photographs)
        plain, _ = train(client)
        version, ready = train(client, backbone_precision="INT8")
        assert (ready.features_computed, ready.features_cached) == (NUM_PICTURES, 0)
        _, ready = train(client, backbone_precision="INT8")
        assert (ready.features_computed, ready.features_cached) == (0, NUM_PICTURES)

        float32, _, _, sizes = bundled(client.export(plain, tmp_path).path)
        out = client.export(version, tmp_path).path
        int8, evaluation, files, small = bundled(out)
        assert int8.backbone.precision == int8.recipe.backbone_precision == BACKBONE_PRECISION_INT8
        assert int8.backbone.weights_sha256 == float32.backbone.weights_sha256
        assert int8.backbone.backbone_id != float32.backbone.backbone_id
        assert (int8.numerics.endswith("-int8"), float32.numerics.endswith("-float32")) == (True, True)
        assert small["model.onnx"] < SMALLER * sizes["model.onnx"]
        assert "model.py" not in files
        assert {one.name: one.value for one in evaluation.metrics}["val/accuracy"] >= 0.97

        picture = next((photographs / "val" / "cat").iterdir())
        answer = client.predict(version, picture)
        assert (answer.predictions[0].label, answer.unknown) == ("cat", False)
        assert client.explain(version, picture).evidence.method == EvidenceMap.METHOD_CLASS_ACTIVATION
        taken = client.import_model(out, "taken-int8")
        again = client.predict(taken.name, picture)
        assert list(again.predictions) == list(answer.predictions)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            {"architecture": "efficientnet_b0"},
            "must be FLOAT32 with efficientnet_b0: INT8 is there for efficientnet_lite",
        ),
        ({"weights": "RANDOM"}, "unless weights are PRETRAINED"),
        ({"preset": "fine_tune"}, "no such field; there is one in fast"),
        ({"preset": "quality"}, "no such field; there is one in fast"),
    ],
)
def test_integers_that_make_no_sense_are_refused_by_field(
    stack: Stack, photographs: Path, recipe: dict[str, Any], said: str
) -> None:
    with Client(stack.addresses) as client:
        client.push("photographs-int8", photographs)
        with pytest.raises(InvalidArgument) as refused:
            client.train("photographs-int8", backbone_precision="INT8", **recipe)
    ((field, problem),) = refused.value.violations
    assert (field, said in problem) == ("recipe.backbone_precision", True)
