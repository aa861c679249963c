"""What is in memory: values under keys, loaded once however many ask, the least recently used dropped over a budget of
bytes. What is private has a budget of its own, and drives out nothing else. It does not know what it holds.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def private(self) -> bool: ...


Value = TypeVar("Value", bound=Sized)


class Pool:
    """An LRU of loaded things, of one kind under one key. One larger than its whole budget is held alone."""

    def __init__(self, budget_bytes: int, private_bytes: int) -> None:
        self._budgets = {False: budget_bytes, True: private_bytes}
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Any]] = {}

    async def get(self, key: str, load: Callable[[], Awaitable[Value]]) -> Value:
        """The value of the key; `load` makes it where it is not there. A failure is not kept."""
        if key in self._loaded:
            self._loaded.move_to_end(key)
            there: Value = self._loaded[key]
            return there
        task: asyncio.Task[Value] | None = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._load(key, load))
            self._loading[key] = task
        # One caller's end does not end the load that others wait for.
        return await asyncio.shield(task)

    def change(self, key: str, how: Callable[[Any], Sized]) -> None:
        """Another value for a key that is there; nothing happens where it is not, or not any more."""
        if key in self._loaded:
            self._loaded[key] = how(self._loaded[key])

    def num_bytes(self, *, private: bool = False) -> int:
        """What is held of a budget."""
        return sum(value.num_bytes for value in self._loaded.values() if value.private == private)

    def __contains__(self, key: str) -> bool:
        return key in self._loaded

    async def _load(self, key: str, load: Callable[[], Awaitable[Value]]) -> Value:
        try:
            value = await load()
        finally:
            del self._loading[key]
        self._loaded[key] = value
        while self.num_bytes(private=value.private) > self._budgets[value.private]:
            oldest = next(one for one, held in self._loaded.items() if held.private == value.private)
            if oldest == key:
                break
            del self._loaded[oldest]
        return value
