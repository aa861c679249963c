"""What models a project has, as the trainer's pointer object says: read on first use, then followed every second."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from handful import names
from handful.bundle.manifest import from_bytes, pointer_key
from handful.errors import DataLoss, NotFound
from handful.v1.bundle_pb2 import ModelPointer, ProjectPointer
from services.inference.once import Once
from services.shared.objects import ObjectMissing, ObjectStore, StoreUnavailable

log = structlog.get_logger()

FOLLOW_SECONDS = 1.0
# So long a name that was not found is not looked for again.
MISSING_SECONDS = 0.25
PRODUCTION = "production"
_SHOWN = 10


@dataclass(frozen=True)
class VersionRef:
    """A model version that exists: its name and its manifest."""

    project: str
    name: str
    manifest_sha256: str

    @property
    def model(self) -> str:
        """The id of its model."""
        return names.match(names.MODEL_VERSION, self.name, "name")["model"]


class Pointers:
    """The pointers of the projects in use."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pointers: dict[str, ProjectPointer] = {}
        self._tags: dict[str, str] = {}
        self._looking = Once(MISSING_SECONDS, passing=(StoreUnavailable,))

    async def resolve(self, model: str) -> VersionRef:
        """The version that a model's, an alias's or a version's name means. NotFound says what there is instead."""
        parts = names.match((names.MODEL, names.MODEL_ALIAS, names.MODEL_VERSION), model, "model")
        try:
            return self._find(parts, model)
        except NotFound:
            # What was published a moment ago is found at once; only changed aliases wait for `follow`.
            return await self._looking.do(model, partial(self._look, parts, model))

    async def models(self, project: str) -> Mapping[str, ModelPointer]:
        """The project's models by their ids."""
        if project not in self._pointers:
            await self._refresh(project)
        return self._pointers.get(project, ProjectPointer()).models

    async def _look(self, parts: dict[str, str], model: str) -> VersionRef:
        await self._refresh(parts["project"])
        return self._find(parts, model)

    def _find(self, parts: dict[str, str], model: str) -> VersionRef:
        project, models = parts["project"], self._pointers.get(parts["project"], ProjectPointer()).models
        if parts["model"] not in models:
            known = ", ".join(sorted(models)[:_SHOWN]) or "none yet"
            raise NotFound(f"There is no model {parts['model']} in projects/{project}. Models there: {known}.")
        entry = models[parts["model"]]
        number = int(parts.get("number") or _aliased(entry, parts.get("alias") or PRODUCTION, model))
        if number not in entry.versions:
            known = ", ".join(map(str, sorted(entry.versions)[-_SHOWN:]))
            raise NotFound(f"Model {parts['model']} has no version {number}. Versions: {known}.")
        name = f"projects/{project}/models/{parts['model']}/versions/{number}"
        return VersionRef(project, name, entry.versions[number])

    async def follow(self) -> None:
        """For ever: sees changed pointers within a second."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            for project in list(self._pointers):
                try:
                    await self._refresh(project)
                except (StoreUnavailable, DataLoss) as problem:
                    log.warning("pointer not read, the last one stays", project=project, problem=str(problem))

    async def _refresh(self, project: str) -> None:
        try:
            found = await asyncio.to_thread(self._store.get_if_changed, pointer_key(project), self._tags.get(project))
        except ObjectMissing:
            return
        if found is None:
            return
        try:
            pointer = from_bytes(ProjectPointer, found[0])
        except ValueError as problem:
            raise DataLoss("The list of the project's models cannot be read.", reason="POINTER_CORRUPT") from problem
        known = self._pointers.get(project)  # another call's reading may have been faster than this one's
        if known and pointer.generation < known.generation:
            log.warning("an older pointer is ignored", project=project, generation=pointer.generation)
            return
        self._pointers[project], self._tags[project] = pointer, found[1]


def _aliased(entry: ModelPointer, alias: str, model: str) -> int:
    if alias not in entry.aliases:
        known = ", ".join(sorted(entry.aliases)[:_SHOWN]) or "none"
        raise NotFound(f"{model.partition('@')[0]} has no alias {alias}. Aliases: {known}.")
    return entry.aliases[alias]
