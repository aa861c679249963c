"""The Open Inference Protocol over the wire: what it answers, and what of it is refused and how."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handful import __version__
from handful.bundle.neighbours import Neighbours
from handful.bundle.rows import HalfRows
from handful.errors import from_rpc_error
from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import ExplainRequest, PredictRequest
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2 import open_inference_pb2_grpc as oip_grpc
from services.inference.oip_servicer import NAME
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, SIZE, GatedLoader, mean_colour, point, publish
from tests.servers import open_inference

Stub: TypeAlias = "oip_grpc.GRPCInferenceServiceAsyncStub"
Paint = Callable[[str], bytes]
Request = oip.ModelInferRequest
KNOWN = Neighbours(HalfRows(np.eye(3, dtype=np.float16)[[0, 0, 1, 1]]), 2, 0.2)


@pytest.fixture
def paint(picture: Callable[..., bytes]) -> Paint:
    return lambda colour: picture(1, COLOURS[colour])


@pytest.fixture
async def address(store: FilesystemStore) -> AsyncIterator[str]:
    point(
        store, {"flowers": [publish(store), publish(store, ["RED", "GREEN"])], "known": [publish(store, known=KNOWN)]}
    )
    async with open_inference(store) as where:
        yield where


@pytest.fixture
async def channel(address: str) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
def stub(channel: aio.Channel) -> Stub:
    return oip_grpc.GRPCInferenceServiceStub(channel)


def raw_bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def asking(*files: bytes, model: str = "flowers", shape: list[int] | None = None, **more: Any) -> Request:
    """A raw request, as Triton's client makes it."""
    tensor = Request.InferInputTensor(name="image", datatype="BYTES", shape=shape or [len(files)])
    return Request(model_name=model, inputs=[tensor], raw_input_contents=[raw_bytes(*files)], **more)


def typed(*files: bytes) -> Request:
    """The same in `contents`, as KServe's client makes it."""
    contents = oip.InferTensorContents(bytes_contents=files)
    tensor = Request.InferInputTensor(name="image", datatype="BYTES", shape=[len(files)], contents=contents)
    return Request(model_name="flowers", inputs=[tensor])


def flat(colour: str, count: int = 1) -> bytes:
    """Pixels of one colour, as the network takes them."""
    return np.tile(np.array(COLOURS[colour], np.uint8), (count, SIZE, SIZE, 1)).tobytes()


def of_pixels(raw: bytes, shape: list[int], datatype: str = "UINT8") -> Request:
    tensor = Request.InferInputTensor(name="pixels", datatype=datatype, shape=shape)
    return Request(model_name="flowers.pixels", inputs=[tensor], raw_input_contents=[raw])


def probabilities(response: oip.ModelInferResponse) -> Any:
    """Those of a raw answer."""
    output = response.outputs[0]
    assert (output.name, output.datatype) == ("probabilities", "FP32")
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(output.shape)


async def refusal(stub: Stub, request: Request) -> tuple[StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request, timeout=20)
    error = from_rpc_error(caught.value)
    return error.code, error.message


async def test_the_server_lives_and_is_ready(channel: aio.Channel, stub: Stub) -> None:
    """It lives, is ready, says what it is, and is healthy under the protocol's name."""
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    metadata = await stub.ServerMetadata(oip.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("handful", __version__)
    assert {"classification", "model_configuration", "statistics"} <= set(metadata.extensions)
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME))
    assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("flowers", "", True), ("flowers", "2", True), ("projects/default/models/flowers", "1", True),
     ("flowers@production", "", True), ("flowers.pixels", "", True), ("flowers", "3", False), ("trees", "", False),
     ("projects/other/models/flowers", "", False)],
)  # fmt: skip
async def test_a_model_is_ready_where_it_is_there(stub: Stub, name: str, version: str, ready: bool) -> None:  # noqa: FBT001
    """Every version of every model is ready; what does not exist is not, and that is no error."""
    assert (await stub.ModelReady(oip.ModelReadyRequest(name=name, version=version))).ready is ready


async def test_a_broken_model_is_not_ready(store: FilesystemStore, stub: Stub) -> None:
    """A model whose graph cannot be run is not ready, and the others are."""
    point(store, {"broken": [publish(store, graph=b"no graph", project="other")]}, project="other")
    assert not (await stub.ModelReady(oip.ModelReadyRequest(name="projects/other/models/broken"))).ready
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="flowers"))).ready


async def test_metadata_and_configuration_agree(stub: Stub) -> None:
    """Inputs and outputs have the same names, types and shapes in both; the configuration has labels and limits."""
    for name, inputs, outputs in [
        ("flowers", [("image", "BYTES", [-1, 1])], [("probabilities", "FP32", [-1, 3])]),
        ("flowers.pixels", [("pixels", "UINT8", [-1, SIZE, SIZE, 3])], [("probabilities", "FP32", [-1, 3])]),
        (
            "known",
            [("image", "BYTES", [-1, 1])],
            [("probabilities", "FP32", [-1, 3]), ("unknown", "BOOL", [-1, 1]), ("distance", "FP32", [-1, 1])],
        ),
    ]:
        metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name=name))
        config = (await stub.ModelConfig(oip.ModelConfigRequest(name=name))).config
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == inputs
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == outputs
        assert [(one.name, [-1, *one.dims]) for one in config.input] == [(one[0], one[2]) for one in inputs]
        assert [(one.name, [-1, *one.dims]) for one in config.output] == [(one[0], one[2]) for one in outputs]
        assert (config.name, config.max_batch_size) == (name, 32)
        assert json.loads(config.parameters["labels"].string_value) == list(COLOURS)
        assert ("max_distance" in config.parameters) == (name == "known")
    assert list((await stub.ModelMetadata(oip.ModelMetadataRequest(name="flowers"))).versions) == ["1", "2"]


@pytest.mark.parametrize("shape", [[3], [3, 1]])
async def test_files_are_answered_in_order(channel: aio.Channel, stub: Stub, paint: Paint, shape: list[int]) -> None:
    """Each of three pictures gets the very probabilities that Predict gives it, in the order of the request."""
    response = await stub.ModelInfer(asking(*(paint(one) for one in COLOURS), shape=shape, id="seven"))
    assert (response.model_name, response.model_version, response.id) == ("flowers", "1", "seven")
    ours = inference_pb2_grpc.InferenceServiceStub(channel)
    for row, colour in zip(probabilities(response), COLOURS, strict=True):
        alone = await ours.Predict(PredictRequest(model="projects/default/models/flowers", image=paint(colour)))
        scores = {one.label: one.score for one in alone.predictions}
        assert [scores[label] for label in COLOURS] == pytest.approx(row.tolist(), abs=1e-7)
        assert alone.predictions[0].label == colour


async def test_answers_come_as_requests_do(stub: Stub, paint: Paint) -> None:
    """A raw request has a raw answer, a typed one a typed answer, of the same numbers."""
    raw, other = await stub.ModelInfer(asking(paint("green"))), await stub.ModelInfer(typed(paint("green")))
    assert not raw.outputs[0].HasField("contents")
    assert not other.raw_output_contents
    assert list(other.outputs[0].contents.fp32_contents) == probabilities(raw).ravel().tolist()


async def test_a_version_and_an_alias_can_be_named(store: FilesystemStore, stub: Stub, paint: Paint) -> None:
    """An empty version means the alias, a number that version; the answer says which it was."""
    assert (await stub.ModelInfer(asking(paint("red"), model_version="2"))).model_version == "2"
    assert (await stub.ModelInfer(asking(paint("red"), model="flowers@production"))).model_version == "1"
    point(store, {"trees": [publish(store, "ab", project="other")]}, project="other")
    response = await stub.ModelInfer(asking(paint("red"), model="projects/other/models/trees"))
    assert (response.model_name, probabilities(response).shape) == ("projects/other/models/trees", (1, 2))


async def test_pixels_are_answered(stub: Stub) -> None:
    """Pixels, raw or typed, have the probabilities of a picture that is exactly these pixels."""
    response = await stub.ModelInfer(of_pixels(flat("blue", 2), [2, SIZE, SIZE, 3]))
    assert probabilities(response).argmax(axis=1).tolist() == [2, 2]
    contents = oip.InferTensorContents(uint_contents=list(flat("blue")))
    tensor = Request.InferInputTensor(name="pixels", datatype="UINT8", shape=[1, SIZE, SIZE, 3], contents=contents)
    answer = await stub.ModelInfer(Request(model_name="flowers.pixels", inputs=[tensor]))
    assert list(answer.outputs[0].contents.fp32_contents) == probabilities(response)[0].tolist()


async def test_what_is_like_no_class_is_unknown(stub: Stub, paint: Paint) -> None:
    """A model that can tell says with `unknown` and `distance` that blue is none of red and green."""
    response = await stub.ModelInfer(asking(paint("red"), paint("blue"), model="known"))
    assert [one.name for one in response.outputs] == ["probabilities", "unknown", "distance"]
    assert np.frombuffer(response.raw_output_contents[1], np.bool_).tolist() == [False, True]
    near, far = np.frombuffer(response.raw_output_contents[2], "<f4").tolist()
    assert 0 <= near <= 0.2 < far
    wanted = [Request.InferRequestedOutputTensor(name="unknown")]
    request = asking(paint("blue"), model="known", outputs=wanted)
    response = await stub.ModelInfer(request)
    assert [one.name for one in response.outputs] == ["unknown"]
    assert response.raw_output_contents[0] == b"\x01"


@pytest.mark.parametrize(("classes", "given"), [(1, 1), (2, 2), (9, 3)])
async def test_the_best_classes_are_named(stub: Stub, paint: Paint, classes: int, given: int) -> None:
    """With `classification` come probability, number and label of the best classes, as many as there are at most."""
    output = Request.InferRequestedOutputTensor(name="probabilities")
    output.parameters["classification"].int64_param = classes
    request = asking(paint("green"), paint("blue"), outputs=[output])
    response = await stub.ModelInfer(request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, given])
    length = struct.unpack("<I", response.raw_output_contents[0][:4])[0]
    score, number, label = response.raw_output_contents[0][4 : 4 + length].decode().split(":")
    assert (number, label) == ("1", "green")
    assert 0.3 < float(score) <= 1


async def test_a_stream_answers_in_order_and_survives_errors(stub: Stub, paint: Paint) -> None:
    """Of three requests on a stream the second is wrong: its answer says so, and the third is answered."""
    requests = [asking(paint("red"), id="1"), asking(b"no picture", id="2"), asking(paint("blue"), id="3")]
    answers = [one async for one in stub.ModelStreamInfer(iter(requests))]
    assert [one.infer_response.id for one in answers] == ["1", "2", "3"]
    assert [one.error_message[:16] for one in answers] == ["", "INVALID_ARGUMENT", ""]
    assert probabilities(answers[2].infer_response).argmax() == 2
    assert answers[2].infer_response.parameters["triton_final_response"].bool_param


async def test_statistics_count_what_was_asked(channel: aio.Channel, stub: Stub, paint: Paint) -> None:
    """Requests of both protocols are counted by version, answered and failed, explanations too; and pictures, passes
    and times of those that predict.
    """
    ours = inference_pb2_grpc.InferenceServiceStub(channel)
    await ours.Explain(ExplainRequest(model="projects/default/models/flowers", image=paint("red")))
    await ours.Predict(PredictRequest(model="projects/default/models/flowers", image=paint("red")))
    await stub.ModelInfer(asking(paint("red"), paint("green"), paint("blue")))
    await refusal(stub, asking(b"no picture"))
    first, second = (await stub.ModelStatistics(oip.ModelStatisticsRequest(name="flowers"))).model_stats
    assert [(one.name, one.version) for one in (first, second)] == [("flowers", "1"), ("flowers", "2")]
    counts = first.inference_stats
    assert (counts.success.count, counts.fail.count, first.inference_count) == (3, 1, 4)
    assert 2 <= first.execution_count <= 4
    assert [one.count for one in (counts.queue, counts.compute_input, counts.compute_infer)] == [4, 4, 4]
    spent = [counts.compute_input.ns, counts.compute_infer.ns, counts.compute_output.ns, counts.success.ns]
    assert all(ns > 0 for ns in spent)
    assert first.last_inference > 1_600_000_000_000
    assert (second.inference_count, second.inference_stats.success.count) == (0, 0)
    known = (await stub.ModelStatistics(oip.ModelStatisticsRequest())).model_stats
    assert [(one.name, one.version) for one in known] == [("flowers", "1")]
    alone = (await stub.ModelStatistics(oip.ModelStatisticsRequest(name="flowers", version="2"))).model_stats
    assert [one.version for one in alone] == ["2"]
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelStatistics(oip.ModelStatisticsRequest(name="trees"))
    assert caught.value.code() == StatusCode.NOT_FOUND


async def test_the_index_lists_every_version(store: FilesystemStore, stub: Stub) -> None:
    """Every version of the project's models stands in the index; another project's where it is named."""
    point(store, {"trees": [publish(store, graph=mean_colour("other"), project="other")]}, project="other")
    index = await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))
    found = [(one.name, one.version, one.state) for one in index.models]
    assert found == [("flowers", "1", "READY"), ("flowers", "2", "READY"), ("known", "1", "READY")]
    other = await stub.RepositoryIndex(oip.RepositoryIndexRequest(repository_name="projects/other"))
    assert [one.name for one in other.models] == ["projects/other/models/trees"]
    empty = await stub.RepositoryIndex(oip.RepositoryIndexRequest(repository_name="projects/nobody"))
    assert not empty.models


async def test_one_bad_picture_fails_its_request(stub: Stub, paint: Paint) -> None:
    """The error says which picture of the request it was; another request at the same time is answered."""
    code, message = await refusal(stub, asking(paint("red"), paint("green")[:-300], paint("blue")))
    assert (code, message[:13]) == (StatusCode.INVALID_ARGUMENT, "image 2 of 3:")


async def test_more_than_the_queue_takes_is_refused_at_once(store: FilesystemStore, paint: Paint) -> None:
    """Where at most eight may wait, a request of five is refused: it would seldom find room. Four are answered."""
    point(store, {"flowers": [publish(store)]})
    async with open_inference(store, queue=8) as address, aio.insecure_channel(address) as channel:
        stub: Stub = oip_grpc.GRPCInferenceServiceStub(channel)
        code, message = await refusal(stub, asking(*[paint("red")] * 5))
        assert (code, "n from 1 to 4" in message) == (StatusCode.INVALID_ARGUMENT, True)
        assert probabilities(await stub.ModelInfer(asking(*[paint("red")] * 4))).shape == (4, 3)


async def test_too_much_at_once_is_refused(store: FilesystemStore, paint: Paint) -> None:
    """While one picture is computed and six may wait, of three requests of three the third is refused at once, with a
    pushback; then all is well again.
    """
    point(store, {"flowers": [publish(store)]})
    loader = GatedLoader(store)
    async with open_inference(store, 6, loader) as address, aio.insecure_channel(address) as channel:
        stub: Stub = oip_grpc.GRPCInferenceServiceStub(channel)
        held = asyncio.ensure_future(stub.ModelInfer(asking(paint("red")), timeout=60))
        assert await asyncio.to_thread(loader.gate.entered.wait, 20)
        others = {asyncio.ensure_future(stub.ModelInfer(asking(*[paint("green")] * 3), timeout=60)) for _ in range(3)}
        (refused,), waiting = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        problem = refused.exception()
        assert isinstance(problem, aio.AioRpcError)
        error = from_rpc_error(problem)
        assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert int(error.facts["pushback_ms"]) >= 1
        loader.gate.opened.set()
        assert [probabilities(await one).argmax(axis=1).tolist() for one in waiting] == [[1, 1, 1]] * 2
        assert probabilities(await held).argmax() == 0


async def test_a_request_whose_caller_went_away_is_not_computed(store: FilesystemStore, paint: Paint) -> None:
    """Pictures of a request that was cancelled, or whose `timeout` passed, take no time of the network."""
    point(store, {"flowers": [publish(store)]})
    loader = GatedLoader(store)
    async with open_inference(store, loader=loader) as address, aio.insecure_channel(address) as channel:
        stub: Stub = oip_grpc.GRPCInferenceServiceStub(channel)
        held = asyncio.ensure_future(stub.ModelInfer(asking(paint("red")), timeout=60))
        assert await asyncio.to_thread(loader.gate.entered.wait, 20)
        gone = stub.ModelInfer(asking(*[paint("green")] * 3), timeout=60)
        soon = asking(paint("blue"), parameters={"timeout": oip.InferParameter(int64_param=200_000)})
        assert (await refusal(stub, soon))[0] == StatusCode.DEADLINE_EXCEEDED
        gone.cancel()
        await asyncio.sleep(0.3)
        loader.gate.opened.set()
        await held
        await stub.ModelInfer(asking(paint("blue")), timeout=20)
        assert loader.gate.passes == [1, 1]


def changed(**fields: Any) -> Callable[[bytes], Request]:
    """A good raw request with other fields of its input."""

    def make(file: bytes) -> Request:
        request = asking(file)
        if "shape" in fields:
            request.inputs[0].ClearField("shape")
            request.inputs[0].shape.extend(fields["shape"])
        for key in fields.keys() - {"shape"}:
            setattr(request.inputs[0], key, fields[key])
        return request

    return make


def contents(shape: list[int], **fields: Any) -> Callable[[bytes], Request]:
    """A typed request with such contents."""
    held = oip.InferTensorContents(**fields)
    tensor = Request.InferInputTensor(name="image", datatype="BYTES", shape=shape, contents=held)
    return lambda _: Request(model_name="flowers", inputs=[tensor])


def raw(*parts: bytes, shape: list[int] | None = None) -> Callable[[bytes], Request]:
    """A request with such raw contents."""

    def make(_: bytes) -> Request:
        tensor = Request.InferInputTensor(name="image", datatype="BYTES", shape=shape or [1])
        return Request(model_name="flowers", inputs=[tensor], raw_input_contents=parts)

    return make


def with_output(name: str, key: str = "", times: int = 1, **value: Any) -> Callable[[bytes], Request]:
    """A request that asks for such an output."""
    output = Request.InferRequestedOutputTensor(name=name)
    if key:
        output.parameters[key].CopyFrom(oip.InferParameter(**value))
    return lambda file: asking(file, outputs=[output] * times)


def with_parameter(key: str, **value: Any) -> Callable[[bytes], Request]:
    return lambda file: asking(file, parameters={key: oip.InferParameter(**value)})


def twice(file: bytes) -> Request:
    request = asking(file)
    request.inputs.append(request.inputs[0])
    return request


def both(file: bytes) -> Request:
    request = asking(file)
    request.inputs[0].contents.bytes_contents.append(file)
    return request


def shared_memory(file: bytes) -> Request:
    request = asking(file)
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    return request


def big_pixel(_: bytes) -> Request:
    numbers = oip.InferTensorContents(uint_contents=[256] * (SIZE * SIZE * 3))
    tensor = Request.InferInputTensor(name="pixels", datatype="UINT8", shape=[1, SIZE, SIZE, 3], contents=numbers)
    return Request(model_name="flowers.pixels", inputs=[tensor])


def named(model: str, version: str = "") -> Callable[[bytes], Request]:
    return lambda file: asking(file, model=model, model_version=version)


WRONG = StatusCode.INVALID_ARGUMENT
MALFORMED: dict[str, tuple[Callable[[bytes], Request], StatusCode, str]] = {
    "no model": (named(""), WRONG, "model_name"),
    "a name with a slash": (named("flowers/"), WRONG, "model_name"),
    "an upper-case name": (named("Flowers"), WRONG, "model_name"),
    "a name with a line end": (named("flowers\n"), WRONG, "model_name"),
    "a long name": (named("f" * 100_000), WRONG, "model_name"),
    "a path": (named("../flowers"), WRONG, "model_name"),
    "pixels alone": (named(".pixels"), WRONG, "model_name"),
    "an empty alias": (named("flowers@"), WRONG, "model_name"),
    "a version that is no number": (named("flowers", "latest"), WRONG, "model_version"),
    "version zero": (named("flowers", "0"), WRONG, "model_version"),
    "a negative version": (named("flowers", "-1"), WRONG, "model_version"),
    "a version beyond all numbers": (named("flowers", "9" * 100), WRONG, "model_version"),
    "alias and version": (named("flowers@production", "1"), WRONG, "model_version"),
    "no such model": (named("trees"), StatusCode.NOT_FOUND, "flowers"),
    "no such version": (named("flowers", "7"), StatusCode.NOT_FOUND, "Versions: 1, 2"),
    "no such alias": (named("flowers@beta"), StatusCode.NOT_FOUND, "production"),
    "another project": (named("projects/other/models/flowers"), StatusCode.NOT_FOUND, "none yet"),
    "no input": (lambda _: Request(model_name="flowers"), WRONG, "inputs"),
    "an input twice": (twice, WRONG, "inputs"),
    "another input": (changed(name="INPUT__0"), WRONG, "inputs[0].name: must be image"),
    "a sound for pictures": (changed(name="sound"), WRONG, "must be image"),
    "no datatype": (changed(datatype=""), WRONG, "inputs[0].datatype: must be BYTES"),
    "FP32": (changed(datatype="FP32"), WRONG, "inputs[0].datatype"),
    "FP16": (changed(datatype="FP16"), WRONG, "inputs[0].datatype"),
    "a datatype that is none": (changed(datatype="bytes"), WRONG, "inputs[0].datatype"),
    "no shape": (changed(shape=[]), WRONG, "inputs[0].shape"),
    "an empty batch": (changed(shape=[0]), WRONG, "inputs[0].shape"),
    "a negative batch": (changed(shape=[-1]), WRONG, "inputs[0].shape"),
    "two negative dimensions": (changed(shape=[-1, -1]), WRONG, "inputs[0].shape"),
    "a batch that is too large": (changed(shape=[33]), WRONG, "n from 1 to 32"),
    "a batch beyond all numbers": (changed(shape=[2**63 - 1]), WRONG, "inputs[0].shape"),
    "dimensions that overflow": (changed(shape=[2**32, 2**32]), WRONG, "inputs[0].shape"),
    "three dimensions": (changed(shape=[1, 1, 1]), WRONG, "inputs[0].shape"),
    "a thousand dimensions": (changed(shape=[1] * 1000), WRONG, "inputs[0].shape"),
    "a shape of two, one element": (changed(shape=[2]), WRONG, "raw_input_contents[0]: must be 2 elements"),
    "no contents": (contents([1]), WRONG, "must have 1 elements"),
    "too many contents": (contents([1], bytes_contents=[b"a", b"b"]), WRONG, "must have 1 elements"),
    "contents of another type": (contents([1], fp32_contents=[1.0]), WRONG, "bytes_contents"),
    "contents of two types": (contents([1], bytes_contents=[b"a"], int_contents=[1]), WRONG, "int_contents"),
    "raw and typed": (both, WRONG, "inputs[0].contents"),
    "raw contents of two inputs": (raw(raw_bytes(b"a"), raw_bytes(b"b")), WRONG, "raw_input_contents"),
    "empty raw contents": (raw(b""), WRONG, "raw_input_contents[0]"),
    "a length that is cut off": (raw(b"\x01\x00"), WRONG, "raw_input_contents[0]"),
    "a length beyond the end": (raw(b"\xff\xff\xff\xff"), WRONG, "raw_input_contents[0]"),
    "no length at all": (raw(b"\xff\xd8\xff\xe0picture"), WRONG, "raw_input_contents[0]"),
    "bytes after the last element": (raw(raw_bytes(b"a") + b"\x00"), WRONG, "raw_input_contents[0]"),
    "a million empty elements": (raw(bytes(4_000_000)), WRONG, "raw_input_contents[0]"),
    "an empty file": (raw(raw_bytes(b"")), WRONG, "image: The file is empty"),
    "a text": (raw(raw_bytes(b"roses are red")), WRONG, "not a JPEG"),
    "another output": (with_output("labels"), WRONG, "outputs[0].name: must be one of probabilities"),
    "an output that the model lacks": (with_output("unknown"), WRONG, "outputs[0].name"),
    "an output twice": (with_output("probabilities", times=2), WRONG, "outputs[1].name"),
    "no classes": (with_output("probabilities", "classification", int64_param=0), WRONG, "classification"),
    "fewer classes than none": (with_output("probabilities", "classification", int64_param=-1), WRONG, "at least 1"),
    "classes as a text": (with_output("probabilities", "classification", string_param="3"), WRONG, "int64"),
    "shared memory in": (shared_memory, WRONG, "inputs[0].parameters[shared_memory_region]"),
    "shared memory out": (with_output("probabilities", "shared_memory_region", string_param="m"), WRONG, "outputs[0]"),
    "a sequence": (with_parameter("sequence_id", int64_param=1), WRONG, "parameters[sequence_id]"),
    "a timeout that is none": (with_parameter("timeout", string_param="soon"), WRONG, "parameters[timeout]"),
    "a timeout in the past": (with_parameter("timeout", int64_param=-1), WRONG, "parameters[timeout]"),
    "too little time": (with_parameter("timeout", int64_param=1), StatusCode.DEADLINE_EXCEEDED, "deadline"),
    "pixels of another size": (lambda _: of_pixels(bytes(12), [1, 2, 2, 3]), WRONG, f"[n, {SIZE}, {SIZE}, 3]"),
    "pixels without a batch": (lambda _: of_pixels(flat("red"), [SIZE, SIZE, 3]), WRONG, "inputs[0].shape"),
    "channels first": (lambda _: of_pixels(flat("red"), [1, 3, SIZE, SIZE]), WRONG, "inputs[0].shape"),
    "too few pixels": (lambda _: of_pixels(flat("red")[1:], [1, SIZE, SIZE, 3]), WRONG, "3072 bytes"),
    "too many pixels": (lambda _: of_pixels(flat("red", 2), [1, SIZE, SIZE, 3]), WRONG, "3072 bytes"),
    "pixels as FP32": (lambda _: of_pixels(flat("red", 4), [1, SIZE, SIZE, 3], "FP32"), WRONG, "must be UINT8"),
    "a pixel of 256": (big_pixel, WRONG, "0 to 255"),
}


@pytest.mark.parametrize("case", MALFORMED, ids=str)
async def test_what_is_malformed_is_refused_by_field(stub: Stub, paint: Paint, case: str) -> None:
    """Every violation has its status and names what is wrong; the next good request is answered."""
    make, status, told = MALFORMED[case]
    code, message = await refusal(stub, make(paint("red")))
    assert code == status
    assert told in message
    assert probabilities(await stub.ModelInfer(asking(paint("red")))).argmax() == 0


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256))])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "RepositoryIndex"])
async def test_bytes_that_are_no_message_are_malformed(channel: aio.Channel, method: str, data: bytes) -> None:
    """What does not parse is an INVALID_ARGUMENT in our words."""
    call: Any = channel.unary_unary(f"/{NAME}/{method}")
    with pytest.raises(aio.AioRpcError) as caught:
        await call(data, timeout=20)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED")


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_a_request_that_would_become_gigabytes_is_not_parsed(channel: aio.Channel, method: str) -> None:
    """A million empty inputs in two megabytes."""
    data = b"\x2a\x00" * 1_000_000
    unary: Any = channel.unary_unary(f"/{NAME}/{method}")
    stream: Any = channel.stream_stream(f"/{NAME}/{method}")
    call = unary(data, timeout=20) if method == "ModelInfer" else stream(iter([data]), timeout=20).read()
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED")


async def test_a_long_word_of_the_caller_leaves_room_for_the_answer(stub: Stub, paint: Paint) -> None:
    """What is said of a field has to fit into metadata, however long its name is."""
    request = asking(paint("red"))
    request.parameters["sequence_" + "x" * 100_000].int64_param = 1
    code, message = await refusal(stub, request)
    assert code == StatusCode.INVALID_ARGUMENT
    assert "sequence_xxx" in message
