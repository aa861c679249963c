"""Runs in SQL, as products see them: asked for, read, listed, cancelled. What workers do to them is in `attempts`."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.errors import NotFound
from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import Failure, Progress, StateChanged, TrainingRun, TrainingRunEvent
from handful.v1.worker_pb2 import Capabilities, Checkpoint
from services.shared.database import clock, newest_first
from services.trainer import events, workers
from services.trainer.fleet import waits_for
from services.trainer.records import WAITING, Continued, ModelVersionRecord, NewRun, RunKey, RunRecord
from services.trainer.tables import training_runs

# Runs that an estimate looks back at.
ESTIMATED_FROM = 50


async def add(connection: AsyncConnection, new: NewRun) -> RunRecord:
    """Queues a run."""
    row = {
        "project": new.key.project,
        "run": new.key.run,
        "model": new.model,
        "dataset_version": new.dataset_version,
        "dataset_manifest_sha256": new.dataset_manifest_sha256,
        "recipe": new.recipe.SerializeToString(),
        "asked_recipe": new.recipe.SerializeToString(),
        "promote": new.promote,
        "request_id": new.request_id,
        "create_time_us": clock(connection),
        "evaluated_version": new.evaluated.number if new.evaluated else None,
        "evaluated_manifest_sha256": new.evaluated.manifest_sha256 if new.evaluated else None,
        "state": TrainingRun.STATE_QUEUED,
        **_beginning(new),
        "estimated_seconds": await _estimate(connection, new),
        "latest_sequence": 0,
        "attempt": 0,
        "num_lost": 0,
        "committed_worker_sequence": 0,
    }
    await connection.execute(sa.insert(training_runs).values(row))
    await events.append(connection, new.key, state_changed(TrainingRun.STATE_QUEUED, attempt=0), *_copied(new))
    return await get(connection, new.key)


def _beginning(new: NewRun) -> dict[str, Any]:
    """Where a run begins: with nothing, or with the checkpoint of another and the epochs that led there."""
    if new.continued is None or new.checkpoint is None:
        return {"epoch": 0, "metrics": []}
    metrics = new.history[-1].epoch_completed.metrics if new.history else ()
    return {
        "epoch": new.checkpoint.epoch,
        "metrics": [(metric.name, metric.value) for metric in metrics],
        "checkpoint_key": new.checkpoint.key,
        "checkpoint_sha256": new.checkpoint.sha256,
        "checkpoint_epoch": new.checkpoint.epoch,
        "continued_run": new.continued.run,
        "continued_epoch": new.continued.epoch,
        "earlier_manifests": list(new.continued.earlier_manifests),
    }


def _copied(new: NewRun) -> list[TrainingRunEvent]:
    """The epochs of the run that a new one goes on from, which happened when they did and in no attempt of it."""
    return [
        TrainingRunEvent(time=one.time, epoch=one.epoch, epoch_completed=one.epoch_completed) for one in new.history
    ]


async def _estimate(connection: AsyncConnection, new: NewRun) -> float | None:
    """Seconds that a run is likely to take: as the latest ones did that were asked for with the same preset,
    architecture, precision, input size, views, folds, repeats, epochs and max_gflops, those on its own dataset if there
    are any; None where there are none.
    """
    ended = training_runs.c.state == TrainingRun.STATE_SUCCEEDED
    query = sa.select(training_runs).where(ended)
    latest = query.order_by(training_runs.c.create_time_us.desc()).limit(ESTIMATED_FROM)
    kind = _kind(new.recipe, new.evaluated, new.continued.epoch if new.continued else None)
    alike = [
        row
        for row in await connection.execute(latest)
        if _kind(_asked(row), row.evaluated_version, row.continued_epoch) == kind
    ]
    nearest = [row for row in alike if _dataset(row.dataset_version) == _dataset(new.dataset_version)] or alike
    took = [(row.finish_time_us - row.start_time_us) / 1e6 for row in nearest]
    return median(took) if took else None


def _dataset(dataset_version: str) -> str:
    return dataset_version.partition("/versions/")[0]


def _asked(row: Any) -> Recipe:
    return Recipe.FromString(row.recipe if row.asked_recipe is None else row.asked_recipe)


def _kind(recipe: Recipe, evaluated: object, continued_after: int | None) -> tuple[object, ...]:
    num_epochs = recipe.num_epochs - (continued_after or 0)
    trained = recipe.preset, recipe.architecture, recipe.input_size, recipe.views, num_epochs, recipe.max_gflops
    numbers = recipe.challenger_epochs, recipe.backbone_precision, recipe.num_folds, recipe.num_repeats
    return evaluated is not None, continued_after is not None, *trained, *numbers


async def get(connection: AsyncConnection, key: RunKey, *, locked: bool = False) -> RunRecord:
    """A run; if wanted `locked`, so that nobody else changes it before this transaction ends."""
    query = sa.select(training_runs).where(of(key))
    found = await _records(connection, query.with_for_update() if locked else query)
    if not found:
        raise NotFound(f"There is no training run {key.name}.")
    return found[0]


async def page(connection: AsyncConnection, project: str, limit: int, before: Sequence[Any] | None) -> list[RunRecord]:
    """The newest runs, or the newest before a (create_time_us, run)."""
    query = sa.select(training_runs).where(training_runs.c.project == project)
    order = (training_runs.c.create_time_us, training_runs.c.run)
    return await _records(connection, newest_first(query, order, limit, before))


async def evaluation(connection: AsyncConnection, version: ModelVersionRecord, dataset_version: str) -> str:
    """SHA-256 of the latest evaluation of a version on a dataset version."""
    mine = {"project": version.key.project, "model": version.key.model, "evaluated_version": version.number}
    query = (
        sa.select(training_runs.c.evaluation_sha256)
        .filter_by(**mine, dataset_version=dataset_version, state=TrainingRun.STATE_SUCCEEDED)
        .order_by(training_runs.c.finish_time_us.desc())
        .limit(1)
    )
    found: str | None = (await connection.execute(query)).scalar_one_or_none()
    if found is None:
        raise NotFound(
            f"{version.name} was not evaluated on {dataset_version}. Call EvaluateModelVersion and wait for its run."
        )
    return found


async def cancel(connection: AsyncConnection, key: RunKey) -> RunRecord:
    """Cancels a run that waits, and asks the worker of one that runs to stop."""
    run = await get(connection, key, locked=True)
    if run.state in WAITING:
        await change_state(connection, run, TrainingRun.STATE_CANCELLED, token=None)
    elif run.state == TrainingRun.STATE_RUNNING:
        await change_state(connection, run, TrainingRun.STATE_CANCELLING)
    return await get(connection, key)


async def change_state(
    connection: AsyncConnection, run: RunRecord, state: "TrainingRun.State.ValueType", **values: Any
) -> None:
    """Puts the run into a state, with the event that says so; the lease ends where nobody holds the run any more."""
    if state not in (TrainingRun.STATE_RUNNING, TrainingRun.STATE_CANCELLING):
        values |= {"lease_expires_us": None, "progress": None}
    if state in (TrainingRun.STATE_SUCCEEDED, TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED):
        values |= {"finish_time_us": clock(connection)}
    await connection.execute(sa.update(training_runs).where(of(run.key)).values(state=state, **values))
    await events.append(connection, run.key, state_changed(state, run.attempt))


def state_changed(state: "TrainingRun.State.ValueType", attempt: int) -> TrainingRunEvent:
    return TrainingRunEvent(attempt=attempt, state_changed=StateChanged(state=state))


def of(key: RunKey) -> Any:
    """The WHERE of one run."""
    return sa.and_(training_runs.c.project == key.project, training_runs.c.run == key.run)


async def _records(connection: AsyncConnection, query: Any) -> list[RunRecord]:
    rows = (await connection.execute(query)).all()
    found = [record(row, await _num_ahead(connection, row)) for row in rows]
    if not any(run.state in WAITING for run in found):
        return found
    heard = await workers.known(connection)
    return [replace(run, waits_for=_waits_for(run, heard)) for run in found]


def _waits_for(run: RunRecord, heard: Sequence[Capabilities]) -> str:
    return waits_for(run.recipe, heard, continued=run.continued is not None) if run.state in WAITING else ""


async def _num_ahead(connection: AsyncConnection, row: Any) -> int:
    if row.state not in WAITING:
        return 0
    order = (training_runs.c.create_time_us, training_runs.c.run)
    earlier = sa.tuple_(*order) < sa.tuple_(row.create_time_us, row.run)
    query = sa.select(sa.func.count()).select_from(training_runs).where(training_runs.c.state.in_(WAITING), earlier)
    return int((await connection.execute(query)).scalar_one())


def record(row: Any, num_ahead: int = 0) -> RunRecord:
    """A row of training_runs as a record."""
    checkpoint = None
    if row.checkpoint_key is not None:
        checkpoint = Checkpoint(key=row.checkpoint_key, sha256=row.checkpoint_sha256, epoch=row.checkpoint_epoch)
    continued = None
    if row.continued_run is not None:
        continued = Continued(row.continued_run, row.continued_epoch, tuple(row.earlier_manifests))
    return RunRecord(
        key=RunKey(row.project, row.run),
        model=row.model,
        dataset_version=row.dataset_version,
        dataset_manifest_sha256=row.dataset_manifest_sha256,
        recipe=Recipe.FromString(row.recipe),
        promote=row.promote,
        request_id=row.request_id,
        create_time_us=row.create_time_us,
        state=row.state,
        failure=Failure.FromString(row.failure) if row.failure is not None else None,
        epoch=row.epoch,
        metrics=tuple((name, value) for name, value in row.metrics),
        progress=Progress.FromString(row.progress) if row.progress is not None else None,
        latest_sequence=row.latest_sequence,
        version=row.version,
        evaluated_version=row.evaluated_version,
        evaluated_manifest_sha256=row.evaluated_manifest_sha256,
        start_time_us=row.start_time_us,
        finish_time_us=row.finish_time_us,
        attempt=row.attempt,
        num_lost=row.num_lost,
        token=row.token,
        worker_id=row.worker_id,
        checkpoint=checkpoint,
        continued=continued,
        num_ahead=num_ahead,
        estimated_seconds=row.estimated_seconds,
    )
