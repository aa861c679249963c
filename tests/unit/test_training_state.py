"""Checkpoints of gradient training: taken up by other runs, by other recipes, and refused where they do not fit."""

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch

from handful.bundle.manifest import sha256
from handful.v1.bundle_pb2 import Recipe
from handful.v1.worker_pb2 import Checkpoint, Claim
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.worker import networks
from services.trainer.worker.early_stopping import EarlyStopping
from services.trainer.worker.examples import Examples
from services.trainer.worker.optimisation import Optimiser
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.reporting import Reporter
from services.trainer.worker.training_state import Training, resume
from services.trainer.worker.weights import load_checkpoint
from services.trainer.worker.work import Diverged, WeightsMismatch, Work
from tests.unit.test_fine_tune import few, recipe
from tests.unit.test_fine_tuning import Attempt, Recorder, attempt, examples, figures, flat, train

__all__ = ["examples", "few"]
# Only its last blocks are trained, which is quick.
QUICK: dict[str, object] = {"freeze": "FIRST_BLOCKS", "frozen_blocks": 17, "schedule": "CONSTANT", "warmup_epochs": 0}
HEAD: dict[str, object] = {"freeze": "BODY", "schedule": "CONSTANT", "warmup_epochs": 0}


@dataclass(frozen=True)
class Kept:
    """A run that is over, as those that go on from it find it."""

    ended: Attempt
    store: FilesystemStore

    def changed(self, **entries: Any) -> Checkpoint:
        """Its last checkpoint with other entries, or, of None, without them."""
        state = self.ended.state(self.store) | entries
        path = self.store.folder / "changed.pt"
        torch.save({name: entry for name, entry in state.items() if entry is not None}, path)
        return self.stored(path.read_bytes())

    def stored(self, data: bytes) -> Checkpoint:
        key = f"projects/default/runs/r1/attempts/1/{sha256(data)}"
        self.store.put(key, data)
        return Checkpoint(key=key, sha256=sha256(data), epoch=self.ended.checkpoints[-1].epoch)

    def go_on(self, some: Examples, recipe: Recipe, checkpoint: Checkpoint | None = None, run: str = "r2") -> Attempt:
        """To the end of the recipe's epochs, in another run unless it is the same one."""
        claim = Claim(attempt=1, recipe=recipe, history=self.ended.history)
        claim.checkpoint.CopyFrom(checkpoint or self.ended.checkpoints[-1])
        return attempt(self.store, some, claim, recipe.num_epochs, run)


def notices(ended: Attempt) -> list[str]:
    return [event.notice.reason for event in ended.events if event.HasField("notice")]


def test_going_on_is_not_having_ended(store: FilesystemStore, few: Examples) -> None:
    """Two epochs, and two more in another run, leave what four in one run do, bit for bit."""
    straight = train(store, few, recipe(num_epochs=4, **QUICK), 4)
    kept = Kept(train(store, few, recipe(num_epochs=2, **QUICK), 2), store)
    more = kept.go_on(few, recipe(num_epochs=4, **QUICK))
    assert figures(more.history) == figures(straight.history)
    ours, theirs = flat(more.state(store)), flat(straight.state(store))
    assert [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)] == []


def test_the_recipe_rules_the_steps_to_come(store: FilesystemStore, few: Examples) -> None:
    """Step sizes, decay and momentum are those of the run that goes on; the optimiser's past is the other's."""
    kept = Kept(train(store, few, recipe(num_epochs=1, optimizer="SGD", **HEAD), 1), store)
    other = {"optimizer": "SGD", "momentum": 0.5, "weight_decay": 0.25, "head_learning_rate": 0.5}
    more = kept.go_on(few, recipe(num_epochs=2, **HEAD, **other))
    decaying, staying = more.state(store)["optimizer"]["param_groups"]
    assert (decaying["lr"], decaying["momentum"], decaying["weight_decay"]) == (0.5, 0.5, 0.25)
    assert staying["weight_decay"] == 0.0
    assert notices(more) == []


@pytest.mark.parametrize("other", [QUICK, {**HEAD, "optimizer": "SGD"}], ids=["other weights", "another rule"])
def test_an_optimiser_that_does_not_fit_begins_anew(
    store: FilesystemStore, few: Examples, other: dict[str, object]
) -> None:
    """A body that is thawed goes on from the head that was trained, and the run says what was not taken up."""
    kept = Kept(train(store, few, recipe(num_epochs=1, **HEAD), 1), store)
    still = {"learning_rate": 1e-8, "head_learning_rate": 1e-8} if other is QUICK else {"head_learning_rate": 1e-8}
    more = kept.go_on(few, recipe(num_epochs=2, **{**other, **still}))
    assert notices(more) == ["OPTIMIZER_ANEW"]
    before, after = kept.ended.state(store)["head"], more.state(store)["head"]
    assert torch.allclose(before["weight"], after["weight"], atol=1e-6)


def test_early_stopping_begins_anew(store: FilesystemStore, few: Examples) -> None:
    """A run that stopped early does not stop at once when it is gone on from."""
    patient = recipe(num_epochs=2, early_stopping_epochs=1, **HEAD)
    kept = Kept(train(store, few, patient, 2), store)
    stopping = kept.ended.state(store)["stopping"] | {"epoch": 1, "loss": 0.0}
    more = kept.go_on(few, recipe(num_epochs=3, early_stopping_epochs=1, **HEAD), kept.changed(stopping=stopping))
    assert [one.epoch for one in more.history] == [1, 2, 3]
    assert more.state(store)["stopping"]["epoch"] == 3


def test_checkpoints_of_older_releases_are_read(store: FilesystemStore, few: Examples) -> None:
    """What they did not write is done without: the same run goes on as from a newer one."""
    kept = Kept(train(store, few, recipe(num_epochs=1, **HEAD), 1), store)
    missing = dict.fromkeys(("stopping", "accelerator_random", "architecture", "labels"))
    two = recipe(num_epochs=2, **HEAD)
    old, new = (kept.go_on(few, two, checkpoint, "r1") for checkpoint in (kept.changed(**missing), None))
    assert figures(old.history) == figures(new.history)


def test_checkpoints_of_other_networks_are_refused(store: FilesystemStore, few: Examples) -> None:
    """Of another architecture, other classes or other shapes, without weights, or no checkpoint at all."""
    kept = Kept(train(store, few, recipe(num_epochs=1, **HEAD), 1), store)
    wider = {"weight": torch.zeros(2, 7), "bias": torch.zeros(2)}
    for wrong in (
        kept.changed(architecture="resnet18"),
        kept.changed(labels=["daisy", "rose"]),
        kept.changed(head=wider),
        kept.changed(head=None),
        kept.changed(optimizer={"state": {}}),
        kept.changed(body=kept.ended.state(store)["head"]),
        kept.changed(center=torch.zeros(7)),
        kept.changed(random=torch.zeros(7, dtype=torch.uint8)),
        kept.stored(b"no checkpoint"),
    ):
        with pytest.raises(WeightsMismatch, match="epoch 1 does not fit"):
            kept.go_on(few, recipe(num_epochs=2, **HEAD), wrong)
    with pytest.raises(WeightsMismatch):
        kept.go_on(replace(few, labels=("daisy", "rose")), recipe(num_epochs=2, **HEAD))


def test_what_a_device_raises_is_no_mismatch(store: FilesystemStore, few: Examples) -> None:
    """Weights of the right shapes that cannot be written are a fault of the machine, not of the checkpoint."""
    kept = Kept(train(store, few, recipe(num_epochs=1, **HEAD), 1), store)
    claim = Claim(attempt=1, recipe=recipe(num_epochs=2, **HEAD), training_run="projects/default/trainingRuns/r2")
    claim.checkpoint.CopyFrom(kept.ended.checkpoints[-1])
    reporter = cast("Reporter", Recorder(2))
    work = Work(claim, store, PretrainedWeights(store), reporter, threads=1, cache=store)
    network = networks.build(claim.recipe, work.weights, len(few.labels))
    training = Training(network, Optimiser(claim.recipe, network, 1), EarlyStopping(0))
    with torch.inference_mode():  # what is made in it cannot be written outside of it
        network.head = torch.nn.Linear(network.row.feature_width, len(few.labels))
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"):
        resume(work, training, few.labels)


def test_training_that_diverges_says_so_and_keeps_what_was_good(store: FilesystemStore, few: Examples) -> None:
    """Steps far too large end the run in the epoch in which they do, and no checkpoint holds what they left."""
    tame = {"architecture": "alexnet", "weights": "RANDOM", "optimizer": "SGD", "schedule": "CONSTANT"}
    kept = Kept(train(store, few, recipe(num_epochs=1, **tame), 1), store)
    wild = {"learning_rate": 1.0, "head_learning_rate": 1.0, "gradient_clip_norm": 0, "layer_decay": 1.0}
    before = set(store.keys("projects/default/runs/"))
    with pytest.raises(Diverged, match=r"The loss stopped being a number in epoch \d+. Try a smaller learning_rate"):
        kept.go_on(few, recipe(num_epochs=50, **tame, **wild))
    for key in set(store.keys("projects/default/runs/")) - before:
        state = load_checkpoint(store.get(key))
        assert all(bool(torch.isfinite(one).all()) for one in (*state["head"].values(), *state["body"].values()))
