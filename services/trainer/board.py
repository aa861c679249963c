"""Wake-ups within this process: something happened to a run, or a run waits for a worker. It carries no facts: what
happened stands in SQL, and whoever wakes looks there. Whoever waits looks there now and then without being woken, since
what happens in another replica rings no bell here.
"""

import asyncio
from collections import defaultdict
from typing import Self

from services.trainer.records import RunKey

_QUEUE = RunKey("", "queue")


class Board:
    """Who waits for what."""

    def __init__(self) -> None:
        self._waiting: dict[RunKey, set[asyncio.Event]] = defaultdict(set)

    def changed(self, key: RunKey) -> None:
        """Something happened to the run."""
        for waiter in self._waiting.get(key, ()):
            waiter.set()

    def queued(self) -> None:
        """A run waits for a worker."""
        self.changed(_QUEUE)

    def on(self, key: RunKey) -> "Bell":
        """Rings whenever something happens to the run."""
        return Bell(self._waiting, key)

    def on_queue(self) -> "Bell":
        """Rings whenever a run waits."""
        return Bell(self._waiting, _QUEUE)


class Bell:
    """A context: inside it, `wait` returns when something happened since the last `wait`."""

    def __init__(self, waiting: dict[RunKey, set[asyncio.Event]], key: RunKey) -> None:
        self._waiting = waiting
        self._key = key
        self._event = asyncio.Event()

    def __enter__(self) -> Self:
        self._waiting[self._key].add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting[self._key].discard(self._event)
        if not self._waiting[self._key]:
            del self._waiting[self._key]

    async def wait(self, seconds: float) -> bool:
        """Until something happens, or the time is over: whether something happened."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
