"""How long a worker takes work. It knows nothing of runs."""

import threading
import time


class Shift:
    """Until it is ended, the worker has had nothing to do for so long, or has been there for so long; 0: never."""

    def __init__(self, idle_seconds: float, max_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._max_seconds = max_seconds
        self._began = self._worked = time.monotonic()
        self._ended = threading.Event()

    def end(self) -> None:
        self._ended.set()

    def worked(self) -> None:
        """A run has ended just now."""
        self._worked = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether no more work shall be taken."""
        now = time.monotonic()
        idle = 0 < self._idle_seconds <= now - self._worked
        return self._ended.is_set() or idle or 0 < self._max_seconds <= now - self._began
