"""Examples that are asked about by what is in them, in place of a file: every call that takes a file takes them."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from grpc import aio

from handful import Client
from handful.bundle import manifest
from handful.channel import Addresses
from handful.errors import InvalidArgument, NotFound, Unimplemented, from_rpc_error
from handful.predictions import File
from handful.v1 import inference_pb2_grpc
from handful.v1.dataset_pb2 import Example
from handful.v1.inference_pb2 import (
    ExplainRequest,
    NearestExample,
    PredictBatchRequest,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
)
from services.inference.examples import MAX_READS, Examples
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, point, publish
from tests.older_inference import Older
from tests.servers import open_inference, reason

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
Paint = Callable[[str], bytes]
FLOWERS = "projects/default/models/flowers"
NOWHERE = "0" * 64


@pytest.fixture
def paint(picture: Callable[..., bytes]) -> Paint:
    return lambda colour: picture(1, COLOURS[colour])


def keep(store: FilesystemStore, file: bytes, project: str = "default") -> str:
    """Stores a file as an example's; its hash."""
    digest = manifest.sha256(file)
    store.put(manifest.blob_key(project, digest), file)
    return digest


async def test_every_call_answers_as_of_the_file_itself(
    store: FilesystemStore, inference_stub: Stub, paint: Paint
) -> None:
    point(store, {"flowers": [publish(store)]})
    image = paint("green")
    kept = keep(store, image)
    expected = await inference_stub.Predict(PredictRequest(model=FLOWERS, image=image))
    asked = PredictRequest(model=FLOWERS, content_sha256=kept)
    assert await inference_stub.Predict(asked) == expected
    stream = inference_stub.StreamPredict(iter([StreamPredictRequest(request_id="1", predict=asked)]))
    assert [one.prediction async for one in stream] == [expected]
    explained = await inference_stub.Explain(ExplainRequest(model=FLOWERS, content_sha256=kept))
    assert explained == await inference_stub.Explain(ExplainRequest(model=FLOWERS, image=image))


async def test_one_of_a_batch_that_is_not_there_is_told_in_its_place(
    store: FilesystemStore, inference_stub: Stub, paint: Paint
) -> None:
    point(store, {"flowers": [publish(store)]})
    wanted = [keep(store, paint("red")), NOWHERE, "red.jpg", keep(store, paint("blue"))]
    request = PredictBatchRequest(model=FLOWERS, content_sha256s=wanted, top_k=1)
    red, nowhere, no_hash, blue = (await inference_stub.PredictBatch(request)).results
    assert [one.prediction.predictions[0].label for one in (red, blue)] == ["red", "blue"]
    assert (nowhere.error.reason, no_hash.error.reason) == ("RESOURCE_NOT_FOUND", "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("content_sha256", "code", "why"),
    [
        (NOWHERE, "NOT_FOUND", NOWHERE),
        ("A" * 64, "INVALID_ARGUMENT", "content_sha256: must be the SHA-256"),
        ("../aliases.json", "INVALID_ARGUMENT", "content_sha256: must be the SHA-256"),
        (f"{NOWHERE}\n", "INVALID_ARGUMENT", "content_sha256: must be the SHA-256"),
    ],
)
async def test_what_is_no_example_is_refused(
    store: FilesystemStore, inference_stub: Stub, content_sha256: str, code: str, why: str
) -> None:
    point(store, {"flowers": [publish(store)]})
    with pytest.raises(aio.AioRpcError) as caught:
        await inference_stub.Predict(PredictRequest(model=FLOWERS, content_sha256=content_sha256))
    assert caught.value.code().name == code
    assert why in str(from_rpc_error(caught.value))


async def test_another_projects_example_is_not_there(
    store: FilesystemStore, inference_stub: Stub, paint: Paint
) -> None:
    """Whoever knows what is in it could as well send it, but is not told whether another project has it."""
    point(store, {"flowers": [publish(store)]})
    foreign = keep(store, paint("red"), "other")
    with pytest.raises(aio.AioRpcError) as caught:
        await inference_stub.Predict(PredictRequest(model=FLOWERS, content_sha256=foreign))
    assert reason(caught.value) == "RESOURCE_NOT_FOUND"


async def test_a_stored_file_that_was_changed_is_not_answered(
    store: FilesystemStore, inference_stub: Stub, paint: Paint
) -> None:
    point(store, {"flowers": [publish(store)]})
    store.put(manifest.blob_key("default", NOWHERE), paint("red"))
    with pytest.raises(aio.AioRpcError) as caught:
        await inference_stub.Predict(PredictRequest(model=FLOWERS, content_sha256=NOWHERE))
    assert (caught.value.code().name, reason(caught.value)) == ("DATA_LOSS", "BLOB_CORRUPT")


async def test_a_file_and_an_example_are_one_too_many(
    store: FilesystemStore, inference_stub: Stub, paint: Paint
) -> None:
    point(store, {"flowers": [publish(store)]})
    image = paint("red")
    kept = keep(store, image)
    batch = PredictBatchRequest(model=FLOWERS, images=[image], content_sha256s=[kept])
    for call in (
        inference_stub.Predict(PredictRequest(model=FLOWERS, image=image, content_sha256=kept)),
        inference_stub.PredictBatch(batch),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        ((field, problem),) = from_rpc_error(caught.value).violations
        assert field.startswith("content_sha256")
        assert problem.startswith("must be empty where")


async def test_the_client_takes_what_has_a_content(store: FilesystemStore, paint: Paint) -> None:
    """An example of a dataset, or one that an explanation named, stands where a file does, also among files."""
    point(store, {"flowers": [publish(store)]})
    example = Example(content_sha256=keep(store, paint("green")))
    near = NearestExample(content_sha256=keep(store, paint("blue")))
    gone = Example(content_sha256=NOWHERE)

    def ask(address: str) -> None:
        with Client(Addresses(inference=address)) as client:
            assert client.predict("flowers", example).predictions[0].label == "green"
            assert client.explain("flowers", near).label == "blue"
            files: list[File] = [example, paint("red"), gone, near, Example()]
            *answers, empty = client.predict_many("flowers", files, top_k=1)
            assert isinstance(answers.pop(2), NotFound)
            assert isinstance(empty, InvalidArgument)
            labels = [one.predictions[0].label for one in answers if isinstance(one, PredictResponse)]
            assert labels == ["green", "red", "blue"]

    async with open_inference(store) as address:
        await asyncio.to_thread(ask, address)


async def test_a_file_may_be_named_by_whatever_is_a_path(store: FilesystemStore, paint: Paint, tmp_path: Path) -> None:
    """As the entries of a folder are, which are no `Path`."""
    point(store, {"flowers": [publish(store)]})
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "green.png").write_bytes(paint("green"))

    def ask(address: str) -> None:
        with Client(Addresses(inference=address)) as client, os.scandir(folder) as entries:
            assert [client.predict("flowers", one).predictions[0].label for one in entries] == ["green"]

    async with open_inference(store) as address:
        await asyncio.to_thread(ask, address)


async def test_an_older_server_is_said_to_be_one(store: FilesystemStore, paint: Paint) -> None:
    """It finds no file in what it is asked; the SDK says that the server does not know the question."""
    point(store, {"flowers": [publish(store)]})
    example = Example(content_sha256=keep(store, paint("green")))

    def ask(address: str) -> None:
        with Client(Addresses(inference=address)) as client:
            for question in (
                lambda: client.predict("flowers", example),
                lambda: client.explain("flowers", example),
                lambda: list(client.predict_many("flowers", [example])),
            ):
                with pytest.raises(Unimplemented, match=r"content_sha256: .* older release"):
                    question()
            with pytest.raises(InvalidArgument, match="The file is empty"):
                client.predict("flowers", b"")

    async with open_inference(store, servicer=Older) as address:
        await asyncio.to_thread(ask, address)


async def test_nothing_is_read_for_a_question_that_is_wrong(store: FilesystemStore, inference_stub: Stub) -> None:
    """Of a label that the model has not that is said, whatever is in the store."""
    point(store, {"flowers": [publish(store)]})
    with pytest.raises(aio.AioRpcError) as caught:
        await inference_stub.Explain(ExplainRequest(model=FLOWERS, content_sha256=NOWHERE, label="purple"))
    assert str(from_rpc_error(caught.value)).startswith("label: is no class of the model")


class SlowStore(FilesystemStore):
    """Remembers how many were reading at the same time, at most."""

    most = reading = 0
    _lock = threading.Lock()

    def get(self, key: str, sha256: str | None = None) -> bytes:
        with self._lock:
            self.reading += 1
            self.most = max(self.most, self.reading)
        time.sleep(0.05)
        with self._lock:
            self.reading -= 1
        return super().get(key, sha256)


async def test_few_examples_are_read_at_a_time(tmp_path: Path) -> None:
    """However many are asked about: what is read holds memory, and models are read by the same threads."""
    store = SlowStore(tmp_path / "store")
    kept = keep(store, b"anything")
    examples = Examples(store)
    assert await asyncio.gather(*(examples.read("default", kept) for _ in range(12))) == [b"anything"] * 12
    assert store.most <= MAX_READS
