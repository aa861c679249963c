"""Following a run: a cursor into its durable events, from any position, to the end. A watcher holds no queue; it reads
on from where it is whenever it wakes.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator

from handful.errors import OutOfRange, Unavailable
from handful.v1.trainer_pb2 import Progress, WatchTrainingRunResponse
from services.shared.database import Database
from services.trainer import events, runs
from services.trainer.board import Board
from services.trainer.messages import run_message
from services.trainer.pointers import Pointers
from services.trainer.records import TERMINAL, RunKey, RunRecord

HEARTBEAT_SECONDS = 5.0
# Another replica's events are seen this late at most, and a drain too.
POLL_SECONDS = 1.0
MAX_AGE_SECONDS = 1800.0
BATCH = 256


class Watches:
    """Serves every watch of this process."""

    def __init__(self, database: Database, board: Board, pointers: Pointers, draining: asyncio.Event) -> None:
        self._database = database
        self._board = board
        self._pointers = pointers
        self._draining = draining

    async def follow(self, key: RunKey, after: int | None) -> AsyncIterator[WatchTrainingRunResponse]:
        """The messages of one stream, from `started` to `finished`."""
        run = await self._run(key)
        cursor = run.latest_sequence if after is None else after
        if not 0 <= cursor <= run.latest_sequence:
            raise OutOfRange(
                f"The run has no event {cursor}; its latest is {run.latest_sequence}. Read the run again.",
                reason="SEQUENCE_AHEAD",
                facts={"latest_sequence": str(run.latest_sequence)},
            )
        yield _started(run)
        with self._board.on(key) as bell:
            watch = _Watch(cursor)
            while True:
                async for message in self._news(key, watch):
                    yield message
                if watch.finished:
                    return
                self._check_end(watch)
                await bell.wait(POLL_SECONDS)

    async def _news(self, key: RunKey, watch: "_Watch") -> AsyncIterator[WatchTrainingRunResponse]:
        """What there is to say since the last time."""
        # The state is read before the events: a run that is over has all of its events.
        run = await self._run(key)
        while watch.cursor < run.latest_sequence:
            async with self._database.read() as connection:
                found = await events.after(connection, key, watch.cursor, BATCH)
            for event in found:
                yield watch.say(WatchTrainingRunResponse(event=event))
            watch.cursor = found[-1].sequence
        if run.state in TERMINAL:
            watch.finished = True
            # Who hears that a run is over finds its model served.
            await self._pointers.ensure(key.project)
            yield WatchTrainingRunResponse(finished=WatchTrainingRunResponse.Finished(training_run=run_message(run)))
            return
        progress = self._board.progress(key)
        if progress is not None and progress != watch.progress:
            watch.progress = progress
            yield watch.say(WatchTrainingRunResponse(progress=progress))
        if watch.silent_seconds >= HEARTBEAT_SECONDS:
            yield watch.say(WatchTrainingRunResponse(heartbeat=WatchTrainingRunResponse.Heartbeat()))

    async def _run(self, key: RunKey) -> RunRecord:
        async with self._database.read() as connection:
            return await runs.get(connection, key)

    def _check_end(self, watch: "_Watch") -> None:
        if self._draining.is_set():
            raise Unavailable("The server is stopping. Call again with your sequence.", reason="SERVER_DRAINING")
        if time.monotonic() > watch.ends:
            raise Unavailable("The stream is old enough. Call again with your sequence.", reason="STREAM_MAX_AGE")


class _Watch:
    """One stream's position and clock."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.finished = False
        self.progress: Progress | None = None
        # Spread, so that streams opened together do not all come back together.
        self.ends = time.monotonic() + MAX_AGE_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        self._spoke = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        return time.monotonic() - self._spoke

    def say(self, message: WatchTrainingRunResponse) -> WatchTrainingRunResponse:
        self._spoke = time.monotonic()
        return message


def _started(run: RunRecord) -> WatchTrainingRunResponse:
    return WatchTrainingRunResponse(
        started=WatchTrainingRunResponse.Started(
            training_run=run_message(run),
            oldest_sequence=1,
            latest_sequence=run.latest_sequence,
            heartbeat_interval_seconds=HEARTBEAT_SECONDS,
        )
    )
