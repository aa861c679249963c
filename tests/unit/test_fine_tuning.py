"""Gradient training that is taken up from a checkpoint: the same numbers as training that was never interrupted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch

from handful.bundle.manifest import blob_key, sha256
from handful.v1.bundle_pb2 import (
    FREEZE_BODY,
    FREEZE_NONE,
    FROZEN_MODE_EVAL,
    FROZEN_MODE_TRAIN,
    MODALITY_IMAGE,
    EpochMetrics,
    Recipe,
)
from handful.v1.trainer_pb2 import Progress, TrainingRunEvent
from handful.v1.worker_pb2 import Checkpoint, Claim
from services.shared.objects import ObjectCorrupt
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import presets, recipes
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.worker import fine_tuning
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.reporting import Reporter, RunCancelled
from services.trainer.worker.weights import load_checkpoint
from services.trainer.worker.work import Work

EPOCHS = 4


class Recorder:
    """Keeps what a run reports, and ends the run once the checkpoint of an epoch is handed in."""

    def __init__(self, last_epoch: int) -> None:
        self.last_epoch = last_epoch
        self.events: list[TrainingRunEvent] = []
        self.checkpoints: list[Checkpoint] = []

    def event(self, event: TrainingRunEvent) -> None:
        self.events.append(event)

    def progress(self, progress: Progress) -> None:
        pass

    def checkpoint(self, checkpoint: Checkpoint) -> list[str]:
        self.checkpoints.append(checkpoint)
        if checkpoint.epoch == self.last_epoch:
            raise RunCancelled
        return []

    def check(self) -> None:
        pass


@dataclass(frozen=True)
class Attempt:
    """What an attempt left behind: its recipe, the epochs it counts, its events and its checkpoints."""

    recipe: Recipe
    history: list[EpochMetrics]
    events: list[TrainingRunEvent]
    checkpoints: list[Checkpoint]

    def state(self, store: FilesystemStore) -> dict[str, Any]:
        """What the last checkpoint holds."""
        return load_checkpoint(store.get(self.checkpoints[-1].key, self.checkpoints[-1].sha256))


@pytest.fixture
def examples(store: FilesystemStore, picture: Callable[..., bytes]) -> Examples:
    """Eight tiny pictures to train on, unevenly of two classes, and two to measure on."""
    made: list[Example] = []
    for seed, label in enumerate((0, 0, 0, 0, 0, 1, 1, 1, 0, 1)):
        data = picture(seed, ((40, 80, 200), (200, 80, 40))[label])
        store.put(blob_key("default", sha256(data)), data)
        made.append(Example(sha256(data), label, ""))
    return Examples("default", MODALITY_IMAGE, ("blue", "red"), tuple(made[:8]), tuple(made[8:]))


def recipe(**fields: Any) -> Recipe:
    resolved = recipes.resolve(Recipe(preset=presets.BASELINE), DEFAULT_ARCHITECTURE)
    resolved.MergeFrom(Recipe(num_epochs=EPOCHS, batch_size=3, target_size=0, learning_rate=1e-3, **fields))
    return resolved


def train(store: FilesystemStore, examples: Examples, recipe: Recipe, last_epoch: int) -> Attempt:
    """The first attempt, until the checkpoint of an epoch lies in the store; then its worker is gone."""
    return attempt(store, examples, Claim(attempt=1, recipe=recipe), last_epoch)


def resume(store: FilesystemStore, examples: Examples, first: Attempt, after_epoch: int) -> Attempt:
    """The second attempt, from a checkpoint of the first."""
    claim = Claim(attempt=2, recipe=first.recipe, history=first.history[:after_epoch])
    claim.checkpoint.CopyFrom(first.checkpoints[after_epoch - 1])
    return attempt(store, examples, claim, first.recipe.num_epochs)


def attempt(store: FilesystemStore, examples: Examples, claim: Claim, last_epoch: int, run: str = "r1") -> Attempt:
    """What a worker leaves behind that is gone once the checkpoint of an epoch lies in the store."""
    claim.training_run = f"projects/default/trainingRuns/{run}"
    recorder = Recorder(last_epoch)
    work = Work(claim, store, PretrainedWeights(store), cast("Reporter", recorder), threads=1, cache=store)
    with pytest.raises(RunCancelled):
        fine_tuning.train(work, examples)
    return Attempt(claim.recipe, work.history, recorder.events, recorder.checkpoints)


def figures(history: list[EpochMetrics]) -> list[dict[str, float]]:
    """Every epoch's figures but those of the clock and the machine."""
    kept = ("train/", "val/", "learning_rate")
    return [{"epoch": one.epoch} | {m.name: m.value for m in one.metrics if m.name.startswith(kept)} for one in history]


def flat(state: Any, path: str = "") -> dict[str, bytes]:
    """Everything in a checkpoint as bytes, by path."""
    if isinstance(state, torch.Tensor):
        return {path: state.numpy().tobytes()}
    if isinstance(state, (dict, list)):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {key: value for name, one in items for key, value in flat(one, f"{path}/{name}").items()}
    return {path: repr(state).encode()}


@pytest.mark.parametrize(
    ("fields", "some"),
    [
        ({"freeze": FREEZE_BODY, "frozen_mode": FROZEN_MODE_EVAL}, slice(8)),
        # These compute more, so that fewer examples do: two of each class.
        ({"freeze": FREEZE_BODY, "frozen_mode": FROZEN_MODE_TRAIN}, slice(3, 7)),
        ({"freeze": FREEZE_NONE, "frozen_mode": FROZEN_MODE_EVAL}, slice(3, 7)),
    ],
    ids=["frozen", "naive", "whole"],
)
def test_resuming_is_not_being_interrupted(
    store: FilesystemStore, examples: Examples, fields: dict[str, Any], some: slice
) -> None:
    """Two epochs, a checkpoint and two more leave the head, body, optimiser and random state of four, bit for bit."""
    examples = replace(examples, train=examples.train[some])
    straight = train(store, examples, recipe(**fields), EPOCHS)
    resumed = resume(store, examples, straight, after_epoch=2)
    assert figures(resumed.history) == figures(straight.history)
    assert [one.epoch for one in resumed.history] == [1, 2, 3, 4]
    assert [one.key for one in resumed.checkpoints] == [
        f"projects/default/runs/r1/attempts/2/checkpoints/{epoch}.pt" for epoch in (3, 4)
    ]
    ours, theirs = flat(resumed.state(store)), flat(straight.state(store))
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []


def test_a_checkpoint_of_a_frozen_body_is_small(store: FilesystemStore, examples: Examples) -> None:
    """A body that does not change is not stored: a checkpoint is the head, its optimiser and the random state."""
    first = train(store, examples, recipe(), 1)
    assert first.state(store)["body"] == {}
    assert len(store.get(first.checkpoints[0].key)) < 100_000


def test_a_run_without_validation_examples_trains(store: FilesystemStore, examples: Examples) -> None:
    """Without validation examples there are no val figures, and training goes on as with them."""
    alone = train(store, replace(examples, val=()), recipe(), 1)
    state = flat(alone.state(store)["head"])
    assert not any(one.name.startswith("val/") for one in alone.history[0].metrics)
    assert state == flat(train(store, examples, recipe(), 1).state(store)["head"])


def test_small_classes_are_topped_up_in_training(store: FilesystemStore, examples: Examples) -> None:
    """With a target of six, five and three examples become six each: the run says so, and makes four steps of three."""
    topped_up = recipe()
    topped_up.target_size = 6
    first = train(store, examples, topped_up, 1)
    notices = [event.notice for event in first.events if event.HasField("notice")]
    assert [(one.reason, one.message) for one in notices] == [
        ("TOPPED_UP", "blue: 5 training examples repeated to 6."),
        ("TOPPED_UP", "red: 3 training examples repeated to 6."),
    ]
    assert int(first.state(store)["optimizer"]["state"][0]["step"]) == 4


def test_a_damaged_checkpoint_is_noticed(store: FilesystemStore, examples: Examples) -> None:
    """A checkpoint that is not what its hash says is never loaded."""
    first = train(store, examples, recipe(), 1)
    key = first.checkpoints[0].key
    store.put(key, store.get(key)[:-1] + b"\x01")
    with pytest.raises(ObjectCorrupt):
        resume(store, examples, first, after_epoch=1)
