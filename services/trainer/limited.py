"""Work on large or foreign files in processes of their own: each new, limited in memory and time, one at a time. What
is heavy is imported there alone, and a process that dies takes no server down. It does not know what the work is.
"""

import asyncio
import multiprocessing
import pickle
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as ProcessTimeout
from typing import TypeVar

import structlog
from pebble import ProcessExpired, ProcessPool

from handful.errors import HandfulError

log = structlog.get_logger()

WALL_SECONDS = 120
# Of processor time, for a process whose parent is no longer there to end it.
CPU_SECONDS = 4 * WALL_SECONDS
AT_ONCE = 1

Result = TypeVar("Result")


class LimitsExceeded(Exception):
    """The work took more memory or time than it may, or its process died of it."""


class Limited:
    """A pool of processes. Close it."""

    def __init__(self, memory_bytes: int, wall_seconds: float = WALL_SECONDS) -> None:
        self._wall_seconds = wall_seconds
        self._pool = ProcessPool(
            max_workers=AT_ONCE,
            max_tasks=1,
            initializer=_limit,
            initargs=(memory_bytes,),
            context=multiprocessing.get_context("spawn"),
        )

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """What the work returns or raises. LimitsExceeded. A caller that goes away ends the process."""
        future = self._pool.schedule(_contained, args=(work, *arguments), timeout=self._wall_seconds)
        try:
            result: Result = await asyncio.wrap_future(future)
        except (ProcessExpired, ProcessTimeout, MemoryError) as problem:
            log.warning("limited process lost", work=work.__name__, problem=repr(problem))
            raise LimitsExceeded(work.__name__) from problem
        except HandfulError as refused:
            refused.__cause__ = None  # the pool's, which has the traceback of what was meant to be raised
            raise
        return result

    def close(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def _contained(work: Callable[..., Result], *arguments: object) -> Result:
    try:
        return work(*arguments)
    except Exception as problem:
        try:
            pickle.loads(pickle.dumps(problem))  # noqa: S301 - our own, and only to see whether it can be done
        except Exception:  # noqa: BLE001 - one that does not arrive would take the pool with it
            raise RuntimeError(repr(problem)) from None
        raise


def _limit(memory_bytes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
