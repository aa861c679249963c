"""What is in memory: values under keys, loaded once however many ask, the least recently used dropped over a budget of
bytes. What is private has a budget of its own, and drives out nothing else. It does not know what it holds.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from services.inference.once import Once

# So long what could not be loaded is not tried again.
PATIENCE_SECONDS = 5.0


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def private(self) -> bool: ...


Value = TypeVar("Value", bound=Sized)


class Pool:
    """An LRU of loaded things, of one kind under one key. One larger than its whole budget is held alone. What could
    not be loaded is not tried again for `patience` seconds, but for failures that pass by themselves.
    """

    def __init__(
        self,
        budget_bytes: int,
        private_bytes: int,
        passing: tuple[type[Exception], ...] = (),
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._budgets = {False: budget_bytes, True: private_bytes}
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._loading = Once(patience, passing)

    async def get(self, key: str, load: Callable[[], Awaitable[Value]]) -> Value:
        """The value of the key; `load` makes it where it is not there."""
        if key in self._loaded:
            self._loaded.move_to_end(key)
            there: Value = self._loaded[key]
            return there
        return await self._loading.do(key, partial(self._load, key, load))

    def change(self, key: str, how: Callable[[Any], Sized]) -> None:
        """Another value, perhaps a larger one, for a key that is there; nothing happens where it is not any more."""
        if key in self._loaded:
            self._loaded[key] = how(self._loaded[key])
            self._make_room(key)

    def num_bytes(self, *, private: bool = False) -> int:
        """What is held of a budget."""
        return sum(value.num_bytes for value in self._loaded.values() if value.private == private)

    def values(self) -> list[Any]:
        """All that is held, the least recently used first."""
        return list(self._loaded.values())

    def items(self) -> list[tuple[str, Any]]:
        """The same, with their keys."""
        return list(self._loaded.items())

    def __contains__(self, key: str) -> bool:
        return key in self._loaded

    async def _load(self, key: str, load: Callable[[], Awaitable[Value]]) -> Value:
        value = self._loaded[key] = await load()
        self._make_room(key)
        return value

    def _make_room(self, key: str) -> None:
        """For the value of a key, at the cost of the others in its budget."""
        private = self._loaded[key].private
        others = [one for one, held in self._loaded.items() if held.private == private and one != key]
        for oldest in others:
            if self.num_bytes(private=private) <= self._budgets[private]:
                break
            del self._loaded[oldest]
