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


def patiently(task: Callable[[], Result], seconds: float) -> Result:
    """What the task gives. It is repeated until StoreUnavailable has gone on for so many seconds."""
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


class RetryingStore:
    """An ObjectStore over another one. StoreUnavailable is raised after so many seconds of it."""

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    def put(self, key: str, data: bytes) -> None:
        patiently(lambda: self._store.put(key, data), self._seconds)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        return patiently(lambda: self._store.get(key, sha256), self._seconds)

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        return patiently(lambda: self._store.get_if_changed(key, tag), self._seconds)

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(patiently(lambda: list(self._store.keys(prefix)), self._seconds))

    def delete(self, key: str) -> None:
        patiently(lambda: self._store.delete(key), self._seconds)
