"""A store with copies of its objects in a folder of this machine, of which the oldest go when they become too many.

For objects whose key says what they are: they are never replaced by others, at most by longer ones that begin the same,
of which a copy may be the shorter. Several processes may share the folder. It knows nothing of what the objects mean;
who reads one checks it, as of any store.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.shared.objects.contract import ObjectStore
from services.shared.objects.filesystem import write_whole

log = structlog.get_logger()

# Of the limit: what may be written before the folder is looked through again.
SLACK = 1 / 8


@dataclass(frozen=True)
class Cache:
    """A folder, and the bytes it may take."""

    folder: Path
    limit: int


class NearbyStore:
    """An ObjectStore over another one. The copies take no more than the cache may, or a little more; where they cannot
    be written, the other store is read instead, and the log says so.
    """

    def __init__(self, store: ObjectStore, cache: Cache) -> None:
        self._store = store
        self._folder = cache.folder
        self._limit = cache.limit
        # As if it were full: others may have written before, so the first copy has it looked through.
        self._written = cache.limit
        self._said = False
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)
        self._keep(key, data)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """From the folder where it is there, and is what its hash says."""
        copy = self._folder / key
        with suppress(OSError):
            data = copy.read_bytes()
            if sha256 in (None, hashlib.sha256(data).hexdigest()):
                os.utime(copy)  # it is the newest now
                return data
        data = self._store.get(key, sha256)
        self._keep(key, data)
        return data

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        return self._store.get_if_changed(key, tag)

    def keys(self, prefix: str) -> Iterator[str]:
        return self._store.keys(prefix)

    def delete(self, key: str) -> None:
        self._drop(self._folder / key)
        self._store.delete(key)

    def _keep(self, key: str, data: bytes) -> None:
        copy = self._folder / key
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, data, durable=False)
        except OSError as problem:
            self._say_once(problem)
            return
        with self._lock:
            self._written += len(data)
            if self._written > self._limit * SLACK:
                self._written = 0
                self._trim()

    def _drop(self, copy: Path) -> None:
        try:
            copy.unlink(missing_ok=True)
        except OSError as problem:
            self._say_once(problem)

    def _say_once(self, problem: OSError) -> None:
        if not self._said:
            log.warning("no copies kept nearby", folder=str(self._folder), problem=problem.strerror)
        self._said = True

    def _trim(self) -> None:
        """Removes the oldest, until one may write for a while before there are too many again."""
        copies = [facts for path in self._folder.rglob("*") if (facts := _facts(path))]
        size = sum(bytes_ for _, bytes_, _ in copies)
        for _, bytes_, path in sorted(copies):
            if size <= self._limit * (1 - SLACK):
                return
            self._drop(path)
            size -= bytes_


def _facts(path: Path) -> tuple[int, int, Path] | None:
    """When a file was last of use, and its bytes; None of anything else, and where it went meanwhile."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return (facts.st_mtime_ns, facts.st_size, path) if path.is_file() else None
