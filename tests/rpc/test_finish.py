"""How runs end: with a bundle that is looked at before it is published, or without one; once, however often told."""

import asyncio
from collections.abc import Callable

import pytest

from handful.bundle import manifest
from handful.errors import FailedPrecondition, InvalidArgument
from handful.v1 import model_pb2
from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import Failure, TrainingRun
from services.shared.objects.filesystem import FilesystemStore
from tests.playing_worker import (
    PROJECT,
    Hold,
    answer,
    bundle,
    cancel,
    changed,
    claim,
    create,
    epoch,
    events,
    lose,
    mended,
    read,
    refusal,
    removed,
    seal,
    unreadable,
)
from tests.servers import DatasetService, TrainerService


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
async def hold(trainer_service: TrainerService, version: str) -> Hold:
    await create(trainer_service, version)
    return await claim(trainer_service)


async def test_what_was_left_open_is_settled_with_the_model(
    trainer_service: TrainerService, version: str, store: FilesystemStore
) -> None:
    """A run lost before its model is there chooses again; with the model its recipe names what made it."""
    run = await create(trainer_service, version, recipe=Recipe(preset="quality"))
    await lose(trainer_service, await claim(trainer_service))
    second = await claim(trainer_service)
    assert second.claim.recipe.architecture == "auto"
    for recipe in (None, run.recipe):
        error = await refusal(second.succeed(bundle(store, recipe=recipe)))
        assert (error.reason, (await read(trainer_service, run.name)).recipe) == ("BUNDLE_INCOMPLETE", run.recipe)
    settled = Recipe(preset="quality", architecture="efficientnet_lite1")
    await second.succeed(bundle(store, recipe=settled))
    ended = await read(trainer_service, run.name)
    assert (ended.state, ended.recipe) == (TrainingRun.STATE_SUCCEEDED, settled)
    (told,) = [one for one in await events(trainer_service, run.name) if one.HasField("recipe_settled")]
    assert (told.attempt, told.recipe_settled.recipe) == (2, settled)
    request = model_pb2.GetModelVersionRequest(name=ended.model_version)
    assert (await trainer_service.models.GetModelVersion(request)).model_version.recipe == settled


@pytest.mark.parametrize(
    ("damage", "expected"),
    [(changed, "DATA_LOSS"), (removed, "FAILED_PRECONDITION"), (unreadable, "UNAVAILABLE")],
    ids=["changed", "removed", "unreadable"],
)
async def test_a_bundle_is_looked_at_before_it_is_published(
    trainer_service: TrainerService,
    store: FilesystemStore,
    hold: Hold,
    damage: Callable[[FilesystemStore, str], None],
    expected: str,
) -> None:
    """A bundle of which a file is missing, damaged or out of reach is not published; once it is mended, it is."""
    digest = bundle(store)
    before = await read(trainer_service, hold.run)
    answers = {}
    for path in ("manifest.json", "evaluation.json", "head.safetensors"):
        key = manifest.bundle_key("default", digest, path)
        data = store.get(key)
        damage(store, key)
        answers[path] = (await answer(hold.succeed(digest))).split()[0]
        mended(store, key, data)
    assert answers == dict.fromkeys(answers, expected)
    assert await read(trainer_service, hold.run) == before
    await hold.succeed(digest)
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_SUCCEEDED


async def test_a_bundle_is_named_by_a_hash(hold: Hold) -> None:
    """What is no SHA-256 in lower-case hex is INVALID_ARGUMENT."""
    wrong = ("", "../default", "0" * 63, "A" * 64, f"{'0' * 64}/x")
    answers = {digest: await answer(hold.succeed(digest)) for digest in wrong}
    assert answers == dict.fromkeys(wrong, "INVALID_ARGUMENT INVALID_REQUEST")


async def test_what_is_no_bundle_is_not_published(
    trainer_service: TrainerService, store: FilesystemStore, hold: Hold
) -> None:
    """An object that is no manifest, or of a later release, a bundle without evaluation, and an end without outcome
    end nothing.
    """
    digests = {bundle(store, without="evaluation.json"): "BUNDLE_INCOMPLETE"}
    for data, reason in ((b"no manifest", "BUNDLE_INCOMPLETE"), (b'{"format":"handful.model/99"}', "BUNDLE_UNKNOWN")):
        store.put(manifest.bundle_key("default", manifest.sha256(data), "manifest.json"), data)
        digests[manifest.sha256(data)] = reason
    for digest, reason in digests.items():
        error = await refusal(hold.succeed(digest))
        assert isinstance(error, FailedPrecondition)
        assert error.reason == reason
    assert isinstance(await refusal(hold.finish()), InvalidArgument)
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_RUNNING


@pytest.mark.parametrize("outcome", ["SUCCEEDED", "FAILED", "CANCELLED"])
async def test_an_end_may_be_repeated(
    trainer_service: TrainerService, store: FilesystemStore, hold: Hold, outcome: str
) -> None:
    """Whoever ended a run may say so again, at once or later: it ended once, and nothing else may be written."""
    digest = bundle(store)
    end = {"SUCCEEDED": lambda: hold.succeed(digest), "FAILED": hold.fail, "CANCELLED": hold.stop}[outcome]
    await asyncio.gather(*(end() for _ in range(5)))
    await end()
    run = await read(trainer_service, hold.run)
    assert run.state == TrainingRun.State.Value(f"STATE_{outcome}")
    assert run.latest_sequence == 4
    assert run.model_version == (f"{PROJECT}/models/flowers/versions/1" if outcome == "SUCCEEDED" else "")
    if outcome == "FAILED":
        assert run.failure == Failure(reason=Failure.REASON_DIVERGED, message="The loss is no number.")
    assert await answer(hold.report(epoch(1))) == "ABORTED LEASE_LOST"
    assert await answer(hold.commit(hold.checkpoint(store, 1))) == "ABORTED LEASE_LOST"
    assert await read(trainer_service, hold.run) == run


async def test_a_run_may_succeed_though_it_was_to_stop(
    trainer_service: TrainerService, store: FilesystemStore, hold: Hold
) -> None:
    """A worker that was done before it heard of the cancellation publishes what it has."""
    await cancel(trainer_service, hold.run)
    await hold.succeed(bundle(store))
    run = await read(trainer_service, hold.run)
    assert (run.state, run.model_version) == (
        TrainingRun.STATE_SUCCEEDED,
        f"{PROJECT}/models/flowers/versions/1",
    )


async def test_a_run_that_is_handed_back_is_anothers_at_once(
    trainer_service: TrainerService, store: FilesystemStore, hold: Hold
) -> None:
    """A worker that has to go gives its run back: the next goes on from the checkpoint, and no loss is counted."""
    await hold.report(epoch(1), epoch(2))
    saved = hold.checkpoint(store, 1)
    await hold.commit(saved)
    for attempt in range(2, 7):
        waiting = asyncio.create_task(claim(trainer_service, f"worker-{attempt}"))
        await hold.release()
        hold = await waiting
        assert (hold.claim.attempt, hold.claim.checkpoint) == (attempt, saved)
        assert (await read(trainer_service, hold.run)).epoch == 1
    await hold.succeed(bundle(store))
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_SUCCEEDED


async def test_a_run_may_be_handed_back_twice(trainer_service: TrainerService, hold: Hold) -> None:
    """Whoever handed a run back may say so again while it waits: it was handed back once."""
    for _ in range(2):
        await hold.release()
    run = await read(trainer_service, hold.run)
    assert (run.state, run.latest_sequence) == (TrainingRun.STATE_RECOVERING, 4)


async def test_a_run_that_was_to_stop_is_not_handed_on(trainer_service: TrainerService, hold: Hold) -> None:
    """A run that someone cancelled ends when its worker hands it back, however often it says so."""
    await cancel(trainer_service, hold.run)
    for _ in range(2):
        await hold.release()
    run = await read(trainer_service, hold.run)
    assert (run.state, run.latest_sequence) == (TrainingRun.STATE_CANCELLED, 5)
