"""Data that cannot be divided into folds, on a real worker: the run says so, and succeeds without them."""

import pytest

from handful.bundle.manifest import from_bytes
from handful.recipe import recipe
from handful.v1.bundle_pb2 import ModelManifest
from handful.v1.trainer_pb2 import TrainingRun, WatchTrainingRunRequest
from services.shared.objects.filesystem import FilesystemStore
from tests.playing_worker import create
from tests.rpc.test_gradient_ends import databases, version, work
from tests.servers import TrainerService

__all__ = ["databases", "version"]


@pytest.mark.parametrize("head", ["AUTO", "LDA"])
async def test_a_class_smaller_than_the_folds_is_named(
    trainer_service: TrainerService, store: FilesystemStore, version: str, head: str
) -> None:
    """Of a class with a single training example there is no cross-validation: a notice names it and what is needed."""
    await create(trainer_service, version, recipe=recipe({"preset": "fast", "head": head}))
    run = await work(trainer_service, store)
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.failure
    watched = trainer_service.trainer.WatchTrainingRun(WatchTrainingRunRequest(name=run.name, after_sequence=0))
    told = {one.event.notice.reason: one.event.notice.message async for one in watched}
    assert "it needs 2 different training examples of every class, and" in told["NOT_CROSS_VALIDATED"]
    assert "has 1." in told["NOT_CROSS_VALIDATED"]
    assert ("HEAD_FALLBACK" in told) == (head == "LDA")
    # What validates is all that promises can be made by.
    bundle = next(path for path in store.keys("projects/default/bundles/") if path.endswith("/manifest.json"))
    made = from_bytes(ModelManifest, store.get(bundle))
    assert made.error_control.num_groups == sum(one.num_val for one in made.examples) > 0
