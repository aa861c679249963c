"""Who may write to a run: the attempt that holds it, and nobody else. And what its checkpoints and its end must be."""

from collections.abc import Awaitable, Callable

import pytest

from handful.bundle import manifest
from handful.errors import DataLoss, FailedPrecondition, HandfulError, InvalidArgument, Unavailable
from handful.v1.trainer_pb2 import TrainingRun
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
    read,
    refusal,
    removed,
    seal,
    unreadable,
)
from tests.servers import DatasetService, TrainerService

Situation = Callable[[TrainerService, Hold, FilesystemStore], Awaitable[Hold]]


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
async def hold(trainer_service: TrainerService, version: str) -> Hold:
    await create(trainer_service, version)
    return await claim(trainer_service)


async def writes(hold: Hold, store: FilesystemStore) -> dict[str, str]:
    """How each kind of write ends."""
    return {
        "heartbeat": await answer(hold.report()),
        "report": await answer(hold.report(epoch(1))),
        "commit": await answer(hold.commit(hold.checkpoint(store, 9))),
        "succeed": await answer(hold.succeed(bundle(store))),
        "fail": await answer(hold.fail()),
        "stop": await answer(hold.stop()),
    }


async def wrong_token(_: TrainerService, hold: Hold, _store: FilesystemStore) -> Hold:
    return hold.forged(token="f" * 32)


async def no_token(_: TrainerService, hold: Hold, _store: FilesystemStore) -> Hold:
    return hold.forged(token="")


async def attempt_to_come(_: TrainerService, hold: Hold, _store: FilesystemStore) -> Hold:
    return hold.forged(attempt=2)


async def no_such_run(_: TrainerService, hold: Hold, _store: FilesystemStore) -> Hold:
    return hold.forged(run=f"{PROJECT}/trainingRuns/1")


async def lost(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    await lose(service, hold)
    return hold


async def lost_and_replaced(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    await lose(service, hold)
    await (await claim(service, "worker-2")).report(epoch(1))
    return hold


async def lost_and_cancelled(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    await lose(service, hold)
    await cancel(service, hold.run)
    return hold


async def lost_while_cancelling(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    await cancel(service, hold.run)
    await lose(service, hold)
    return hold


async def lost_for_the_last_time(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    for _attempt in range(2):
        await lose(service, hold)
        hold = await claim(service)
    await lose(service, hold)
    return hold


async def handed_back(_: TrainerService, hold: Hold, _store: FilesystemStore) -> Hold:
    await hold.release()
    return hold


async def handed_back_and_cancelled(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    await hold.release()
    await cancel(service, hold.run)
    return hold


async def handed_back_and_replaced(service: TrainerService, hold: Hold, _: FilesystemStore) -> Hold:
    await hold.release()
    await claim(service, "worker-2")
    return hold


async def wrong_token_after_the_end(_: TrainerService, hold: Hold, store: FilesystemStore) -> Hold:
    await hold.succeed(bundle(store))
    return hold.forged(token="f" * 32)


SITUATIONS: tuple[Situation, ...] = (
    wrong_token,
    no_token,
    attempt_to_come,
    no_such_run,
    lost,
    lost_and_replaced,
    lost_and_cancelled,
    lost_while_cancelling,
    lost_for_the_last_time,
    handed_back,
    handed_back_and_cancelled,
    handed_back_and_replaced,
    wrong_token_after_the_end,
)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
async def test_who_does_not_hold_a_run_changes_nothing(
    trainer_service: TrainerService, store: FilesystemStore, hold: Hold, situation: Situation
) -> None:
    """Every write of a worker that does not hold the run is ABORTED with LEASE_LOST, and leaves no trace."""
    stale = await situation(trainer_service, hold, store)
    before = await read(trainer_service, hold.run), await events(trainer_service, hold.run)
    answers = await writes(stale, store)
    assert answers == dict.fromkeys(answers, "ABORTED LEASE_LOST")
    assert (await read(trainer_service, hold.run), await events(trainer_service, hold.run)) == before
    published = bool(list(store.keys(manifest.pointer_key("default"))))
    assert published == (before[0].state == TrainingRun.STATE_SUCCEEDED)


async def test_an_older_checkpoint_never_replaces_a_newer_one(
    trainer_service: TrainerService, store: FilesystemStore, hold: Hold
) -> None:
    """Commits may come again or late: the newest epoch counts, and every checkpoint that counted is told once."""
    saved = {number: hold.checkpoint(store, number) for number in (2, 3, 5)}
    for number in (3, 3, 2, 5, 3, 5):
        await hold.commit(saved[number])
    told = [event for event in await events(trainer_service, hold.run) if event.HasField("checkpoint_saved")]
    assert [(event.epoch, event.checkpoint_saved.sha256) for event in told] == [
        (3, saved[3].sha256),
        (5, saved[5].sha256),
    ]
    await lose(trainer_service, hold)
    second = await claim(trainer_service)
    assert second.claim.checkpoint == saved[5]
    await second.commit(second.checkpoint(store, 4))
    await lose(trainer_service, second)
    assert (await claim(trainer_service)).claim.checkpoint == saved[5]


async def test_a_checkpoint_lies_below_its_attempt(store: FilesystemStore, hold: Hold) -> None:
    """A key that is not below the attempt's own prefix is INVALID_ARGUMENT, however it gets there."""
    run = hold.grip.key.run
    own = f"projects/default/runs/{run}/attempts/1"
    outside = (
        f"projects/default/runs/{run}/attempts/2/state",
        f"projects/default/runs/{run}/attempts/11/state",
        "projects/default/runs/other/attempts/1/state",
        f"projects/elsewhere/runs/{run}/attempts/1/state",
        f"{own}/../2/state",
        f"{own}//state",
        f"{own}/",
        own,
        f"/{own}/state",
        "",
    )
    made = hold.checkpoint(store, 1)
    answers = {}
    for key in outside:
        made.key = key
        answers[key] = await answer(hold.commit(made))
    assert answers == dict.fromkeys(outside, "INVALID_ARGUMENT INVALID_REQUEST")


@pytest.mark.parametrize("number", [0, -1])
async def test_a_checkpoint_is_of_an_epoch(store: FilesystemStore, hold: Hold, number: int) -> None:
    """There is no checkpoint before the first epoch."""
    assert isinstance(await refusal(hold.commit(hold.checkpoint(store, number))), InvalidArgument)


DAMAGES: list[tuple[Callable[[FilesystemStore, str], None], type[HandfulError], str]] = [
    (changed, DataLoss, "BLOB_CORRUPT"),
    (removed, FailedPrecondition, "OBJECT_MISSING"),
    (unreadable, Unavailable, "DEPENDENCY_DOWN"),
]
damages = pytest.mark.parametrize(("damage", "kind", "reason"), DAMAGES, ids=[one[0].__name__ for one in DAMAGES])


@damages
async def test_a_checkpoint_is_looked_at_before_it_counts(
    trainer_service: TrainerService,
    store: FilesystemStore,
    hold: Hold,
    damage: Callable[[FilesystemStore, str], None],
    kind: type[HandfulError],
    reason: str,
) -> None:
    """A checkpoint that is not there, not what its hash says, or cannot be read now, does not count."""
    good, bad = hold.checkpoint(store, 1), hold.checkpoint(store, 2)
    await hold.commit(good)
    damage(store, bad.key)
    before = await read(trainer_service, hold.run)
    error = await refusal(hold.commit(bad))
    assert isinstance(error, kind)
    assert error.reason == reason
    assert await read(trainer_service, hold.run) == before
    await lose(trainer_service, hold)
    assert (await claim(trainer_service)).claim.checkpoint == good
