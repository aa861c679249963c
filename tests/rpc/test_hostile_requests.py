"""Requests to the inference service that are wrong whatever file is in them: every call, of both protocols, refuses
them as the contract says, and none of it is a fault of ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc import Compression, StatusCode, aio

from handful.v1 import inference_pb2, inference_pb2_grpc
from handful.v1.inference_pb2 import ExplainRequest, PredictBatchRequest, PredictRequest, StreamPredictRequest
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2 import open_inference_pb2_grpc as oip_grpc
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests import sound_bundles
from tests.bundles import COLOURS, mean_colour, point, publish
from tests.rpc.test_extremes import faults
from tests.rpc.test_open_inference import MALFORMED, asking
from tests.servers import open_inference

OURS = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
THEIRS = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
METHODS: tuple[MethodDescriptor, ...] = (*OURS.methods, *THEIRS.methods)
FLOWERS, VOICES = "projects/default/models/flowers", "projects/default/models/voices"
FOREIGN = "projects/other/models/trees"
Paint = Callable[[str], bytes]
Ours: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
Theirs: TypeAlias = "oip_grpc.GRPCInferenceServiceAsyncStub"


@pytest.fixture
def paint(picture: Callable[..., bytes]) -> Paint:
    return lambda colour: picture(1, COLOURS[colour])


@pytest.fixture
async def channel(store: FilesystemStore) -> AsyncIterator[aio.Channel]:
    """A server with a model of pictures and one of sounds, beside another project's."""
    point(
        store,
        {"flowers": [publish(store), publish(store, ["RED", "GREEN"])], "voices": [sound_bundles.publish(store)] * 2},
    )
    foreign = publish(store, graph=mean_colour("other"), project="other")
    point(store, {"trees": [foreign]}, project="other")
    async with open_inference(store) as where:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", MEBIBYTE)]
        async with aio.insecure_channel(where, options=options) as channel:
            yield channel


@pytest.fixture
def ours(channel: aio.Channel) -> Ours:
    return inference_pb2_grpc.InferenceServiceStub(channel)


@pytest.fixture
def theirs(channel: aio.Channel) -> Theirs:
    return oip_grpc.GRPCInferenceServiceStub(channel)


async def send(channel: aio.Channel, method: MethodDescriptor, data: bytes, **how: Any) -> StatusCode:
    """How a call ends whose request is these bytes, and only these."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    streams = method.name in {"StreamPredict", "ModelStreamInfer"}
    call: Any = channel.stream_stream(path) if streams else channel.unary_unary(path)
    ended = call(iter([data]) if streams else data, timeout=20, **how)
    code: StatusCode = await ended.code()
    return code


async def check_well(theirs: Theirs, ours: Ours, paint: Paint) -> None:
    """Both models are still answered for."""
    red = await ours.Predict(PredictRequest(model=FLOWERS, image=paint("red")), timeout=20)
    low = await ours.Predict(PredictRequest(model=VOICES, sound=sound_bundles.tone("low")), timeout=20)
    assert [one.predictions[0].label for one in (red, low)] == ["red", "low"]
    assert (await theirs.ModelReady(oip.ModelReadyRequest(name="flowers"))).ready


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_every_call_refuses_what_is_no_request_of_its(
    channel: aio.Channel, ours: Ours, theirs: Theirs, paint: Paint, method: MethodDescriptor
) -> None:
    """Bytes that are no message, more of them than are taken, plain or packed, and headers that are too long."""
    assert await send(channel, method, b"\xff\xff\xff\xff") == StatusCode.INVALID_ARGUMENT
    assert await send(channel, method, bytes(34 * MEBIBYTE)) == StatusCode.RESOURCE_EXHAUSTED
    packed = await send(channel, method, bytes(40 * MEBIBYTE), compression=Compression.Gzip)
    assert packed == StatusCode.RESOURCE_EXHAUSTED
    headers = (("x-request-id", "x" * 17_000),)
    assert await send(channel, method, b"", metadata=headers) == StatusCode.RESOURCE_EXHAUSTED
    await check_well(theirs, ours, paint)


def _ours(model: str, **data: Any) -> list[tuple[str, Message]]:
    """A request of each of our calls, by its name."""
    predict = PredictRequest(model=model, **data)
    many: dict[str, Any] = {f"{field}s": [content] for field, content in data.items()}
    return [
        ("Predict", predict),
        ("PredictBatch", PredictBatchRequest(model=model, **many)),
        ("StreamPredict", StreamPredictRequest(request_id="1", predict=predict)),
        ("Explain", ExplainRequest(model=model, **data)),
    ]


async def told(stub: Any, name: str, request: Message) -> str:
    """How a call ends, and what it says where that is not well."""
    try:
        if name == "StreamPredict":
            (one,) = [found async for found in stub.StreamPredict(iter([request]), timeout=20)]
            return f"{_name(one.error.code)}: {one.error.message}" if one.HasField("error") else "OK"
        if name == "ModelStreamInfer":
            (one,) = [found async for found in stub.ModelStreamInfer(iter([request]), timeout=20)]
            return one.error_message or "OK"
        await getattr(stub, name)(request, timeout=20)
    except aio.AioRpcError as problem:
        return f"{problem.code().name}: {problem.details()}"
    return "OK"


def _name(code: int) -> str:
    return next(one.name for one in StatusCode if one.value[0] == code)


async def test_a_model_of_another_project_is_not_found(ours: Ours, theirs: Theirs, paint: Paint) -> None:
    """Its id in one's own project names nothing, in every call that names a model; what is there is told, and nothing
    of the other project.
    """
    for name, request in _ours("projects/default/models/trees", image=paint("red")):
        said = await told(ours, name, request)
        assert said.startswith("NOT_FOUND: There is no model trees in projects/default. Models there: flowers"), name
    named: list[tuple[str, Message]] = [
        ("ModelInfer", asking(paint("red"), model="trees")),
        ("ModelStreamInfer", asking(paint("red"), model="trees")),
        ("ModelMetadata", oip.ModelMetadataRequest(name="trees")),
        ("ModelConfig", oip.ModelConfigRequest(name="trees")),
        ("ModelStatistics", oip.ModelStatisticsRequest(name="trees")),
    ]
    for name, request in named:
        assert (await told(theirs, name, request)).startswith("NOT_FOUND: There is no model trees"), name
    assert not (await theirs.ModelReady(oip.ModelReadyRequest(name="trees"))).ready
    assert "trees" not in {one.name for one in (await theirs.RepositoryIndex(oip.RepositoryIndexRequest())).models}
    asked = PredictRequest(model=FOREIGN, image=paint("red"))
    assert (await ours.Predict(asked, timeout=20)).predictions[0].label == "red"  # it is there, where it belongs
    listed = (await theirs.ModelStatistics(oip.ModelStatisticsRequest())).model_stats
    assert not [one.name for one in listed if "trees" in one.name]


async def test_the_other_modality_is_refused_by_its_name(ours: Ours, theirs: Theirs, paint: Paint) -> None:
    """A sound that is sent to a model of pictures, and the other way round, in its own field and in the other's."""
    sound, picture = sound_bundles.tone("low"), paint("red")
    for model, kind, wrong in ((FLOWERS, "picture", {"sound": sound}), (VOICES, "sound", {"image": picture})):
        for name, request in _ours(model, **wrong):
            said = await told(ours, name, request)
            assert said.startswith("INVALID_ARGUMENT"), (name, said)
            assert f"{kind}s" in said or {"picture": "`images`", "sound": "`sounds`"}[kind] in said, (name, said)
    for model, kind, data in ((FLOWERS, "picture", {"image": sound}), (VOICES, "sound", {"sound": picture})):
        for name, request in _ours(model, **data):
            said = await told(ours, name, request)
            assert said.startswith("INVALID_ARGUMENT") or name == "PredictBatch", (name, said)
            assert kind in said or name == "PredictBatch", (name, said)
        many: dict[str, Any] = {f"{field}s": [one] for field, one in data.items()}
        request = PredictBatchRequest(model=model, **many)
        error = (await ours.PredictBatch(request, timeout=20)).results[0].error
        assert (_name(error.code), error.reason) == ("INVALID_ARGUMENT", "UNSUPPORTED_FORMAT")
    for name in ("ModelInfer", "ModelStreamInfer"):
        assert "must be sound" in await told(theirs, name, asking(picture, model="voices"))
        other = asking(picture, model="voices")
        other.inputs[0].name = "sound"
        assert "not a WAV, FLAC, OGG or MP3 sound" in await told(theirs, name, other)


def _counted(count: int) -> Iterator[tuple[str, Message, str]]:
    yield (
        "PredictBatch",
        PredictBatchRequest(model=FLOWERS, images=[b"x"] * count),
        f"images: must be 1 to 64, not {count}",
    )
    yield (
        "PredictBatch",
        PredictBatchRequest(model=VOICES, sounds=[b"x"] * count),
        f"sounds: must be 1 to 64, not {count}",
    )
    for name in ("ModelInfer", "ModelStreamInfer"):
        yield name, asking(*[b"x"] * count, shape=[count]), "n from 1 to 32"


@pytest.mark.parametrize("count", [0, 10_000])
async def test_none_and_ten_thousand_are_refused_by_their_number(
    ours: Ours, theirs: Theirs, paint: Paint, count: int
) -> None:
    for name, request, says in _counted(count):
        said = await told(ours if name == "PredictBatch" else theirs, name, request)
        assert said.startswith("INVALID_ARGUMENT"), (name, said)
        assert says in said, (name, said)
    await check_well(theirs, ours, paint)


async def test_what_is_malformed_on_a_stream_is_refused_in_its_place(theirs: Theirs, paint: Paint) -> None:
    """Every violation that a call of its own would be refused for, on one stream, with good requests between them."""
    requests = [one for make, _, _ in MALFORMED.values() for one in (make(paint("red")), asking(paint("red")))]
    answers = [one async for one in theirs.ModelStreamInfer(iter(requests), timeout=60)]
    assert len(answers) == len(requests)
    assert not [one.error_message for one in answers[1::2] if one.error_message]
    found = {case: one.error_message.partition(":")[0] for case, one in zip(MALFORMED, answers[::2], strict=True)}
    expected = {case: status.name for case, (_, status, _) in MALFORMED.items()}
    assert found == expected


async def test_what_is_extreme_is_never_a_fault(ours: Ours, theirs: Theirs, paint: Paint) -> None:
    """Texts with NUL, of any length, in any script, and numbers at their ends: an answer or a refusal."""

    async def stream(request: Message, timeout: float) -> None:  # noqa: ASYNC109 - as stubs have it
        said = await told(ours if isinstance(request, StreamPredictRequest) else theirs, _stream(request), request)
        assert not said.startswith(("INTERNAL", "UNKNOWN")), (request, said, timeout)

    calls: list[tuple[Callable[..., Any], Message]] = []
    for name, request in _ours(FLOWERS, image=paint("red")):
        calls.append((stream if name == "StreamPredict" else getattr(ours, name), request))
    calls += [
        (theirs.ModelInfer, asking(paint("red"))),
        (stream, asking(paint("red"))),
        (theirs.ModelReady, oip.ModelReadyRequest(name="flowers")),
        (theirs.ModelMetadata, oip.ModelMetadataRequest(name="flowers")),
        (theirs.ModelConfig, oip.ModelConfigRequest(name="flowers")),
        (theirs.ModelStatistics, oip.ModelStatisticsRequest(name="flowers")),
        (theirs.RepositoryIndex, oip.RepositoryIndexRequest()),
    ]
    for method, request in calls:
        assert await faults(method, request, seconds=20) == {}, request
    await check_well(theirs, ours, paint)


def _stream(request: Message) -> str:
    return "StreamPredict" if isinstance(request, StreamPredictRequest) else "ModelStreamInfer"
