"""Workers in SQL: who was heard lately, and what they are. Every replica knows what any of them heard."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.v1.worker_pb2 import Capabilities
from services.shared.database import alone, clock
from services.trainer.records import CLAIMED
from services.trainer.tables import training_runs, workers

# A worker without a run asks for one far more often than this.
SILENT_SECONDS = 60.0


async def asked(connection: AsyncConnection, worker_id: str, capabilities: Capabilities) -> None:
    """A worker asks for work, and says what it is."""
    await alone(connection, "worker", worker_id)
    row = {
        "kind": capabilities.kind or Capabilities.KIND_WARM,
        "capabilities": capabilities.SerializeToString(),
        "seen_us": clock(connection),
    }
    mine = sa.update(workers).where(workers.c.worker_id == worker_id)
    if not (await connection.execute(mine.values(row))).rowcount:
        await connection.execute(sa.insert(workers).values(row | {"worker_id": worker_id}))


async def heard(connection: AsyncConnection, worker_id: str) -> None:
    """A worker is there, whatever it was that it asked for."""
    mine = sa.update(workers).where(workers.c.worker_id == worker_id)
    await connection.execute(mine.values(seen_us=clock(connection)))


async def known(connection: AsyncConnection) -> list[Capabilities]:
    """What the workers are that were heard lately, or hold a run."""
    rows = await connection.execute(sa.select(workers.c.capabilities).where(~_gone(connection)))
    return [Capabilities.FromString(row.capabilities) for row in rows]


async def forget(connection: AsyncConnection) -> None:
    """Forgets the workers that are gone."""
    await connection.execute(sa.delete(workers).where(_gone(connection)))


def _gone(connection: AsyncConnection) -> sa.ColumnElement[bool]:
    holders = sa.select(training_runs.c.worker_id).where(training_runs.c.state.in_(CLAIMED))
    silent = workers.c.seen_us < clock(connection) - int(SILENT_SECONDS * 1e6)
    return sa.and_(silent, workers.c.worker_id.not_in(holders))
