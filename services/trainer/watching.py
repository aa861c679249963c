"""Following a run: a cursor into its durable events, from any position, to the end. A watcher holds no queue; it reads
on from where it is whenever it wakes, and all who follow one run share what is read.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from handful.errors import OutOfRange, Unavailable
from handful.v1.trainer_pb2 import Progress, WatchTrainingRunResponse
from services.shared.database import Database
from services.trainer import events, runs
from services.trainer.board import Board
from services.trainer.messages import run_message
from services.trainer.pointers import Pointers
from services.trainer.records import TERMINAL, RunKey, RunRecord

HEARTBEAT_SECONDS = 5.0
# A drain is seen this late at most, and what happens in another replica.
POLL_SECONDS = 1.0
MAX_AGE_SECONDS = 1800.0
BATCH = 256
# Events of a run that are kept for everyone who follows it; who is further behind reads SQL.
KEPT = 1024


class Watches:
    """Serves every watch of this process."""

    def __init__(self, database: Database, board: Board, pointers: Pointers, draining: asyncio.Event) -> None:
        self._database = database
        self._board = board
        self._pointers = pointers
        self._draining = draining
        self._tails: dict[RunKey, _Tail] = {}

    async def follow(self, key: RunKey, after: int | None) -> AsyncGenerator[WatchTrainingRunResponse, None]:
        """The messages of one stream, from `started` to `finished`."""
        with self._tail(key) as tail, self._board.on(key) as bell:
            run = await tail.read(time.monotonic())
            cursor = run.latest_sequence if after is None else after
            if not 0 <= cursor <= run.latest_sequence:
                raise OutOfRange(
                    f"The run has no event {cursor}; its latest is {run.latest_sequence}. Read the run again.",
                    reason="SEQUENCE_AHEAD",
                    facts={"latest_sequence": str(run.latest_sequence)},
                )
            yield _started(run)
            watch = _Watch(cursor)
            while True:
                async for message in self._news(tail, run, watch):
                    yield message
                if watch.finished:
                    return
                self._check_end(watch)
                rang = await bell.wait(POLL_SECONDS)
                known, run = run, await tail.read(time.monotonic() - (0 if rang else POLL_SECONDS))
                if not rang and run != known:
                    self._board.changed(key)  # in another replica: whoever polls first tells all who follow here

    async def _news(self, tail: "_Tail", run: RunRecord, watch: "_Watch") -> AsyncIterator[WatchTrainingRunResponse]:
        """What there is to say since the last time."""
        # The state was read before the events: a run that is over has all of its events.
        while watch.cursor < run.latest_sequence:
            for message in await tail.after(watch.cursor):
                yield watch.say(message)
                watch.cursor = message.event.sequence
        if run.state in TERMINAL:
            watch.finished = True
            # Who hears that a run is over finds its model served.
            await self._pointers.ensure(run.key.project)
            yield WatchTrainingRunResponse(finished=WatchTrainingRunResponse.Finished(training_run=run_message(run)))
            return
        if run.progress is not None and run.progress != watch.progress:
            watch.progress = run.progress
            yield watch.say(WatchTrainingRunResponse(progress=run.progress))
        if watch.silent_seconds >= HEARTBEAT_SECONDS:
            yield watch.say(WatchTrainingRunResponse(heartbeat=WatchTrainingRunResponse.Heartbeat()))

    @contextmanager
    def _tail(self, key: RunKey) -> "Iterator[_Tail]":
        tail = self._tails.setdefault(key, _Tail(self._database, key))
        tail.num_followers += 1
        try:
            yield tail
        finally:
            tail.num_followers -= 1
            if not tail.num_followers:
                del self._tails[key]

    def _check_end(self, watch: "_Watch") -> None:
        if self._draining.is_set():
            raise Unavailable("The server is stopping. Call again with your sequence.", reason="SERVER_DRAINING")
        if time.monotonic() > watch.ends:
            raise Unavailable("The stream is old enough. Call again with your sequence.", reason="STREAM_MAX_AGE")


class _Tail:
    """A run and its latest events, read once for everyone who follows it."""

    def __init__(self, database: Database, key: RunKey) -> None:
        self.num_followers = 0
        self._database = database
        self._key = key
        self._lock = asyncio.Lock()
        self._run: RunRecord | None = None
        self._read_at = 0.0
        self._recent: list[WatchTrainingRunResponse] = []

    async def read(self, since: float) -> RunRecord:
        """The run as it stood at that time or later."""
        async with self._lock:
            if self._run is None or self._read_at < since:
                began = time.monotonic()
                async with self._database.read() as connection:
                    run = await runs.get(connection, self._key)
                    known = max(self._recent[-1].event.sequence if self._recent else 0, run.latest_sequence - KEPT)
                    new = await events.after(connection, self._key, known) if known < run.latest_sequence else []
                self._recent = [*self._recent, *(WatchTrainingRunResponse(event=event) for event in new)][-KEPT:]
                self._run, self._read_at = run, began
            return self._run

    async def after(self, sequence: int) -> Sequence[WatchTrainingRunResponse]:
        """Events after a sequence that the run has gone past, in order: some, if not all."""
        if self._recent and self._recent[0].event.sequence <= sequence + 1:
            return self._recent[sequence + 1 - self._recent[0].event.sequence :]
        async with self._database.read() as connection:
            found = await events.after(connection, self._key, sequence, BATCH)
        return [WatchTrainingRunResponse(event=event) for event in found]


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
