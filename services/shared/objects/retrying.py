"""A store that is tried again for a while where it cannot be reached."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog

from services.shared.objects import ObjectStore
from services.shared.objects.errors import StoreUnavailable

log = structlog.get_logger()

PAUSE_SECONDS = 1.0

Result = TypeVar("Result")


class RetryingStore:
    """An ObjectStore over another one. StoreUnavailable is raised after so many seconds of it."""

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    def put(self, key: str, data: bytes) -> None:
        self._retry(lambda: self._store.put(key, data))

    def get(self, key: str, sha256: str | None = None) -> bytes:
        return self._retry(lambda: self._store.get(key, sha256))

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        return self._retry(lambda: self._store.get_if_changed(key, tag))

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(self._retry(lambda: list(self._store.keys(prefix))))

    def delete(self, key: str) -> None:
        self._retry(lambda: self._store.delete(key))

    def _retry(self, task: Callable[[], Result]) -> Result:
        ends = time.monotonic() + self._seconds
        while True:
            try:
                return task()
            except StoreUnavailable as problem:
                # A full disk does not empty itself.
                if problem.is_full or time.monotonic() > ends:
                    raise
                log.warning("store away, trying again", problem=str(problem))
                time.sleep(PAUSE_SECONDS)
