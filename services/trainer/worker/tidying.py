"""Features in the store are kept for as long as there is room: of a project that has too many the oldest go.

What is removed is computed again should a run need it. It knows nothing of features but where they lie.
"""

import threading
import time

import structlog

from services.shared.objects import ObjectStore, StoreUnavailable

log = structlog.get_logger()

# A project is not looked through again sooner than this.
PAUSE_SECONDS = 3600.0


class Tidying:
    """Keeps the newest `kept` of each project; 0: all."""

    def __init__(self, store: ObjectStore, kept: int) -> None:
        self._store = store
        self._kept = kept
        self._looked: dict[str, float] = {}

    def after_run(self, project: str) -> None:
        """Looks through a project, beside what is done next, unless it did so a while ago."""
        now = time.monotonic()
        if self._kept and now - self._looked.get(project, -PAUSE_SECONDS) >= PAUSE_SECONDS:
            self._looked[project] = now
            threading.Thread(target=self.tidy, args=(project,), daemon=True).start()

    def tidy(self, project: str) -> None:
        """Removes what is too much; what cannot be removed now is the next one's."""
        try:
            keys = list(self._store.keys(f"projects/{project}/features/"))
            old = keys[: max(0, len(keys) - self._kept)]
            for key in old:
                self._store.delete(key)
        except StoreUnavailable as problem:
            log.warning("features not tidied", project=project, problem=str(problem))
        else:
            if old:
                log.info("old features removed", project=project, removed=len(old), kept=self._kept)
