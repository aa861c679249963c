"""What workers do to runs, in SQL: claim, report, commit a checkpoint, finish; and what befalls a worker that is lost.

Every write of a worker is fenced by (run, attempt, token) in the statement that writes. A lease is ended by `expire`
alone, on the database's clock, which all replicas share: a worker that outlived an outage still holds its run.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.errors import Aborted, FailedPrecondition, OutOfRange
from handful.history import History
from handful.v1.bundle_pb2 import EpochMetrics, Notice, Recipe
from handful.v1.trainer_pb2 import (
    AttemptStarted,
    CheckpointSaved,
    Failure,
    Progress,
    RecipeSettled,
    TrainingRun,
    TrainingRunEvent,
)
from handful.v1.worker_pb2 import Checkpoint, WorkerEvent
from services.shared.database import alone, clock
from services.trainer import events, runs, workers
from services.trainer.records import CLAIMED, TERMINAL, WAITING, Grip, RunKey, RunRecord
from services.trainer.sound_architectures import AUTO
from services.trainer.tables import training_runs

# A run whose workers were lost this often is given up.
MAX_LOST = 3


async def claim(
    connection: AsyncConnection,
    worker_id: str,
    claim_id: str,
    device: str,
    lease_seconds: float,
    suits: Callable[[RunRecord], bool],
) -> RunRecord | None:
    """The run of this claim, under a new lease: the one it got before, or the oldest that waits and suits; None where
    there is none.
    """
    await alone(connection, "claim", worker_id, claim_id)
    mine = sa.and_(training_runs.c.worker_id == worker_id, training_runs.c.claim_id == claim_id)
    held = await _first(connection, sa.select(training_runs).where(mine, training_runs.c.state.in_(CLAIMED)))
    if held is not None:
        await hold(connection, Grip(held.key, held.attempt, held.token or ""), lease_seconds)
        return held
    order = (training_runs.c.create_time_us, training_runs.c.run)
    waiting = sa.select(training_runs).where(training_runs.c.state.in_(WAITING)).order_by(*order)
    for row in (await connection.execute(waiting)).all():
        run = await _take(connection, row) if suits(runs.record(row)) else None
        if run is not None:
            return await _start(connection, run, worker_id, claim_id, device, lease_seconds)
    return None


async def _take(connection: AsyncConnection, row: sa.Row[tuple[object, ...]]) -> RunRecord | None:
    """The run of a row that was read, locked; None where it does not wait any more, or another is about to take it."""
    same = runs.of(RunKey(row.project, row.run))
    query = sa.select(training_runs).where(same, training_runs.c.state.in_(WAITING))
    return await _first(connection, query.with_for_update(skip_locked=True))


async def _start(
    connection: AsyncConnection, run: RunRecord, worker_id: str, claim_id: str, device: str, lease_seconds: float
) -> RunRecord:
    resumed = run.checkpoint.epoch if run.checkpoint else 0
    attempt = run.attempt + 1
    kept = [one for one in await history(connection, run.key) if one.epoch == resumed]
    await connection.execute(
        sa.update(training_runs)
        .where(runs.of(run.key))
        .values(
            state=TrainingRun.STATE_RUNNING,
            attempt=attempt,
            token=secrets.token_hex(16),
            claim_id=claim_id,
            worker_id=worker_id,
            lease_expires_us=_expiry(connection, lease_seconds),
            committed_worker_sequence=0,
            epoch=resumed,
            metrics=_pairs(kept[0]) if kept else [],
            start_time_us=sa.func.coalesce(training_runs.c.start_time_us, clock(connection)),
        )
    )
    started = AttemptStarted(resumed_after_epoch=resumed, worker_id=worker_id, device=device)
    running = runs.state_changed(TrainingRun.STATE_RUNNING, attempt)
    await events.append(connection, run.key, running, TrainingRunEvent(attempt=attempt, attempt_started=started))
    return await runs.get(connection, run.key)


async def history(connection: AsyncConnection, key: RunKey) -> list[EpochMetrics]:
    """The epochs of a run that count so far."""
    return History(await events.after(connection, key, 0)).epochs


async def notices(connection: AsyncConnection, key: RunKey) -> list[Notice]:
    """What the attempts at a run noted so far."""
    return [event.notice for event in await events.after(connection, key, 0) if event.HasField("notice")]


async def report(
    connection: AsyncConnection,
    grip: Grip,
    reported: Sequence[WorkerEvent],
    lease_seconds: float,
    progress: Progress | None = None,
) -> tuple[int, RunRecord]:
    """Takes events and progress and renews the lease: up to where events are durable now, and the run."""
    committed = await hold(connection, grip, lease_seconds)
    fresh = [one for one in reported if one.worker_sequence > committed]
    for sequence, one in enumerate(fresh, start=committed + 1):
        if one.worker_sequence != sequence:
            raise OutOfRange(
                f"Events up to {committed} are here; send on from {committed + 1}.",
                reason="SEQUENCE_GAP",
                facts={"expected": str(committed + 1)},
            )
        one.event.attempt = grip.attempt
    values: dict[str, object] = {"committed_worker_sequence": committed + len(fresh)}
    if progress is not None:
        values |= {"progress": progress.SerializeToString()}
    epochs = [one.event for one in fresh if one.event.WhichOneof("event") == "epoch_completed"]
    if epochs:
        latest = EpochMetrics(epoch=epochs[-1].epoch, metrics=epochs[-1].epoch_completed.metrics)
        values |= {"epoch": latest.epoch, "metrics": _pairs(latest)}
    settled = [one.event.recipe_settled.recipe for one in fresh if one.event.HasField("recipe_settled")]
    if settled:
        values |= {"recipe": settled[-1].SerializeToString()}
    await connection.execute(sa.update(training_runs).where(_fence(grip)).values(values))
    await events.append(connection, grip.key, *(one.event for one in fresh))
    return committed + len(fresh), await runs.get(connection, grip.key)


async def commit_checkpoint(
    connection: AsyncConnection, grip: Grip, checkpoint: Checkpoint, lease_seconds: float
) -> None:
    """Makes the checkpoint the one to continue from, unless a newer one is."""
    await hold(connection, grip, lease_seconds)
    newer = sa.func.coalesce(training_runs.c.checkpoint_epoch, 0) < checkpoint.epoch
    changed = await connection.execute(
        sa.update(training_runs)
        .where(_fence(grip), newer)
        .values(checkpoint_key=checkpoint.key, checkpoint_sha256=checkpoint.sha256, checkpoint_epoch=checkpoint.epoch)
    )
    if changed.rowcount:
        saved = CheckpointSaved(sha256=checkpoint.sha256)
        event = TrainingRunEvent(attempt=grip.attempt, epoch=checkpoint.epoch, checkpoint_saved=saved)
        await events.append(connection, grip.key, event)


async def settle(connection: AsyncConnection, grip: Grip, recipe: Recipe, made_by: Recipe) -> Recipe:
    """The recipe of a run whose model is there: of an architecture that it left open the one that the model was made by
    counts from now on, which an event says. FailedPrecondition where that leaves it open too.
    """
    if recipe.architecture != AUTO:
        return recipe
    if made_by.architecture in ("", AUTO):
        raise FailedPrecondition("The bundle does not say which architecture it has.", reason="BUNDLE_INCOMPLETE")
    row = sa.update(training_runs).where(_fence(grip)).values(recipe=made_by.SerializeToString())
    await connection.execute(row)
    settled = RecipeSettled(recipe=made_by)
    await events.append(connection, grip.key, TrainingRunEvent(attempt=grip.attempt, recipe_settled=settled))
    return made_by


async def finish(
    connection: AsyncConnection,
    grip: Grip,
    state: "TrainingRun.State.ValueType",
    **values: object,
) -> None:
    """Ends the run that the worker holds, with what came of it. The worker was heard, though it may have asked for no
    work for long.
    """
    await hold(connection, grip, 0)
    run = await runs.get(connection, grip.key)
    await workers.heard(connection, run.worker_id or "")
    await runs.change_state(connection, run, state, **values)


async def release(connection: AsyncConnection, grip: Grip) -> None:
    """Hands the run that the worker holds back: it waits again, at once, and the attempt does not count as lost."""
    await hold(connection, grip, 0)
    run = await runs.get(connection, grip.key)
    cancelling = run.state == TrainingRun.STATE_CANCELLING
    state = TrainingRun.STATE_CANCELLED if cancelling else TrainingRun.STATE_RECOVERING
    await runs.change_state(connection, run, state)


async def is_over(connection: AsyncConnection, grip: Grip, *, released: bool) -> bool:
    """Whether this very attempt ended the run already, or handed it back: its answer was lost, and it asks again."""
    over = (*WAITING, TrainingRun.STATE_CANCELLED) if released else TERMINAL
    mine = sa.and_(training_runs.c.attempt == grip.attempt, training_runs.c.token == grip.token)
    query = sa.select(training_runs.c.state).where(runs.of(grip.key), mine)
    return (await connection.execute(query)).scalar_one_or_none() in over


async def expire(connection: AsyncConnection) -> list[RunKey]:
    """Ends the leases that ran out: the runs wait again, are cancelled, or have failed too often. Which runs."""
    lost = training_runs.c.lease_expires_us < clock(connection)
    query = sa.select(training_runs).where(training_runs.c.state.in_(CLAIMED), lost)
    # Whoever has a row locked is about to renew its lease, or to end it.
    rows = await connection.execute(query.with_for_update(skip_locked=True))
    expired = [runs.record(row) for row in rows]
    for run in expired:
        lost_now = {"token": None, "num_lost": run.num_lost + 1}
        if run.state == TrainingRun.STATE_CANCELLING:
            await runs.change_state(connection, run, TrainingRun.STATE_CANCELLED, **lost_now)
        elif run.num_lost + 1 >= MAX_LOST:
            message = (
                f"{run.num_lost + 1} workers took this run and were lost. Their logs, or the node's, should say why."
            )
            failure = Failure(reason=Failure.REASON_WORKER_LOST, message=message)
            await runs.change_state(
                connection, run, TrainingRun.STATE_FAILED, failure=failure.SerializeToString(), **lost_now
            )
        else:
            await runs.change_state(connection, run, TrainingRun.STATE_RECOVERING, **lost_now)
    return [run.key for run in expired]


async def holders(connection: AsyncConnection, workers: str) -> list[str]:
    """The workers that hold a run, of those whose ids begin like this."""
    theirs = training_runs.c.worker_id.startswith(workers, autoescape=True)
    query = sa.select(training_runs.c.worker_id).where(training_runs.c.state.in_(CLAIMED), theirs)
    return list((await connection.execute(query)).scalars())


async def hold(connection: AsyncConnection, grip: Grip, lease_seconds: float) -> int:
    """Renews the lease; Aborted where the worker does not hold the run any more. What it has committed."""
    held = await connection.execute(
        sa.update(training_runs)
        .where(_fence(grip))
        .values(lease_expires_us=_expiry(connection, lease_seconds))
        .returning(training_runs.c.committed_worker_sequence)
    )
    committed = held.scalar_one_or_none()
    if committed is None:
        raise Aborted("Another worker has this run, or it is over. Drop it.", reason="LEASE_LOST")
    return int(committed)


def _fence(grip: Grip) -> sa.ColumnElement[bool]:
    return sa.and_(
        runs.of(grip.key),
        training_runs.c.attempt == grip.attempt,
        training_runs.c.token == grip.token,
        training_runs.c.state.in_(CLAIMED),
    )


async def _first(connection: AsyncConnection, query: sa.Select[tuple[object, ...]]) -> RunRecord | None:
    row = (await connection.execute(query)).first()
    return runs.record(row) if row is not None else None


def _expiry(connection: AsyncConnection, lease_seconds: float) -> Any:
    return clock(connection) + int(lease_seconds * 1e6)


def _pairs(epoch: EpochMetrics) -> list[tuple[str, float]]:
    return [(metric.name, metric.value) for metric in epoch.metrics]
