"""The edge of every server: request ids, statuses, deadlines and limits, on a real server with a service of our own."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from handful import errors
from handful.channel import connect
from handful.errors import HandfulError, from_rpc_error
from services.shared.interceptors import PUSHBACK, REQUEST_ID
from services.shared.server import MEBIBYTE
from tests.playing_worker import refusal
from tests.probe import CANARY, SECONDS, Edge, served


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with served() as edge:
        yield edge


async def failure(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as failed:
        await call
    return failed.value


@pytest.mark.parametrize("given", ["a", "0190-7c", "x" * 128, "it's {mine}"])
async def test_a_request_id_is_given_back(edge: Edge, given: str) -> None:
    """The caller's id serves the call, and comes back with the answer and in the details of an error."""
    call = edge.unary("who", metadata=((REQUEST_ID, given),))
    assert (await call).value == given
    assert dict(await call.trailing_metadata())[REQUEST_ID] == given
    error = await refusal(edge.unary("fail", metadata=((REQUEST_ID, given),)))
    assert error.facts["request_id"] == given


async def test_nothing_of_a_refused_call_is_held(edge: Edge) -> None:
    """What was sent, and what was made of it, is gone with the answer, not when Python next collects rings."""
    gc.disable()
    try:
        assert isinstance(await refusal(edge.unary("refuse_large", "x")), errors.InvalidArgument)
        await edge.assert_well()
        assert [one() for one in edge.probe.seen] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("given", [None, "", "x" * 129])
async def test_a_call_without_a_usable_id_gets_one(edge: Edge, given: str | None) -> None:
    """Every call has an id of its own, also at the same time as others."""
    metadata = () if given is None else ((REQUEST_ID, given),)
    calls = [edge.unary("who", metadata=metadata) for _ in range(20)]
    ids = [answer.value for answer in await asyncio.gather(*calls)]
    assert len(set(ids)) == 20
    assert ids == [dict(await call.trailing_metadata())[REQUEST_ID] for call in calls]
    assert all(len(one) == 36 for one in ids)


async def test_what_went_wrong_inside_stays_inside(edge: Edge) -> None:
    """An exception nobody meant reaches the caller as INTERNAL with the request id, without a word of its own."""
    ring = edge.unary("fail_in_a_ring", CANARY)  # an error that comes of itself
    for call in (edge.unary("fail", CANARY), ring, edge.each(StringValue(value="fail").SerializeToString()).read()):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.INTERNAL
        seen = repr((error.details(), error.initial_metadata(), error.trailing_metadata(), error.debug_error_string()))
        assert not [word for word in ("CANARY", "secret", "Error'", "Traceback", ".py") if word in seen]
        assert from_rpc_error(error).facts["request_id"]
    await edge.assert_well()


@pytest.mark.parametrize("kind", HandfulError.__subclasses__())
async def test_errors_are_the_same_at_both_ends(edge: Edge, kind: type[HandfulError]) -> None:
    """What a servicer raises is what the caller raises: class, message, reason, fields and facts."""
    call = await failure(edge.unary("refuse", kind.__name__))
    error = from_rpc_error(call)
    assert (type(error), call.code(), error.message, error.reason) == (kind, kind.code, "what happened", "A_REASON")
    assert error.violations == (("a", "is bad"), ("b", "too"))
    assert (error.facts["oldest_sequence"], len(error.facts["request_id"])) == ("7", 36)
    assert dict(call.trailing_metadata() or ())[PUSHBACK] == "150"


@pytest.mark.parametrize("data", [b"\x0a\xff", b"\xff" * 100, b"\x0a\x01\xff", b"text"])
async def test_what_is_no_message_is_malformed(edge: Edge, data: bytes) -> None:
    """Bytes that are no message of the method's kind are INVALID_ARGUMENT MALFORMED, also within a stream."""
    unary = edge.channel.unary_unary("/probe/echo", bytes, bytes)(data, timeout=SECONDS)
    stream = edge.each(StringValue(value="good").SerializeToString(), data)
    assert (await stream.read()).value == "good"
    for call in (unary, stream.read()):
        error = await refusal(call)
        assert (type(error), error.reason) == (errors.InvalidArgument, "MALFORMED")
    await edge.assert_well()


async def test_fields_of_a_newer_contract_are_ignored(edge: Edge) -> None:
    """A message with fields that this server does not know is served."""
    newer = StringValue(value="x").SerializeToString() + b"\x7a\x01y"
    answer = await edge.channel.unary_unary("/probe/echo", bytes, StringValue.FromString)(newer, timeout=SECONDS)
    assert answer.value == "x"


async def test_a_stream_may_end_with_an_error(edge: Edge) -> None:
    """Answers given before an error arrive, and then the error."""
    call = edge.each(*(StringValue(value=value).SerializeToString() for value in ("a", "b", "refuse")))
    assert [(await call.read()).value, (await call.read()).value] == ["a", "b"]
    assert isinstance(await refusal(call.read()), errors.NotFound)


@pytest.mark.parametrize("seconds", [0.001, 0.2])
async def test_a_deadline_ends_the_work(edge: Edge, seconds: float) -> None:
    """A call past its deadline is DEADLINE_EXCEEDED, and the server works on it no longer."""
    error = await refusal(edge.unary("wait", "60", timeout=seconds))
    assert isinstance(error, errors.DeadlineExceeded)
    await asyncio.sleep(0.3)
    assert edge.probe.running == 0
    await edge.assert_well()


async def test_a_caller_that_goes_away_ends_the_work(edge: Edge) -> None:
    """Cancelled calls and streams are worked on no longer."""
    stream: Any = edge.channel.unary_stream("/probe/endless", StringValue.SerializeToString, StringValue.FromString)
    calls = [edge.unary("wait", "60"), stream(StringValue(value="x"))]
    await calls[1].read()
    await asyncio.sleep(0.1)
    assert edge.probe.running == 2
    for call in calls:
        call.cancel()
    await asyncio.sleep(0.3)
    assert edge.probe.running == 0
    await edge.assert_well()


async def test_a_reader_that_does_not_read_is_let_go(edge: Edge) -> None:
    """A stream whose answers are not read ends with UNAVAILABLE WATCHER_TOO_SLOW, and its work with it."""
    stream: Any = edge.channel.unary_stream("/probe/endless", StringValue.SerializeToString, StringValue.FromString)
    call = stream(StringValue(value="x" * MEBIBYTE))
    await call.read()
    await asyncio.sleep(2)
    assert edge.probe.running == 0
    error = await refusal(_read_all(call))
    assert (type(error), error.reason) == (errors.Unavailable, "WATCHER_TOO_SLOW")
    await edge.assert_well()


async def _read_all(call: Any) -> None:
    while await call.read() is not aio.EOF:
        pass


def recover(address: str, value: str) -> str:
    """Asks with the channel that the client uses what is refused twice."""
    with connect(address) as channel:
        stub: Any = channel.unary_unary("/probe/recover", StringValue.SerializeToString, StringValue.FromString)
        return str(stub(StringValue(value=value), timeout=SECONDS).value)


@pytest.mark.parametrize("size", [7, 3_000_000])
@pytest.mark.parametrize(
    "given", [errors.Unavailable("not yet"), errors.ResourceExhausted("too much", facts={"pushback_ms": "150"})]
)
async def test_what_may_be_tried_again_is(edge: Edge, given: HandfulError, size: int) -> None:
    """Small and large requests, after the pause that the server asks for."""
    edge.probe.refusal, started = given, time.monotonic()
    assert await asyncio.to_thread(recover, edge.address, "x" * size) == "x" * size
    assert edge.probe.refusals == 3
    assert given.code == grpc.StatusCode.UNAVAILABLE or time.monotonic() - started >= 0.3


async def test_what_is_full_is_not_tried_again(edge: Edge) -> None:
    """RESOURCE_EXHAUSTED that does not say when to come again."""
    edge.probe.refusal = errors.ResourceExhausted("The object store is full.", reason="STORE_FULL")
    with pytest.raises(grpc.RpcError):
        await asyncio.to_thread(recover, edge.address, "x")
    assert edge.probe.refusals == 1


async def test_what_is_too_large_is_refused_by_grpc(edge: Edge) -> None:
    """A message above 4 MiB, also one that only unpacks to that, and 17 kB of metadata are RESOURCE_EXHAUSTED."""
    for call in (
        edge.unary("echo", "x" * (4 * MEBIBYTE + 1)),
        edge.unary("echo", "x" * 9 * MEBIBYTE, compression=grpc.Compression.Gzip),
        edge.unary("echo", metadata=(("x-large", "x" * 17_000),)),
    ):
        assert isinstance(await refusal(call), errors.ResourceExhausted)
        await edge.assert_well()


@pytest.mark.parametrize(
    "method", ["/probe/none", "/none/echo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
)
async def test_what_is_not_served_is_unimplemented(edge: Edge, method: str) -> None:
    """Unknown methods, and reflection where it was not asked for, are UNIMPLEMENTED."""
    call = edge.channel.unary_unary(method, bytes, bytes)(b"", timeout=SECONDS)
    assert isinstance(await refusal(call), errors.Unimplemented)
