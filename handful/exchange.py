"""Models as zips: from the trainer into a file, whole or not at all, and from a file to the trainer."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handful.errors import DataLoss
from handful.v1.model_pb2 import (
    ExportModelVersionRequest,
    ExportModelVersionResponse,
    ImportModelVersionRequest,
    ModelVersion,
)
from handful.v1.model_pb2_grpc import ModelServiceStub

CHUNK_BYTES = 1024 * 1024

# How many bytes of how many have gone over.
OnBytes = Callable[[int, int], None]


def ignored(_done: int, _all: int) -> None:
    """Hears of bytes and does nothing."""


@dataclass(frozen=True)
class Exported:
    """A zip that was fetched, and what the trainer says of it."""

    path: Path
    export: ExportModelVersionResponse.Export


def fetch(stub: ModelServiceStub, request: ExportModelVersionRequest, to: Path, on_bytes: OnBytes) -> Exported:
    """Writes a version's zip to a `.zip` file, or into a folder under its own name, and makes what folder is missing.
    DataLoss where bytes changed underway.
    """
    call = stub.ExportModelVersion(request)
    try:
        export = next(call).export
        path = to if to.suffix == ".zip" and not to.is_dir() else to / export.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        try:
            _write(partial, call, export, on_bytes)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    finally:
        call.cancel()
    return Exported(path, export)


def send(stub: ModelServiceStub, opened: ImportModelVersionRequest.Open, path: Path, on_bytes: OnBytes) -> ModelVersion:
    """The version that a zip has become."""
    with path.open("rb") as file:
        opened.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    version: ModelVersion = stub.ImportModelVersion(_messages(opened, path, on_bytes)).model_version
    return version


def _write(
    path: Path,
    messages: Iterator[ExportModelVersionResponse],
    export: ExportModelVersionResponse.Export,
    on_bytes: OnBytes,
) -> None:
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        for message in messages:
            file.write(message.chunk.data)
            digest.update(message.chunk.data)
            written += len(message.chunk.data)
            on_bytes(written, export.size_bytes)
    if digest.hexdigest() != export.sha256:
        raise DataLoss("The zip changed on the way. Export it again.")


def _messages(
    opened: ImportModelVersionRequest.Open, path: Path, on_bytes: OnBytes
) -> Iterator[ImportModelVersionRequest]:
    yield ImportModelVersionRequest(open=opened)
    size, sent = path.stat().st_size, 0
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield ImportModelVersionRequest(chunk=ImportModelVersionRequest.Chunk(data=data))
            sent += len(data)
            on_bytes(sent, size)
