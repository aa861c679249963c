"""Zips on their way in: spooled to a file under limits, checked and tried in a limited process, then a model version.
The file is gone in the end, whatever happens.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from handful import names
from handful.bundle import manifest
from handful.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from handful.v1.bundle_pb2 import Evaluation, ModelManifest
from handful.v1.model_pb2 import ImportModelVersionRequest, ImportModelVersionResponse
from services.shared.answers import kept, once
from services.shared.database import Database
from services.shared.objects import ObjectStore
from services.shared.streams import in_time
from services.trainer import models
from services.trainer.exports import archive
from services.trainer.imports.archive import Archive
from services.trainer.limited import Limited, LimitsExceeded
from services.trainer.messages import model_version_message
from services.trainer.pointers import Pointers
from services.trainer.records import ModelKey, NewModelVersion
from services.trainer.tables import requests

MAX_CHUNK = 1024 * 1024
# Each has a zip on disk.
MAX_STREAMS = 2

Stream = AsyncIterator[ImportModelVersionRequest]


class Imports:
    """Takes exported zips as model versions."""

    def __init__(self, database: Database, store: ObjectStore, pointers: Pointers, limited: Limited) -> None:
        self._database = database
        self._store = store
        self._pointers = pointers
        self._limited = limited
        self._streams = 0

    async def receive(self, incoming: Stream) -> ImportModelVersionResponse:
        """The version that a stream's zip has become."""
        if self._streams >= MAX_STREAMS:
            raise ResourceExhausted(f"{MAX_STREAMS} imports are under way. Try again later.", reason="TOO_MANY_STREAMS")
        self._streams += 1
        try:
            with TemporaryDirectory(prefix=f"handful-import-{os.getpid()}-") as folder:
                return await self._receive(in_time(incoming, "Send it again."), Path(folder) / "import.zip")
        finally:
            self._streams -= 1

    async def _receive(self, incoming: Stream, path: Path) -> ImportModelVersionResponse:
        request = await _open(incoming)
        # With the hash of what came, a repeat under the same request_id is known from another request.
        request.sha256 = await _spool(incoming, path, request.sha256)
        async with self._database.read() as connection:
            known = await kept(connection, requests, request, ImportModelVersionResponse)
        if known is not None:
            return known
        project = request.parent.removeprefix("projects/")
        described, evaluation = await self._take(project, path)
        async with self._database.write() as connection:

            async def publish() -> ImportModelVersionResponse:
                new = _new(project, request, described, evaluation)
                number = await models.publish(connection, new)
                version = await models.version(connection, new.key, number)
                return ImportModelVersionResponse(model_version=model_version_message(version))

            answer = await once(connection, requests, request, ImportModelVersionResponse, publish)
        await self._pointers.write(project)
        return answer

    async def _take(self, project: str, path: Path) -> tuple[bytes, bytes]:
        await asyncio.to_thread(Archive.open, path)  # what is no zip of ours need not wait for a process
        try:
            return await self._limited.run(_take, self._store, project, path)
        except LimitsExceeded as problem:
            message = "Trying this model takes more memory or time than this server has for it. Nothing was imported."
            raise FailedPrecondition(message, reason="LIMITS_EXCEEDED") from problem


async def _open(incoming: Stream) -> ImportModelVersionRequest.Open:
    first = await anext(incoming, None)
    if first is None or first.WhichOneof("part") != "open":
        raise _protocol("the first message must be open")
    opened = first.open
    names.match(names.PROJECT, opened.parent, "open.parent")
    names.check_id(opened.model_id, "open.model_id")
    return opened


async def _spool(incoming: Stream, path: Path, announced: str) -> str:
    """Writes what comes to the file; its SHA-256."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            async for message in incoming:
                data = message.chunk.data
                if message.WhichOneof("part") != "chunk" or len(data) > MAX_CHUNK:
                    raise _protocol(f"after open come chunks of at most {MAX_CHUNK} bytes")
                num_bytes += len(data)
                if num_bytes > archive.MAX_BYTES:
                    raise InvalidArgument(f"A zip has at most {archive.MAX_BYTES} bytes.", reason="MODEL_TOO_LARGE")
                digest.update(data)
                await asyncio.to_thread(file.write, data)
    except OSError as problem:
        raise ResourceExhausted("There is no room for the zip on this server.", reason="DISK_FULL") from problem
    if announced not in ("", digest.hexdigest()):
        raise InvalidArgument("The bytes are not the ones that sha256 announced.", reason="CHECKSUM_MISMATCH")
    return digest.hexdigest()


def _new(project: str, request: ImportModelVersionRequest.Open, described: bytes, evaluation: bytes) -> NewModelVersion:
    model = manifest.from_bytes(ModelManifest, described)
    return NewModelVersion(
        key=ModelKey(project, request.model_id),
        manifest_sha256=manifest.sha256(described),
        recipe=model.recipe,
        labels=tuple(model.labels),
        metrics=tuple((one.name, one.value) for one in manifest.from_bytes(Evaluation, evaluation).metrics),
        promote=request.promote,
        imported_from_sha256=request.sha256,
    )


def _protocol(problem: str) -> InvalidArgument:
    return InvalidArgument(f"ImportModelVersion: {problem}.", reason="PROTOCOL")


def _take(store: ObjectStore, project: str, path: Path) -> tuple[bytes, bytes]:
    from services.trainer.imports.taking import take  # numpy, onnx and ONNX Runtime, in the process that runs it

    return take(store, project, path)
