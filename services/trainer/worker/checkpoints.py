"""Keeps the store from filling with checkpoints: of those that were committed, the last two stay."""

from collections import deque

import structlog

from handful.v1.worker_pb2 import Checkpoint
from services.shared.objects import ObjectStore, StoreUnavailable

log = structlog.get_logger()

KEPT = 2


class Checkpoints:
    """The committed checkpoints of one attempt."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._committed: deque[str] = deque()

    def committed(self, checkpoint: Checkpoint) -> None:
        """A newer one counts; the one before the last goes."""
        self._committed.append(checkpoint.key)
        while len(self._committed) > KEPT:
            key = self._committed.popleft()
            try:
                self._store.delete(key)
            except StoreUnavailable as problem:
                log.warning("old checkpoint not removed", key=key, problem=str(problem))
