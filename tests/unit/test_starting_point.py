"""What a run starts from: the weights it asked for, or, where it left that open, something that is said out loud."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from handful.recipe import recipe as from_words
from handful.v1.bundle_pb2 import (
    FREEZE_BODY,
    FREEZE_NONE,
    FROZEN_MODE_EVAL,
    FROZEN_MODE_TRAIN,
    WEIGHTS_AUTO,
    WEIGHTS_PRETRAINED,
    WEIGHTS_RANDOM,
    ImagePreprocessing,
    Recipe,
)
from handful.v1.trainer_pb2 import Progress, TrainingRunEvent
from handful.v1.worker_pb2 import Claim
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, backbone_id
from services.trainer.input_sizes import preprocessing
from services.trainer.recipes import resolve
from services.trainer.worker.pretrained import PretrainedWeights, WeightsUnavailable, offered
from services.trainer.worker.reporting import Reporter, RunCancelled
from services.trainer.worker.starting_point import settle
from services.trainer.worker.work import Work
from tests import official_source
from tests.official_source import silent, whole

B0, LITE0 = "efficientnet_b0", "efficientnet_lite0"


@dataclass
class Recorder:
    """Keeps what a run reports."""

    events: list[TrainingRunEvent] = field(default_factory=list)
    phases: set[str] = field(default_factory=set)
    cancelled_in: str = ""

    def event(self, event: TrainingRunEvent) -> None:
        self.events.append(event)

    def progress(self, progress: Progress) -> None:
        self.phases.add(progress.phase)

    def check(self) -> None:
        if self.cancelled_in in self.phases:
            raise RunCancelled


def settled(
    folder: Path, asked: Recipe, weights: PretrainedWeights | None = None, claim: Claim | None = None
) -> tuple[Work, Recorder]:
    """The run after it was settled what it starts from; without weights given, on a worker that may not download."""
    store, recorder = FilesystemStore(folder / "store"), Recorder()
    claim = claim or Claim(training_run="projects/default/trainingRuns/r1", attempt=1, recipe=resolve(asked, LITE0))
    weights = weights or PretrainedWeights(FilesystemStore(folder / "weights"), downloads=False)
    work = Work(claim, store, weights, cast("Reporter", recorder), threads=1, cache=store)
    settle(work)
    return work, recorder


@pytest.mark.parametrize("weights", [WEIGHTS_PRETRAINED, WEIGHTS_RANDOM])
def test_what_was_asked_for_is_left_alone(tmp_path: Path, weights: int) -> None:
    """A recipe that leaves nothing open stays as it is, and nothing is said."""
    asked = resolve(Recipe(weights=weights), LITE0)  # type: ignore[arg-type]
    work, recorder = settled(tmp_path, asked)
    assert work.recipe == asked
    assert recorder.events == []


def test_weights_that_cannot_be_had_fail_the_run(tmp_path: Path) -> None:
    """PRETRAINED means pretrained: the run ends with what to do, and trains nothing else."""
    with pytest.raises(WeightsUnavailable, match=r"HANDFUL_WEIGHTS_DOWNLOAD.*handful weights import"):
        settled(tmp_path, Recipe(architecture=B0))


def test_auto_takes_weights_where_they_are(tmp_path: Path) -> None:
    """AUTO is PRETRAINED where it can be; that is settled for later attempts, and nothing else changes."""
    work, recorder = settled(tmp_path, Recipe(weights=WEIGHTS_AUTO, seed=4))
    assert work.recipe == resolve(Recipe(weights=WEIGHTS_PRETRAINED, seed=4), LITE0)
    assert [event.WhichOneof("event") for event in recorder.events] == ["recipe_settled"]
    assert recorder.events[0].recipe_settled.recipe == work.recipe
    assert work.notices == []


def test_auto_without_weights_trains_everything(tmp_path: Path) -> None:
    """A head on a random body would be worth nothing: the whole network is trained, and event and manifest say so."""
    work, recorder = settled(tmp_path, Recipe(architecture=B0, weights=WEIGHTS_AUTO, seed=4))
    expected = Recipe(preset="baseline", architecture=B0, weights=WEIGHTS_RANDOM, freeze=FREEZE_NONE, seed=4)
    expected.fit = ImagePreprocessing.FIT_CENTER_CROP
    assert work.recipe == resolve(expected, LITE0)
    assert [event.WhichOneof("event") for event in recorder.events] == ["notice", "recipe_settled"]
    (notice,) = work.notices
    assert notice.reason == "WEIGHTS_FALLBACK"
    assert notice == recorder.events[0].notice
    assert "HANDFUL_WEIGHTS_DOWNLOAD" in notice.message
    assert recorder.events[1].recipe_settled.recipe == work.recipe


@pytest.mark.parametrize(("fields", "fit"), [({}, "FIT_CENTER_CROP"), ({"fit": "SQUASH"}, "FIT_SQUASH")], ids=str)
def test_auto_keeps_how_pictures_are_cut(tmp_path: Path, fields: dict[str, object], fit: str) -> None:
    """Of features or of a whole network: pictures come to it as they were to, though defaults differ."""
    work, _ = settled(tmp_path, from_words({"preset": "fast", "architecture": B0, "weights": "AUTO", **fields}))
    assert work.recipe.preset == "baseline"
    assert preprocessing(work.recipe, textbook=True).fit == ImagePreprocessing.Fit.Value(fit)


@pytest.mark.parametrize("preset", ["fast", "fine_tune", "baseline"])
def test_auto_keeps_the_size(tmp_path: Path, preset: str) -> None:
    """The whole network is trained on pictures as large as those that its features were to be of."""
    asked = {"preset": preset, "architecture": B0, "weights": "AUTO", "input_size": 96}
    work, _ = settled(tmp_path, from_words(asked))
    assert (work.recipe.weights, work.recipe.input_size) == (WEIGHTS_RANDOM, 96)


def test_a_yolo_is_cut_as_its_trainer_cuts(tmp_path: Path) -> None:
    """How pictures come to a YOLO that is trained is no field of a recipe, whatever was asked for its features."""
    asked = from_words({"preset": "fast", "architecture": "yolo11n_cls", "weights": "AUTO", "fit": "SQUASH"})
    work, _ = settled(tmp_path, asked)
    assert (work.recipe.preset, work.recipe.fit) == ("baseline", ImagePreprocessing.FIT_UNSPECIFIED)


def test_auto_keeps_what_else_was_asked_for(tmp_path: Path) -> None:
    """Of gradient training only the start and what is frozen change."""
    asked = Recipe(
        preset="baseline", architecture=B0, weights=WEIGHTS_AUTO, freeze=FREEZE_BODY, num_epochs=3, learning_rate=1e-3
    )
    asked.frozen_mode = FROZEN_MODE_TRAIN  # of nothing that is frozen any more
    work, _ = settled(tmp_path, asked)
    asked.weights, asked.freeze, asked.frozen_mode = WEIGHTS_RANDOM, FREEZE_NONE, FROZEN_MODE_EVAL
    assert work.recipe == resolve(asked, LITE0)


@pytest.mark.parametrize("freeze", ["NONE", "BODY", "FIRST_BLOCKS"])
def test_auto_without_weights_fine_tunes_everything(tmp_path: Path, freeze: str) -> None:
    """What was to be left alone is trained too, from a random head; all else stays as it was asked for."""
    asked: dict[str, object] = {
        "preset": "fine_tune",
        "architecture": B0,
        "weights": "AUTO",
        "freeze": freeze,
        "optimizer": "SGD",
    }
    own = {"momentum": 0.5, "hue": 0.1, "num_epochs": 3}
    work, _ = settled(tmp_path, from_words(asked | own))
    expected = {**asked, **own, "weights": "RANDOM", "freeze": "NONE", "initial_head": "RANDOM"}
    assert work.recipe == resolve(from_words(expected), LITE0)
    assert [one.reason for one in work.notices] == ["WEIGHTS_FALLBACK"]


def test_a_later_attempt_carries_the_notice(tmp_path: Path) -> None:
    """The manifest of a run that was continued says what the first attempt noted, once."""
    first, _ = settled(tmp_path, Recipe(architecture=B0, weights=WEIGHTS_AUTO))
    claim = Claim(training_run=first.claim.training_run, attempt=2, recipe=first.recipe, notices=first.notices)
    second, recorder = settled(tmp_path, first.recipe, claim=claim)
    second.notice(first.notices[0].reason, first.notices[0].message)
    assert second.recipe == first.recipe
    assert second.notices == first.notices
    assert recorder.events == []


def test_weights_are_fetched_before_anything_else(tmp_path: Path) -> None:
    """A worker that may download does, in a phase of its own; what it gets is not the file, and the run says so."""
    with official_source.running() as source:
        source.gives(offered(ARCHITECTURES[B0]).url.rpartition("/")[2], whole(b"not these"))
        weights = PretrainedWeights(FilesystemStore(tmp_path / "weights"), f"{source.address}/models")
        with pytest.raises(WeightsUnavailable, match="gave another file"):
            settled(tmp_path, Recipe(architecture=B0), weights)
        assert len(source.asked) == 1
        work, recorder = settled(tmp_path, Recipe(architecture=B0, weights=WEIGHTS_AUTO), weights)
    assert "weights" in recorder.phases
    assert "gave another file" in work.notices[0].message


def test_a_download_can_be_cancelled(tmp_path: Path) -> None:
    """A run that waits for a source that says nothing ends as soon as it is cancelled, and so does its download."""
    with official_source.running() as source:
        source.gives(offered(ARCHITECTURES[B0]).url.rpartition("/")[2], silent(60))
        weights = PretrainedWeights(FilesystemStore(tmp_path / "weights"), f"{source.address}/models")
        store = FilesystemStore(tmp_path)
        claim = Claim(training_run="projects/default/trainingRuns/r1", recipe=resolve(Recipe(architecture=B0), LITE0))
        recorder = Recorder(cancelled_in="weights")
        work = Work(claim, store, weights, cast("Reporter", recorder), threads=1, cache=store)
        began = time.monotonic()
        with pytest.raises(RunCancelled):
            settle(work)
        work.children.end()
        assert time.monotonic() - began < 30


def test_features_need_no_weights_where_the_backbone_is_stored(tmp_path: Path) -> None:
    """A worker without weights can do `fast` where another one has stored the backbone; gradient training it cannot."""
    row = ARCHITECTURES[B0]
    recipe = Recipe(architecture=B0)
    identity = backbone_id(row.id, row.preprocessing, offered(row).sha256)
    store = FilesystemStore(tmp_path / "store")
    for kind in ("onnx", "safetensors"):
        store.put(f"backbones/{identity}/0.{kind}", b"a graph, weights")
    work, _ = settled(tmp_path, recipe)
    assert work.recipe.weights == WEIGHTS_PRETRAINED
    with pytest.raises(WeightsUnavailable):
        settled(tmp_path, Recipe(architecture=B0, preset="baseline"))
