"""Ends leases that ran out, on the trainer's clock, so that lost runs are taken up again."""

import asyncio

import structlog

from handful.errors import Unavailable
from services.shared.database import Database
from services.trainer import attempts
from services.trainer.board import Board
from services.trainer.worker_servicer import LEASE_SECONDS

log = structlog.get_logger()

SWEEP_SECONDS = 1.0


async def sweep(database: Database, board: Board) -> None:
    """For ever. Waits one full lease first: workers that outlived an outage of ours get time to report."""
    await asyncio.sleep(LEASE_SECONDS)
    while True:
        try:
            await _sweep(database, board)
        except Unavailable as problem:
            log.warning("not swept, will be", problem=problem.message)
        await asyncio.sleep(SWEEP_SECONDS)


async def _sweep(database: Database, board: Board) -> None:
    async with database.write() as connection:
        lost = await attempts.expire(connection)
    for key in lost:
        log.warning("worker lost", training_run=key.name)
        board.forget(key)
        board.queued()
