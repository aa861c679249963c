"""Work that many ask for, done once: who asks while it is being done waits for it, and what failed is not tried again
for a moment. It does not know what the work is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Once:
    """Work under keys. A failure is told to all who ask for it within `seconds`, unless it is one of those that pass by
    themselves.
    """

    def __init__(self, seconds: float, passing: tuple[type[Exception], ...] = ()) -> None:
        self._seconds = seconds
        self._passing = passing
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def do(self, key: str, work: Callable[[], Awaitable[Result]]) -> Result:
        """What the work comes to."""
        task: asyncio.Task[Result] | None = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._do(key, work))
        # One caller's end does not end the work that others wait for.
        return await asyncio.shield(task)

    async def _do(self, key: str, work: Callable[[], Awaitable[Result]]) -> Result:
        kept = 0.0
        try:
            return await work()
        except Exception as problem:
            kept = 0.0 if isinstance(problem, self._passing) else self._seconds
            raise
        finally:
            if kept:
                asyncio.get_running_loop().call_later(kept, self._tasks.pop, key)
            else:
                del self._tasks[key]
