"""Which version answers under a model's name: the one that the pointer says, once it is loaded and was tried. Until
then, and where it cannot be loaded, the one that answered before goes on.
"""

import asyncio
import time

import structlog

from services.inference.loading import Loader, Model
from services.inference.pointers import Pointers, VersionRef

log = structlog.get_logger()

# A version that could not be loaded is not tried again for so long.
PATIENCE_SECONDS = 5.0


class Models:
    """Models by the names that callers use."""

    def __init__(self, pointers: Pointers, loader: Loader) -> None:
        self._pointers = pointers
        self._loader = loader
        # By name: the version that answers, the last that was loaded to take its place, and the last that failed to.
        self._answering: dict[str, VersionRef] = {}
        self._loaded: dict[str, VersionRef] = {}
        self._failed: dict[str, tuple[VersionRef, float]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}

    async def get(self, name: str) -> tuple[VersionRef, Model]:
        """The version that answers under a model's, an alias's or a version's name, loaded. NotFound, DataLoss, and
        FailedPrecondition where there is none yet and this one cannot be.
        """
        meant = await self._pointers.resolve(name)
        answering = self._answering.get(name, meant)
        if meant not in {answering, self._loaded.get(name)}:
            self._begin(name, meant)
            return answering, await self._loader.load(answering)
        model = await self._loader.load(meant)
        self._answering[name] = meant
        return meant, model

    def _begin(self, name: str, version: VersionRef) -> None:
        """Has the version loaded beside, if none is being loaded and it did not fail a moment ago."""
        failed, when = self._failed.get(name, (None, 0.0))
        patient = failed == version and time.monotonic() - when < PATIENCE_SECONDS
        if name not in self._loading and not patient:
            self._loading[name] = asyncio.create_task(self._load(name, version))

    async def _load(self, name: str, version: VersionRef) -> None:
        try:
            await self._loader.load(version)
        except Exception:  # whatever it is, what answered before goes on
            self._failed[name] = version, time.monotonic()
            log.exception("a version cannot be loaded, the one before goes on", model=name, version=version.name)
        else:
            self._loaded[name] = version
        finally:
            del self._loading[name]
