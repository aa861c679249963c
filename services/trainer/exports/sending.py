"""Exports on their way to callers: made in a limited process, then read from a file in pieces. Whatever happens, the
file is gone in the end.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

from handful.errors import FailedPrecondition, ResourceExhausted
from handful.v1.model_pb2 import ExportModelVersionResponse
from services.shared.objects import ObjectStore
from services.trainer.exports import formats
from services.trainer.exports.bundle import Unreadable
from services.trainer.exports.formats import Format
from services.trainer.limited import Limited, LimitsExceeded
from services.trainer.records import ModelVersionRecord

if TYPE_CHECKING:
    from services.trainer.exports.building import Export

CHUNK_BYTES = 1024 * 1024
# Each has a zip on disk.
MAX_STREAMS = 4


class Exports:
    """Sends model versions as zips."""

    def __init__(self, store: ObjectStore, limited: Limited) -> None:
        self._store = store
        self._limited = limited
        self._streams = 0

    async def send(
        self, version: ModelVersionRecord, wanted: Format
    ) -> AsyncGenerator[ExportModelVersionResponse, None]:
        """`export`, then the bytes. FailedPrecondition where the version cannot be had in the format."""
        wanted.check(version)
        if self._streams >= MAX_STREAMS:
            raise ResourceExhausted(f"{MAX_STREAMS} exports are under way. Try again later.", reason="TOO_MANY_STREAMS")
        self._streams += 1
        try:
            # A process that is being ended may still write there.
            prefix = f"handful-export-{os.getpid()}-"
            with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
                path = Path(folder) / "export.zip"
                yield _message(version, await self._make(version, wanted, path))
                with path.open("rb") as file:
                    while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                        yield ExportModelVersionResponse(chunk=ExportModelVersionResponse.Chunk(data=data))
        finally:
            self._streams -= 1

    async def _make(self, version: ModelVersionRecord, wanted: Format, path: Path) -> "Export":
        what = (version.key.project, version.manifest_sha256, wanted.name)
        try:
            return await self._limited.run(_fetch, self._store, *what, path)
        except LimitsExceeded as problem:
            message = "Exporting this model takes more memory or time than this server has for it."
            raise FailedPrecondition(message, reason="LIMITS_EXCEEDED") from problem
        except Unreadable as problem:
            message = f"The bundle of {version.name} is of a kind that this server does not know."
            raise FailedPrecondition(message, reason="BUNDLE_UNKNOWN") from problem
        except OSError as problem:
            raise ResourceExhausted("There is no room for the export on this server.", reason="DISK_FULL") from problem


def _message(version: ModelVersionRecord, made: "Export") -> ExportModelVersionResponse:
    other = "" if made.format == formats.DEFAULT else f"-{made.format}"
    return ExportModelVersionResponse(
        export=ExportModelVersionResponse.Export(
            name=version.name, filename=f"{version.key.model}-{version.number}{other}.zip", **vars(made)
        )
    )


def _fetch(store: ObjectStore, project: str, manifest_sha256: str, wanted: str, path: Path) -> "Export":
    from services.trainer.exports.building import fetch  # numpy, onnx and ONNX Runtime, in the process that runs it

    # What it writes on the way goes with the folder, however this process ends.
    before, tempfile.tempdir = tempfile.tempdir, str(path.parent)
    try:
        return fetch(store, project, manifest_sha256, wanted, path)
    finally:
        tempfile.tempdir = before
