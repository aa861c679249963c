"""What workers do to runs: claim, report, commit checkpoints; and what befalls those that fall silent."""

import asyncio
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from handful.errors import InvalidArgument, OutOfRange, Unavailable
from handful.v1 import trainer_pb2, worker_pb2
from handful.v1.bundle_pb2 import EpochMetrics, Metric
from handful.v1.trainer_pb2 import Failure, TrainingRun
from services.shared.objects import ObjectStore
from services.trainer import attempts, workers
from services.trainer.worker_servicer import POLL_SECONDS
from tests.playing_worker import (
    PROJECT,
    Hold,
    asking,
    bundle,
    cancel,
    claim,
    claim_briefly,
    create,
    epoch,
    events,
    lose,
    read,
    refusal,
    seal,
    sweep,
)
from tests.servers import DatasetService, TrainerService

GO_ON = worker_pb2.ReportTrainingRunResponse.DIRECTIVE_CONTINUE
CANCEL = worker_pb2.ReportTrainingRunResponse.DIRECTIVE_CANCEL


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
async def hold(trainer_service: TrainerService, version: str) -> Hold:
    """A run that the test trains: it is queued, running, and has begun its first attempt, which are three events."""
    await create(trainer_service, version)
    return await claim(trainer_service)


async def test_a_claim_has_all_that_a_worker_needs(trainer_service: TrainerService, version: str) -> None:
    """A claimed run is RUNNING in its first attempt, and comes with recipe, data, a token and who asked for it."""
    request = trainer_pb2.CreateTrainingRunRequest(parent=PROJECT, dataset=version)
    made = await trainer_service.trainer.CreateTrainingRun(request, metadata=(("x-request-id", "mine"),))
    run = made.training_run
    hold = await claim(trainer_service, "worker-7")
    expected = worker_pb2.Claim(
        training_run=run.name,
        attempt=1,
        token=hold.claim.token,
        lease_seconds=15,
        recipe=run.recipe,
        dataset_manifest_sha256=run.dataset_manifest_sha256,
        request_id="mine",
    )
    assert hold.claim == expected
    assert len(hold.claim.token) >= 32
    now = await read(trainer_service, run.name)
    assert (now.state, now.attempt, now.HasField("start_time")) == (TrainingRun.STATE_RUNNING, 1, True)
    *_, started = await events(trainer_service, run.name)
    assert started.attempt_started == trainer_pb2.AttemptStarted(worker_id="worker-7", device="cpu")


async def test_runs_are_claimed_in_the_order_they_were_asked_for(trainer_service: TrainerService, version: str) -> None:
    """The oldest run that waits is next; a run whose worker was lost waits where it stood."""
    runs = [(await create(trainer_service, version)).name for _ in range(3)]
    first = await claim(trainer_service)
    assert first.run == runs[0]
    await lose(trainer_service, first)
    assert [(await claim(trainer_service)).run for _ in runs] == runs


async def test_a_repeated_claim_gets_the_same_answer(trainer_service: TrainerService, version: str) -> None:
    """The same worker under the same claim_id gets the same run and token, however often; anyone else gets another."""
    for _ in range(3):
        await create(trainer_service, version)
    asked = (trainer_service.workers.ClaimTrainingRun(asking("worker-1", "claim-1"), timeout=5) for _ in range(10))
    answers = await asyncio.gather(*asked)
    assert all(answer == answers[0] for answer in answers)
    first = await read(trainer_service, answers[0].claim.training_run)
    assert (first.attempt, first.latest_sequence) == (1, 3)
    others = [await claim(trainer_service, "worker-1", "claim-2"), await claim(trainer_service, "worker-2", "claim-1")]
    assert len({first.name, *(other.run for other in others)}) == 3


async def test_a_repeated_claim_has_a_new_lease(trainer_service: TrainerService, version: str) -> None:
    """A worker whose first answer was lost, and that asks again as its lease ends, has as long as any to report."""
    await create(trainer_service, version)
    hold = await claim(trainer_service, "worker-1", "claim-1")
    async with trainer_service.database.write() as connection:
        await attempts.hold(connection, hold.grip, lease_seconds=0)
    assert (await claim(trainer_service, "worker-1", "claim-1")).claim == hold.claim
    assert await sweep(trainer_service) == []


async def test_no_two_workers_get_one_run(trainer_service: TrainerService, version: str) -> None:
    """However many ask at once, every run is given once."""
    runs = {(await create(trainer_service, version)).name for _ in range(8)}
    holds = await asyncio.gather(*(claim(trainer_service, f"worker-{number}") for number in range(8)))
    assert {hold.run for hold in holds} == runs


async def test_a_worker_that_waits_is_given_what_comes(trainer_service: TrainerService, version: str) -> None:
    """A claim with nothing to take waits, and is answered as soon as a run comes."""
    begin = time.monotonic()
    for _ in range(3):
        waiting = asyncio.create_task(claim(trainer_service))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        run = await create(trainer_service, version)
        assert (await waiting).run == run.name
    assert time.monotonic() - begin < 1.5 * POLL_SECONDS


async def test_a_drain_sends_workers_away(trainer_service: TrainerService) -> None:
    """A worker that waits at a trainer that stops is told to ask again."""
    waiting = asyncio.create_task(refusal(trainer_service.workers.ClaimTrainingRun(asking(), timeout=10)))
    await asyncio.sleep(0.05)
    trainer_service.server.draining.set()
    error = await waiting
    assert isinstance(error, Unavailable)
    assert error.reason == "SERVER_DRAINING"


@pytest.mark.parametrize("asked", [asking(""), worker_pb2.ClaimTrainingRunRequest(worker_id="worker-1")])
async def test_a_claim_says_who_asks(
    trainer_service: TrainerService, asked: worker_pb2.ClaimTrainingRunRequest
) -> None:
    """Without worker_id or claim_id there is no claim."""
    assert isinstance(await refusal(trainer_service.workers.ClaimTrainingRun(asked)), InvalidArgument)


async def test_a_report_becomes_events_and_figures(trainer_service: TrainerService, hold: Hold) -> None:
    """Events get their sequence and attempt from the trainer, and the run shows the last epoch with its figures."""
    lying = epoch(2)
    lying.sequence, lying.attempt = 77, 9
    answer = await hold.report(epoch(1), lying)
    assert (answer.committed_worker_sequence, answer.directive) == (2, GO_ON)
    *_, last = await events(trainer_service, hold.run)
    assert (last.sequence, last.attempt, last.epoch) == (5, 1, 2)
    assert last.HasField("time")
    run = await read(trainer_service, hold.run)
    assert (run.epoch, list(run.metrics), run.latest_sequence) == (2, [Metric(name="train/loss", value=0.5)], 5)


async def test_what_was_reported_before_is_taken_silently(trainer_service: TrainerService, hold: Hold) -> None:
    """Reports that come again, wholly or in part, add nothing twice."""
    numbered = [(number, epoch(number)) for number in range(1, 6)]
    committed = [
        (await hold.send(sent)).committed_worker_sequence
        for sent in (numbered[:3], numbered[:3], numbered[1:2], numbered[1:5], [], numbered)
    ]
    assert committed == [3, 3, 3, 5, 5, 5]
    told = await events(trainer_service, hold.run)
    assert [event.sequence for event in told] == list(range(1, 9))
    assert [event.epoch for event in told[3:]] == [1, 2, 3, 4, 5]
    assert (await read(trainer_service, hold.run)).epoch == 5


@pytest.mark.parametrize("numbers", [[4], [4, 5], [3, 5], [3, 4, 6], [1, 2, 3, 5]], ids=str)
async def test_a_gap_in_a_report_says_what_is_expected(
    trainer_service: TrainerService, hold: Hold, numbers: list[int]
) -> None:
    """After a gap nothing is taken; whoever then sends on from `expected` is understood."""
    await hold.report(epoch(1), epoch(2))
    before = await read(trainer_service, hold.run)
    error = await refusal(hold.send([(number, epoch(number)) for number in numbers]))
    assert isinstance(error, OutOfRange)
    assert error.reason == "SEQUENCE_GAP"
    assert await read(trainer_service, hold.run) == before
    expected = int(error.facts["expected"])
    answer = await hold.send([(number, epoch(number)) for number in range(expected, 7)])
    assert answer.committed_worker_sequence == 6


async def test_a_report_is_limited(hold: Hold) -> None:
    """A hundred events are one report; one more is INVALID_ARGUMENT."""
    await hold.report(*(epoch(number) for number in range(1, 101)))
    error = await refusal(hold.report(*(epoch(number) for number in range(101, 202))))
    assert isinstance(error, InvalidArgument)
    assert "at most 100" in error.message


async def test_a_worker_hears_that_its_run_is_to_stop(trainer_service: TrainerService, hold: Hold) -> None:
    """Once someone cancels, every report is answered with CANCEL, until the worker finishes as cancelled."""
    assert (await hold.report(epoch(1))).directive == GO_ON
    await cancel(trainer_service, hold.run)
    assert [(await hold.report(*new)).directive for new in ([epoch(2)], [])] == [CANCEL, CANCEL]
    await hold.stop()
    run = await read(trainer_service, hold.run)
    assert (run.state, run.epoch, run.model_version) == (TrainingRun.STATE_CANCELLED, 2, "")


async def test_a_late_worker_that_was_not_missed_still_holds_its_run(
    trainer_service: TrainerService, store: ObjectStore, version: str
) -> None:
    """A lease whose time is over ends when the trainer ends it, not before: living workers survive an outage."""
    await create(trainer_service, version)
    hold = await claim_briefly(trainer_service)
    await asyncio.sleep(0.01)
    await hold.report(epoch(1))
    assert await sweep(trainer_service) == []
    await hold.succeed(bundle(store))
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_SUCCEEDED


async def test_a_lost_run_goes_on_from_its_checkpoint(
    trainer_service: TrainerService, store: ObjectStore, version: str
) -> None:
    """When a worker is lost its run waits, and the next attempt begins after the checkpoint: later epochs are void."""
    run = await create(trainer_service, version)
    first = await claim_briefly(trainer_service)
    await first.report(epoch(1), epoch(2))
    saved = first.checkpoint(store, 2)
    await first.commit(saved)
    await first.report(epoch(3), epoch(4))
    await lose(trainer_service, first)
    assert (await read(trainer_service, run.name)).state == TrainingRun.STATE_RECOVERING

    second = await claim(trainer_service, "worker-2")
    assert (second.run, second.claim.attempt, second.claim.checkpoint) == (run.name, 2, saved)
    assert second.claim.token != first.claim.token
    kept = [EpochMetrics(epoch=number, metrics=epoch(number).epoch_completed.metrics) for number in (1, 2)]
    assert list(second.claim.history) == kept
    now = await read(trainer_service, run.name)
    assert (now.state, now.attempt, now.epoch, list(now.metrics)) == (
        TrainingRun.STATE_RUNNING,
        2,
        2,
        list(kept[1].metrics),
    )
    recovering, running, started = (await events(trainer_service, run.name))[-3:]
    assert (recovering.state_changed.state, recovering.attempt) == (TrainingRun.STATE_RECOVERING, 1)
    assert running.state_changed.state == TrainingRun.STATE_RUNNING
    assert started.attempt == 2
    assert started.attempt_started.resumed_after_epoch == 2
    await second.report(epoch(3))
    assert (await read(trainer_service, run.name)).epoch == 3


async def test_a_lost_run_without_a_checkpoint_begins_anew(trainer_service: TrainerService, version: str) -> None:
    """With nothing to continue from, every epoch is void."""
    run = await create(trainer_service, version)
    first = await claim_briefly(trainer_service)
    await first.report(epoch(1))
    before = await read(trainer_service, run.name)
    await lose(trainer_service, first)
    second = await claim(trainer_service)
    assert (list(second.claim.history), second.claim.HasField("checkpoint")) == ([], False)
    now = await read(trainer_service, run.name)
    assert (now.epoch, list(now.metrics), now.start_time) == (0, [], before.start_time)


async def test_a_worker_that_ends_a_long_run_is_there(trainer_service: TrainerService, hold: Hold) -> None:
    """Between the end of a run of minutes and its next question a worker does not count as gone."""
    async with trainer_service.database.write() as connection:
        await connection.execute(sa.text("UPDATE workers SET seen_us = seen_us - 3600000000"))
    await hold.fail()
    async with trainer_service.database.write() as connection:
        await workers.forget(connection)
        assert [known.device for known in await workers.known(connection)] == ["cpu"]


async def test_a_run_that_loses_three_workers_has_failed(trainer_service: TrainerService, version: str) -> None:
    """The third loss is the last: FAILED, WORKER_LOST, with words."""
    run = await create(trainer_service, version)
    for attempt in (1, 2, 3):
        hold = await claim_briefly(trainer_service)
        assert hold.claim.attempt == attempt
        await lose(trainer_service, hold)
    ended = await read(trainer_service, run.name)
    assert (ended.state, ended.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_WORKER_LOST)
    assert ended.failure.message
    assert ended.HasField("finish_time")
    assert await sweep(trainer_service) == []


async def test_a_lost_run_that_was_to_stop_is_cancelled(trainer_service: TrainerService, version: str) -> None:
    """A worker that is lost before it heard that it should stop takes the run with it."""
    run = await create(trainer_service, version)
    hold = await claim_briefly(trainer_service)
    await cancel(trainer_service, run.name)
    await lose(trainer_service, hold)
    ended = await read(trainer_service, run.name)
    assert (ended.state, ended.HasField("finish_time")) == (TrainingRun.STATE_CANCELLED, True)
