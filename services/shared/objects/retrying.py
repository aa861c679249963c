"""A store that is tried again for a while where it cannot be reached."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog

from services.shared.objects.contract import ObjectStore
from services.shared.objects.errors import StoreFull, StoreRefused, StoreUnavailable

log = structlog.get_logger()

PAUSE_SECONDS = 1.0

Result = TypeVar("Result")


def patiently(task: Callable[[], Result], seconds: float, check: Callable[[], None] = lambda: None) -> Result:
    """What the task gives. It is repeated until StoreUnavailable has gone on for so many seconds, or `check`, which is
    called before each repeat, raises.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            return task()
        except (StoreFull, StoreRefused):  # neither mends itself
            raise
        except StoreUnavailable as problem:
            if time.monotonic() > ends:
                raise
            log.warning("store away, trying again", problem=str(problem))
            time.sleep(PAUSE_SECONDS)
            check()


class RetryingStore:
    """An ObjectStore over another one. StoreUnavailable is raised after so many seconds of it, but for a deletion at
    once: what is not removed does no harm.
    """

    def __init__(self, store: ObjectStore, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._seconds = seconds
        self._check = check

    def __reduce__(self) -> tuple[type["RetryingStore"], tuple[ObjectStore, float]]:
        """Whoever waits in another process is ended with that process."""
        return RetryingStore, (self._store, self._seconds)

    def checking(self, check: Callable[[], None]) -> "RetryingStore":
        """The same store, whose waits end when `check` raises."""
        return RetryingStore(self._store, self._seconds, check)

    def put(self, key: str, data: bytes) -> None:
        self._patiently(lambda: self._store.put(key, data))

    def get(self, key: str, sha256: str | None = None) -> bytes:
        return self._patiently(lambda: self._store.get(key, sha256))

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        return self._patiently(lambda: self._store.get_if_changed(key, tag))

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(self._patiently(lambda: list(self._store.keys(prefix))))

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def _patiently(self, task: Callable[[], Result]) -> Result:
        return patiently(task, self._seconds, self._check)
