"""The events of runs in SQL: appended under the next sequence, read from any position."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.v1.trainer_pb2 import TrainingRunEvent
from services.shared.identifiers import now_us
from services.trainer.records import RunKey
from services.trainer.tables import events, training_runs


async def append(connection: AsyncConnection, key: RunKey, *new: TrainingRunEvent) -> None:
    """Adds events in order, under the next sequences of the run, in the transaction of what they tell of."""
    if not new:
        return
    where = _of(training_runs, key)
    latest = (
        await connection.execute(
            sa.update(training_runs)
            .where(where)
            .values(latest_sequence=training_runs.c.latest_sequence + len(new))
            .returning(training_runs.c.latest_sequence)
        )
    ).scalar_one()
    rows = []
    for sequence, event in enumerate(new, start=latest - len(new) + 1):
        event.sequence = sequence
        if not event.HasField("time"):
            event.time.FromMicroseconds(now_us())
        rows.append({"project": key.project, "run": key.run, "sequence": sequence, "event": event.SerializeToString()})
    await connection.execute(sa.insert(events), rows)


async def after(
    connection: AsyncConnection, key: RunKey, sequence: int, limit: int | None = None
) -> Sequence[TrainingRunEvent]:
    """The run's events after a sequence, in order."""
    query = sa.select(events.c.event).where(_of(events, key), events.c.sequence > sequence)
    found = await connection.execute(query.order_by(events.c.sequence).limit(limit))
    return [TrainingRunEvent.FromString(row.event) for row in found]


def _of(table: sa.Table, key: RunKey) -> Any:
    return sa.and_(table.c.project == key.project, table.c.run == key.run)
