"""How long what is being done may still take, known to all that is called on the way and to the tasks it starts."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

_end: ContextVar[float] = ContextVar("end", default=math.inf)


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """TimeoutError once so many seconds have passed, as `asyncio.timeout`; never for None."""
    token = _end.set(min(_end.get(), math.inf if seconds is None else time.monotonic() + seconds))
    try:
        async with asyncio.timeout(seconds):
            yield
    finally:
        _end.reset(token)


def left() -> float:
    """Seconds; infinite where nothing bounds them."""
    return end() - time.monotonic()


def end() -> float:
    """The same, as a moment of `time.monotonic`."""
    return _end.get()
