"""The pointer objects: what inference is told about a project's models. Written from SQL after every change, and again
every few seconds where that did not succeed or another replica made the change.
"""

import asyncio

import structlog

from handful.bundle.manifest import pointer_key, to_bytes
from handful.errors import Unavailable
from services.shared.database import Database
from services.shared.objects import ObjectStore, StoreUnavailable
from services.trainer import models

log = structlog.get_logger()

RECONCILE_SECONDS = 3.0


class Pointers:
    """Writes pointer objects. Of a project one is written at a time, whichever replica does it, from what SQL has then:
    so an older one never replaces a newer one.
    """

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self._written: dict[str, int] = {}

    async def write(self, project: str) -> None:
        """Writes the project's pointer as SQL has it; where the store is away, `reconcile` does it later."""
        async with self._database.read_alone(f"pointer of {project}") as connection:
            pointer = await models.pointer(connection, project)
            if self._written.get(project) == pointer.generation:
                return
            try:
                await asyncio.to_thread(self._store.put, pointer_key(project), to_bytes(pointer))
            except StoreUnavailable as problem:
                log.warning("pointer not written, will be", project=project, problem=str(problem))
                return
            self._written[project] = pointer.generation

    async def ensure(self, project: str) -> None:
        """Writes the project's pointer where this process has not written what SQL has now."""
        async with self._database.read() as connection:
            generation = (await models.projects(connection)).get(project)
        if generation is not None and self._written.get(project) != generation:
            await self.write(project)

    async def reconcile(self) -> None:
        """Writes every pointer once, then for ever those that are behind."""
        while True:
            try:
                async with self._database.read() as connection:
                    projects = await models.projects(connection)
                for project in projects:
                    await self.ensure(project)
            except Unavailable as problem:
                log.warning("pointers not looked at, will be", problem=problem.message)
            await asyncio.sleep(RECONCILE_SECONDS)
