"""Preset `quality` from pictures to answers: every network at hand is tried, and what was found is said and served."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handful import Client
from handful.bundle.manifest import bundle_key, from_bytes
from handful.cli.stack import Stack
from handful.v1.bundle_pb2 import Evaluation, ModelManifest
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent

PER_CLASS = 6
LITES = {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"}


@dataclass(frozen=True)
class Trained:
    """A model of cats and dogs by `quality`, and what its run said."""

    client: Client
    stack: Stack
    run: TrainingRun
    events: list[TrainingRunEvent]

    @property
    def tried(self) -> int:
        return len(self.evaluation.cross_validation.architecture_choice.candidates)

    @property
    def evaluation(self) -> Evaluation:
        return self.client.evaluation(self.run.model_version).evaluation

    @property
    def manifest(self) -> ModelManifest:
        version = next(one for one in self.client.model_versions("choosy") if one.name == self.run.model_version)
        stored = self.stack.home / "store" / bundle_key("default", version.manifest_sha256, "manifest.json")
        return from_bytes(ModelManifest, stored.read_bytes())


@pytest.fixture(scope="module")
def trained(stack: Stack, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", PER_CLASS), ("val", 2)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for path in sorted((photographs / split / label).iterdir())[:count]:
                (folder / split / label / path.name).symlink_to(path)
    with Client(stack.addresses) as client:
        client.push("choosy", folder)
        run = client.train("choosy", preset="quality", max_gflops=1)
        assert run.training_run.recipe.architecture == "auto"
        events = [one for one in run.watch() if isinstance(one, TrainingRunEvent)]
        yield Trained(client, stack, run.result(), events)


def test_the_recipe_is_settled_after_everything_else(trained: Trained) -> None:
    """A run that is lost before it publishes chooses again: with a settled recipe it would not know from what."""
    kinds = [one.WhichOneof("event") for one in trained.events]
    assert kinds.index("recipe_settled") > max(place for place, kind in enumerate(kinds) if kind == "epoch_completed")


def test_every_network_at_hand_is_tried_and_the_best_is_told(trained: Trained) -> None:
    """A notice has each one's figure and that of the choice itself; the recipe is settled, for the manifest too."""
    (notice,) = [one.notice for one in trained.events if one.notice.reason == "ARCHITECTURE_CHOSEN"]
    choice = trained.evaluation.cross_validation.architecture_choice
    names = [one.architecture for one in choice.candidates]
    assert set(names) >= LITES
    assert all(f"{one.architecture} {one.accuracy:.1%}" in notice.message for one in choice.candidates)
    assert max(one.accuracy for one in choice.candidates) == choice.candidates[0].accuracy
    assert 0 < choice.accuracy <= 1
    assert f"{names[0]} was taken" in notice.message
    (settled,) = [one.recipe_settled.recipe for one in trained.events if one.HasField("recipe_settled")]
    assert settled == trained.run.recipe
    assert settled.architecture == names[0]
    assert trained.manifest.recipe == settled
    assert trained.manifest.backbone.architecture == names[0]
    assert notice in trained.manifest.notices


def test_validation_pictures_have_no_say(trained: Trained) -> None:
    """Training pictures go through every network; those that validate through the chosen one alone."""
    (ready,) = [one.features_ready for one in trained.events if one.HasField("features_ready")]
    # The chosen one's are found again; others may have been kept by runs on the same pictures.
    assert ready.features_computed + ready.features_cached == 2 * PER_CLASS * (trained.tried + 1) + 4
    assert ready.features_cached >= 2 * PER_CLASS


def test_trained_again_it_computes_nothing_and_says_the_same(trained: Trained) -> None:
    """Features of every network are kept, and the choice does not depend on chance."""
    run = trained.client.train("choosy", preset="quality", max_gflops=1)
    events = [one for one in run.watch() if isinstance(one, TrainingRunEvent)]
    (ready,) = [one.features_ready for one in events if one.HasField("features_ready")]
    assert ready.features_computed == 0
    again = trained.client.evaluation(run.result().model_version).evaluation
    assert again.metrics == trained.evaluation.metrics
    assert again.cross_validation == trained.evaluation.cross_validation


def test_it_answers_and_goes_along(trained: Trained, photographs: Path, tmp_path: Path) -> None:
    """The model is one like any other: it is asked, taken out, and taken in again with the same answers."""
    picture = max((photographs / "val" / "dog").iterdir()).read_bytes()
    answer = trained.client.predict(trained.run.model_version, picture)
    assert answer.predictions[0].label == "dog"
    file = trained.client.export(trained.run.model_version, tmp_path / "choosy.zip").path
    brought = trained.client.import_model(file, model="brought")
    assert trained.client.predict(brought.name, picture).predictions == answer.predictions
