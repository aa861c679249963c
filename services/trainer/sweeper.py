"""Ends leases that ran out, so that lost runs are taken up again, and forgets workers that are gone."""

import asyncio

import structlog

from handful.errors import Unavailable
from services.shared.database import Database
from services.trainer import attempts, workers
from services.trainer.board import Board
from services.trainer.worker_servicer import LEASE_SECONDS

log = structlog.get_logger()

SWEEP_SECONDS = 1.0


async def sweep(database: Database, board: Board, lease_seconds: float = LEASE_SECONDS) -> None:
    """For ever. Waits one full lease first, and again whenever the database was away: workers that outlived an outage
    get time to report.
    """
    while True:
        await asyncio.sleep(lease_seconds)
        try:
            while True:
                await _sweep(database, board)
                await asyncio.sleep(SWEEP_SECONDS)
        except Unavailable as problem:
            log.warning("not swept, will be", problem=problem.message)
            await _back(database)


async def _sweep(database: Database, board: Board) -> None:
    async with database.write() as connection:
        lost = await attempts.expire(connection)
    for key in lost:
        log.warning("worker lost", training_run=key.name)
        board.changed(key)
        board.queued()
    async with database.write() as connection:
        await workers.forget(connection)


async def _back(database: Database) -> None:
    while True:
        try:
            async with database.read() as connection:
                await workers.known(connection)
        except Unavailable:
            await asyncio.sleep(SWEEP_SECONDS)
        else:
            return
