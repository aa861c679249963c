"""Models out and in over gRPC: streams, repeats, limits, and nothing left behind, whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import tempfile
import zipfile
from collections.abc import Awaitable, Iterable
from pathlib import Path

import grpc
import numpy as np
import pytest
from safetensors.numpy import load, save

from handful.errors import from_rpc_error
from handful.v1 import inference_pb2, inference_pb2_grpc, model_pb2, model_pb2_grpc
from handful.v1.model_pb2 import ExportModelVersionResponse, ImportModelVersionRequest
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import models
from services.trainer.exports import archive, formats, sending
from services.trainer.imports import receiving
from services.trainer.records import ModelKey, NewModelVersion
from tests import hostile_zips, whole_bundles
from tests.hostile_zips import HOSTILE, truncated
from tests.playing_worker import PROJECT
from tests.processes import children
from tests.servers import TrainerService
from tests.whole_bundles import LABELS, Parts

MODEL = f"{PROJECT}/models/colours"
VERSION = f"{MODEL}/versions/1"
CHUNK = 100_000

# A zip is the same whatever keeps the rows; what is kept of an import, test_imported_versions.py tries on both.
pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return whole_bundles.make()


@pytest.fixture(scope="module")
def exported(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What of an export is read back."""
    return parts.zip(tmp_path_factory.mktemp("zips") / "a.zip")


@pytest.fixture
async def version(trainer_service: TrainerService, store: FilesystemStore, parts: Parts) -> str:
    return await publish(trainer_service, store, parts)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterable[None]:
    """No test leaves a file where spools lie."""
    yield
    assert spools() == []


def spools() -> list[Path]:
    """Those of the trainer in this process."""
    ours = [f"handful-{kind}-{os.getpid()}-*" for kind in ("export", "import")]
    return [path for pattern in ours for path in Path(tempfile.gettempdir()).glob(pattern)]


def spawned() -> set[int]:
    """Processes with Python's own work for this one."""
    return {pid for pid in children() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


async def publish(service: TrainerService, store: FilesystemStore, parts: Parts) -> str:
    """The name of a version with the bundle."""
    digest = parts.store(store)
    new = NewModelVersion(
        ModelKey("default", "colours"), digest, parts.model.recipe, LABELS, (), promote=False, run="r"
    )
    async with service.database.write() as connection:
        return f"{MODEL}/versions/{await models.publish(connection, new)}"


async def export(
    service: TrainerService, name: str, wanted: str = ""
) -> tuple[ExportModelVersionResponse.Export, bytes]:
    stream = service.models.ExportModelVersion(model_pb2.ExportModelVersionRequest(name=name, format=wanted))
    messages = [one async for one in stream]
    assert [one.WhichOneof("part") for one in messages] == ["export"] + ["chunk"] * (len(messages) - 1)
    assert all(0 < len(one.chunk.data) <= 2**20 for one in messages[1:])
    return messages[0].export, b"".join(one.chunk.data for one in messages)


async def send(
    service: TrainerService, data: bytes, parent: str = PROJECT, model_id: str = "colours", **fields: object
) -> model_pb2.ModelVersion:
    opened = ImportModelVersionRequest.Open(parent=parent, model_id=model_id, **fields)  # type: ignore[arg-type]
    return await call(service, opened, *(data[start : start + CHUNK] for start in range(0, len(data), CHUNK)))


async def call(service: TrainerService, *steps: ImportModelVersionRequest.Open | bytes) -> model_pb2.ModelVersion:
    """Sends from a thread: of a call that is answered while it still sends, grpc.aio may say INTERNAL by itself."""

    def send_all() -> model_pb2.ModelVersion:
        with grpc.insecure_channel(service.address) as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            return stub.ImportModelVersion(message(step) for step in steps).model_version

    return await asyncio.to_thread(send_all)


def message(step: ImportModelVersionRequest.Open | bytes) -> ImportModelVersionRequest:
    if isinstance(step, bytes):
        return ImportModelVersionRequest(chunk=ImportModelVersionRequest.Chunk(data=step))
    return ImportModelVersionRequest(open=step)


async def answer(waited: Awaitable[object]) -> str:
    """How a call ends: OK, or its code and reason."""
    try:
        await waited
    except grpc.RpcError as problem:
        error = from_rpc_error(problem)
        return f"{error.code.name} {error.reason}"
    return "OK"


async def test_a_version_is_exported(trainer_service: TrainerService, store: FilesystemStore, version: str) -> None:
    """The stream says what comes and brings it, by version and by alias, the same every time."""
    said, data = await export(trainer_service, version)
    assert (said.name, said.filename) == (VERSION, "colours-1.zip")
    assert (said.size_bytes, said.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (said.num_golden, said.top1_agreement) == (whole_bundles.NUM_GOLDEN, 1)
    assert said.max_abs_diff <= 1e-6
    kept = next(key for key in store.keys("projects/default/exports/") if key.endswith(".zip"))
    assert store.get(kept) == data
    assert await export(trainer_service, f"{MODEL}@production") == (said, data)


async def test_formats_are_listed(trainer_service: TrainerService, version: str) -> None:
    """The default one comes first; of each is said what it needs and how near it comes, and of a version why it cannot
    be had. Of a version that is not there nothing is said.
    """
    listing = trainer_service.models.ListExportFormats
    general = (await listing(model_pb2.ListExportFormatsRequest())).export_formats
    assert [one.name for one in general] == list(formats.FORMATS)
    assert general[0].name == "onnx"
    assert all(one.title and one.description and one.needs and one.modalities for one in general)
    assert all(0 < one.max_abs_diff < 1 for one in general)
    assert (await listing(model_pb2.ListExportFormatsRequest(name=version))).export_formats == general
    nowhere = listing(model_pb2.ListExportFormatsRequest(name=f"{MODEL}/versions/9"))
    assert await answer(nowhere) == "NOT_FOUND RESOURCE_NOT_FOUND"
    unnamed = listing(model_pb2.ListExportFormatsRequest(name="colours"))
    assert await answer(unnamed) == "INVALID_ARGUMENT INVALID_REQUEST"


async def test_a_format_that_is_none_is_refused(trainer_service: TrainerService, version: str) -> None:
    """It is an error of the field that names those there are; without a format the default one is meant."""
    with pytest.raises(grpc.RpcError) as caught:
        await export(trainer_service, version, "coreml")
    error = from_rpc_error(caught.value)
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert error.violations == (("format", f"must be one of {', '.join(formats.FORMATS)}"),)
    assert (await export(trainer_service, version, "onnx")) == (await export(trainer_service, version))


@pytest.mark.parametrize("wanted", [name for name, one in formats.FORMATS.items() if not one.importable])
async def test_what_has_no_bundle_does_not_come_back(
    trainer_service: TrainerService, version: str, wanted: str
) -> None:
    """Other formats than the default one are sent under their own name, kept, and refused as an import."""
    said, data = await export(trainer_service, version, wanted)
    assert (said.format, said.filename) == (wanted, f"colours-1-{wanted}.zip")
    assert (await export(trainer_service, version, wanted)) == (said, data)
    assert await answer(send(trainer_service, data)) == "INVALID_ARGUMENT NOT_A_MODEL"


async def test_what_is_not_there_is_not_exported(trainer_service: TrainerService, version: str) -> None:
    """NOT_FOUND for a version that is not there, INVALID_ARGUMENT for what is no name of one."""
    answers = {}
    for name in (VERSION.replace("1", "2"), VERSION.replace("default", "elsewhere"), f"{MODEL}@best", MODEL, ""):
        answers[name] = await answer(export(trainer_service, name))
    assert list(answers.values()) == ["NOT_FOUND RESOURCE_NOT_FOUND"] * 3 + ["INVALID_ARGUMENT INVALID_REQUEST"] * 2
    assert version == VERSION


@pytest.mark.parametrize("damaged", ["head.safetensors", "backbone.onnx"])
async def test_a_damaged_bundle_is_data_loss(
    trainer_service: TrainerService, store: FilesystemStore, version: str, damaged: str
) -> None:
    """A stored file that is not what its hash says, or is gone, ends the export, and the trainer goes on."""
    suffix = damaged if damaged.startswith("head") else ".onnx"
    key = next(key for key in store.keys("projects/default/b") if key.endswith(suffix))
    data = store.get(key)
    store.put(key, data[:-1] + b"\x07")
    assert await answer(export(trainer_service, version)) == "DATA_LOSS BLOB_CORRUPT"
    store.delete(key)
    assert await answer(export(trainer_service, version)) == "DATA_LOSS BLOB_CORRUPT"
    store.put(key, data)
    assert await answer(export(trainer_service, version)) == "OK"


async def test_what_is_no_model_of_ours_is_not_exported(
    trainer_service: TrainerService, store: FilesystemStore
) -> None:
    """A bundle that holds something else is FAILED_PRECONDITION, and so is one that disagrees with itself."""
    odd, lying = whole_bundles.make(seed=1), whole_bundles.make(seed=2)
    odd.files["head.safetensors"] = b"a head"
    lying.files["head.safetensors"] = whole_bundles.make(seed=3).files["head.safetensors"]
    names = [await publish(trainer_service, store, one.written()) for one in (odd, lying)]
    assert [await answer(export(trainer_service, name)) for name in names] == [
        "FAILED_PRECONDITION BUNDLE_UNKNOWN",
        "FAILED_PRECONDITION EXPORT_DISAGREES",
    ]
    assert list(store.keys("projects/default/exports/")) == []


async def test_an_export_that_is_killed_leaves_nothing(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Its process dies: the caller hears so, no file of it is left and none in the store, and the next one is made."""
    before, there = spawned(), set(store.keys(""))
    asked = asyncio.create_task(answer(export(trainer_service, version, "onnx-int8")))
    async with asyncio.timeout(30):
        while not (made := [path for folder in spools() for path in folder.iterdir()]):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.001)
    (working,) = spawned() - before
    os.kill(working, signal.SIGKILL)
    assert await asked == "FAILED_PRECONDITION LIMITS_EXCEEDED"
    assert made
    assert spools() == []
    assert set(store.keys("")) == there
    assert await answer(export(trainer_service, version, "onnx-int8")) == "OK"


async def test_so_many_exports_at_once(trainer_service: TrainerService, store: FilesystemStore) -> None:
    """Streams that are not read hold their places; one more is refused; a caller that goes away makes room."""
    large = whole_bundles.make()
    large.weights = save({"network.spread": np.zeros(5_000_000, np.float32)})  # more than gRPC takes unread
    request = model_pb2.ExportModelVersionRequest(name=await publish(trainer_service, store, large.written()))
    held = [trainer_service.models.ExportModelVersion(request) for _ in range(sending.MAX_STREAMS)]
    for one in held:
        first = await one.read()
        assert isinstance(first, ExportModelVersionResponse)
        assert first.HasField("export")
    assert len(spools()) == sending.MAX_STREAMS
    assert await answer(export(trainer_service, request.name)) == "RESOURCE_EXHAUSTED TOO_MANY_STREAMS"
    for one in held:
        one.cancel()
    async with asyncio.timeout(5):
        while spools():  # noqa: ASYNC110 - what is waited for is in another's files
            await asyncio.sleep(0.02)
    assert await answer(export(trainer_service, request.name)) == "OK"


async def test_an_import_has_its_evaluation(trainer_service: TrainerService, parts: Parts, exported: bytes) -> None:
    """How the model did where it was trained comes along, with the plots."""
    made = await send(trainer_service, exported)
    found = await trainer_service.models.GetEvaluation(model_pb2.GetEvaluationRequest(name=made.name))
    assert found.evaluation == parts.bundle.evaluation
    assert {plot.name: plot.png for plot in found.plots} == {"loss": parts.files["plots/loss.png"]}


async def test_an_import_serves_what_was_exported(
    trainer_service: TrainerService,
    inference_stub: inference_pb2_grpc.InferenceServiceAsyncStub,
    parts: Parts,
    exported: bytes,
) -> None:
    """In another project the model gives the answers that stand in the bundle."""
    made = await send(trainer_service, exported, parent="projects/elsewhere", model_id="mine")
    golden = load(parts.files["golden.safetensors"])
    response = await inference_stub.Predict(
        inference_pb2.PredictRequest(model="projects/elsewhere/models/mine", image=golden["picture"].tobytes())
    )
    assert response.model_version == made.name == "projects/elsewhere/models/mine/versions/1"
    scores = {one.label: one.score for one in response.predictions}
    assert scores == pytest.approx(dict(zip(LABELS, golden["probabilities"][0].tolist(), strict=True)), abs=1e-6)


async def test_an_import_is_exported_again(trainer_service: TrainerService, version: str) -> None:
    """Out, in, and out again is the same zip."""
    _, data = await export(trainer_service, version)
    made = await send(trainer_service, data, parent="projects/elsewhere")
    assert (await export(trainer_service, made.name))[1] == data


async def test_what_lies_beside_the_model_is_not_read(trainer_service: TrainerService, version: str) -> None:
    """A zip of the same structure is taken whoever wrote it; its scripts and merged graph are no part of the model, and
    the next export has our own.
    """
    _, data = await export(trainer_service, version)
    with zipfile.ZipFile(io.BytesIO(data)) as read:
        files = {name: read.read(name) for name in read.namelist()}
    beside = {name: b"changed" for name in files if not name.startswith("bundle/")}
    assert {"predict.py", "model.onnx"} <= beside.keys()
    buffer = io.BytesIO()
    archive.write(buffer, {**files, **beside, "notes.txt": b"mine"})
    made = await send(trainer_service, buffer.getvalue(), parent="projects/elsewhere")
    assert (await export(trainer_service, made.name))[1] == data
    again = io.BytesIO()
    with zipfile.ZipFile(again, "w") as ordinary:
        for name, content in files.items():
            ordinary.writestr(name, content)
    assert await answer(send(trainer_service, again.getvalue())) == "INVALID_ARGUMENT UNSUPPORTED_ARCHIVE"


async def test_a_hostile_zip_leaves_nothing(
    trainer_service: TrainerService, store: FilesystemStore, parts: Parts
) -> None:
    """Whatever the zip, the answer is INVALID_ARGUMENT with its reason; nothing is stored, written or made of it."""
    beside = set(Path.cwd().iterdir())
    answers = {kind: await answer(send(trainer_service, make(parts.entries()))) for kind, (make, _) in HOSTILE.items()}
    assert answers == {kind: f"INVALID_ARGUMENT {reason}" for kind, (_, reason) in HOSTILE.items()}
    assert list(store.keys("")) == []
    assert set(Path.cwd().iterdir()) == beside
    listed = await trainer_service.models.ListModels(model_pb2.ListModelsRequest(parent=PROJECT))
    assert list(listed.models) == []
    assert await answer(send(trainer_service, hostile_zips.zipped(parts.entries()))) == "OK"


async def test_what_is_cut_off_leaves_nothing(
    trainer_service: TrainerService, store: FilesystemStore, parts: Parts
) -> None:
    """A zip of which the end is missing is refused."""
    for data in truncated(parts.entries()):
        assert await answer(send(trainer_service, data)) == "INVALID_ARGUMENT CORRUPT_ARCHIVE"
    assert list(store.keys("")) == []


async def test_a_model_that_lies_is_refused(
    trainer_service: TrainerService, store: FilesystemStore, tmp_path: Path
) -> None:
    """A model that does not answer as it says leaves nothing, and the next import is taken."""
    lying = whole_bundles.make()
    lying.files["head.safetensors"] = whole_bundles.make(seed=3).files["head.safetensors"]
    data = lying.written().zip(tmp_path / "a.zip")
    assert await answer(send(trainer_service, data)) == "INVALID_ARGUMENT MODEL_DISAGREES"
    assert list(store.keys("")) == []
    assert await answer(send(trainer_service, whole_bundles.make().zip(tmp_path / "a.zip"))) == "OK"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "projects/Default"}, "open.parent"),
        ({"parent": ""}, "open.parent"),
        ({"parent": f"{PROJECT}/models/a"}, "open.parent"),
        ({"model_id": ""}, "open.model_id"),
        ({"model_id": "../a"}, "open.model_id"),
        ({"request_id": "x" * 65}, "request_id"),
    ],
)
async def test_names_are_checked(
    trainer_service: TrainerService, exported: bytes, fields: dict[str, str], field: str
) -> None:
    """What is no project, no id of a model or no request_id is named."""
    with pytest.raises(grpc.RpcError) as caught:
        await send(trainer_service, exported, **fields)
    assert [name for name, _ in from_rpc_error(caught.value).violations] == [field]


async def test_steps_have_an_order(trainer_service: TrainerService, exported: bytes) -> None:
    """`open` comes first, once; chunks have their limit."""
    opened = ImportModelVersionRequest.Open(parent=PROJECT, model_id="colours")
    orders: list[tuple[ImportModelVersionRequest.Open | bytes, ...]] = [
        (),
        (exported,),
        (opened, opened),
        (opened, exported[:CHUNK], opened),
        (opened, bytes(2**20 + 1)),
    ]
    for steps in orders:
        assert await answer(call(trainer_service, *steps)) == "INVALID_ARGUMENT PROTOCOL"


async def test_bytes_that_changed_are_noticed(trainer_service: TrainerService, exported: bytes) -> None:
    """Bytes that are not the announced ones are refused before they are looked at."""
    other = hashlib.sha256(b"other").hexdigest()
    assert await answer(send(trainer_service, exported, sha256=other)) == "INVALID_ARGUMENT CHECKSUM_MISMATCH"


async def test_a_zip_has_its_limit(trainer_service: TrainerService) -> None:
    """A stream that goes on beyond the limit is ended."""
    assert await answer(send(trainer_service, bytes(archive.MAX_BYTES + 1))) == "INVALID_ARGUMENT MODEL_TOO_LARGE"


async def test_so_many_imports_at_once(trainer_service: TrainerService, exported: bytes) -> None:
    """Streams under way hold their places; one more is refused; a caller that goes away makes room."""
    held = []
    for _ in range(receiving.MAX_STREAMS):
        held.append(trainer_service.models.ImportModelVersion())
        await held[-1].write(message(ImportModelVersionRequest.Open(parent=PROJECT, model_id="colours")))
        await held[-1].write(message(exported[:CHUNK]))
    async with asyncio.timeout(5):
        while len(spools()) < receiving.MAX_STREAMS:  # noqa: ASYNC110 - what is waited for is in another's files
            await asyncio.sleep(0.02)
    assert await answer(send(trainer_service, exported)) == "RESOURCE_EXHAUSTED TOO_MANY_STREAMS"
    for one in held:
        one.cancel()
    async with asyncio.timeout(5):
        while spools():  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.02)
    assert await answer(send(trainer_service, exported)) == "OK"
