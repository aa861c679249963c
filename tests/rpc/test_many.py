"""Many questions in one call: batches and streams, in which what is wrong with one is its own answer."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from grpc import StatusCode, aio

from handful import Client
from handful.channel import Addresses
from handful.errors import InvalidArgument, NotFound
from handful.predictions import BATCH_FILES, Answer, File
from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import (
    PredictBatchRequest,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
)
from services.inference.many import AT_ONCE
from services.inference.servicer import MAX_BATCH
from services.shared.objects.filesystem import FilesystemStore
from tests import sound_bundles
from tests.bundles import COLOURS, GatedLoader, point, publish
from tests.servers import open_inference, serving

FLOWERS = "projects/default/models/flowers"
BROKEN = b"no picture"

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"


@pytest.fixture
def paint(picture: Callable[..., bytes]) -> Callable[[str], bytes]:
    return lambda colour: picture(1, COLOURS[colour])


def wanted(request_id: str, image: bytes, model: str = FLOWERS) -> StreamPredictRequest:
    return StreamPredictRequest(request_id=request_id, predict=PredictRequest(model=model, image=image))


async def test_a_batch_is_answered_in_order_and_one_that_is_broken_alone_is_refused(
    store: FilesystemStore, inference_stub: Stub, paint: Callable[[str], bytes]
) -> None:
    point(store, {"flowers": [publish(store)]})
    colours = ["red", "blue", "green", "blue"] * 4
    images = [paint(colour) for colour in colours]
    images[5] = BROKEN
    results = (await inference_stub.PredictBatch(PredictBatchRequest(model=FLOWERS, images=images, top_k=1))).results
    assert [one.WhichOneof("outcome") for one in results].count("error") == 1
    error = results[5].error
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT.value[0], "UNSUPPORTED_FORMAT")
    assert "not a JPEG" in error.message
    for place, one in enumerate(results):
        if place != 5:
            assert [each.label for each in one.prediction.predictions] == [colours[place]]
            assert one.prediction.model_version == f"{FLOWERS}/versions/1"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (PredictBatchRequest(), "must be 1 to 64, not 0"),
        (PredictBatchRequest(images=[b"1"] * (MAX_BATCH + 1)), "must be 1 to 64, not 65"),
        (PredictBatchRequest(sounds=[b"1"]), "send `images`"),
        (PredictBatchRequest(images=[b"1"], top_k=-1), "must not be negative"),
    ],
)
async def test_a_batch_that_makes_no_sense_is_refused(
    store: FilesystemStore, inference_stub: Stub, request_: PredictBatchRequest, why: str
) -> None:
    point(store, {"flowers": [publish(store)]})
    request_.model = FLOWERS
    with pytest.raises(aio.AioRpcError) as caught:
        await inference_stub.PredictBatch(request_)
    assert caught.value.code() == StatusCode.INVALID_ARGUMENT
    assert why in str(caught.value)


async def test_a_stream_answers_every_request_by_its_id(
    store: FilesystemStore, inference_stub: Stub, paint: Callable[[str], bytes]
) -> None:
    """Right, broken, and of a model that is not there, in one stream; more of them than are answered at a time."""
    point(store, {"flowers": [publish(store)]})
    asked = {
        f"{number} {colour}": wanted(f"{number} {colour}", paint(colour)) for number in range(9) for colour in COLOURS
    }
    asked |= {"broken": wanted("broken", BROKEN), "lost": wanted("lost", paint("red"), f"{FLOWERS}x")}
    answers = {one.request_id: one async for one in inference_stub.StreamPredict(iter(asked.values()))}
    assert answers.keys() == asked.keys()
    lost, broken = answers.pop("lost").error, answers.pop("broken").error
    assert (lost.code, lost.reason) == (StatusCode.NOT_FOUND.value[0], "RESOURCE_NOT_FOUND")
    assert (broken.code, broken.reason) == (StatusCode.INVALID_ARGUMENT.value[0], "UNSUPPORTED_FORMAT")
    assert all(one.prediction.predictions[0].label == id_.split()[1] for id_, one in answers.items())


async def test_a_stream_reads_no_more_than_it_can_answer(store: FilesystemStore, paint: Callable[[str], bytes]) -> None:
    """A queue of 16 is never full of one stream's requests: a call beside it is admitted."""
    loader = GatedLoader(store)
    point(store, {"flowers": [publish(store)]})
    async with serving(store, loader, queue=AT_ONCE + 2) as stub:
        answers = stub.StreamPredict(wanted(str(number), paint("red")) for number in range(5 * AT_ONCE))
        await asyncio.to_thread(loader.gate.entered.wait, 10)
        beside = stub.Predict(PredictRequest(model=FLOWERS, image=paint("blue")), timeout=20)
        await asyncio.sleep(0.3)
        loader.gate.opened.set()
        assert (await beside).predictions[0].label == "blue"
        assert len([one async for one in answers if one.HasField("prediction")]) == 5 * AT_ONCE


async def test_a_stream_that_is_given_up_leaves_nothing_waiting(
    store: FilesystemStore, paint: Callable[[str], bytes]
) -> None:
    loader = GatedLoader(store)
    point(store, {"flowers": [publish(store)]})
    async with serving(store, loader, queue=AT_ONCE) as stub:
        answers = stub.StreamPredict(wanted(str(number), paint("red")) for number in range(AT_ONCE))
        await asyncio.to_thread(loader.gate.entered.wait, 10)
        answers.cancel()
        loader.gate.opened.set()
        burst = await asyncio.gather(
            *(stub.Predict(PredictRequest(model=FLOWERS, image=paint("blue")), timeout=20) for _ in range(AT_ONCE))
        )
        assert {one.predictions[0].label for one in burst} == {"blue"}


async def test_the_sdk_asks_for_many_at_a_time(
    store: FilesystemStore, paint: Callable[[str], bytes], tmp_path: Path
) -> None:
    """More files than go into one call, in order; what is broken, not there, or of the other kind is an error in its
    place; a model that is not there is one for all.
    """
    point(store, {"flowers": [publish(store)]})
    colours = [colour for colour in COLOURS for _ in range(BATCH_FILES["image"])]
    painted = tmp_path / "red.jpg"
    painted.write_bytes(paint("red"))
    odd: list[File] = [BROKEN, tmp_path / "gone.jpg", sound_bundles.tone("low"), painted]
    files: list[File] = [*(paint(colour) for colour in colours[1:]), *odd, paint("blue")]

    def ask(address: str) -> list[Answer]:
        with Client(Addresses(inference=address)) as client:
            with pytest.raises(NotFound):
                list(client.predict_many("trees", files))
            with pytest.raises(TypeError, match="; not int"):
                client.predict("flowers", 5)  # type: ignore[arg-type]
            return list(client.predict_many("flowers", files, top_k=1))

    async with open_inference(store) as address:
        *painted_ones, broken, gone, sound, on_disk, last = await asyncio.to_thread(ask, address)
    answers = [one for one in (*painted_ones, on_disk, last) if isinstance(one, PredictResponse)]
    assert [one.predictions[0].label for one in answers] == [*colours[1:], "red", "blue"]
    assert isinstance(broken, InvalidArgument)
    assert broken.reason == "UNSUPPORTED_FORMAT"
    assert isinstance(gone, FileNotFoundError)
    assert isinstance(sound, InvalidArgument)
    assert sound.violations[0][0] == "sounds"
