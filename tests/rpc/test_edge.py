"""The edge of every server: request ids, statuses, deadlines and limits, on a real server with a service of our own."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handful import errors
from handful.channel import connect
from handful.errors import HandfulError, from_rpc_error
from services.shared.interceptors import PUSHBACK, REQUEST_ID, request_id
from services.shared.server import MEBIBYTE, CannotListen, Limits, Server

CANARY = "CANARY-/etc/secret-0b5f1d"
SECONDS = 10


class Probe:
    """A service whose methods do what servicers do, good and bad."""

    def __init__(self) -> None:
        self.running = 0
        self.refusals = 0

    async def who(self, _request: StringValue, _context: Any) -> StringValue:
        await asyncio.sleep(0.02)
        return StringValue(value=request_id())

    async def echo(self, request: StringValue, _context: Any) -> StringValue:
        return request

    async def peer(self, _request: StringValue, context: Any) -> StringValue:
        return StringValue(value=context.peer())

    async def wait(self, request: StringValue, _context: Any) -> StringValue:
        self.running += 1
        try:
            await asyncio.sleep(float(request.value))
        finally:
            self.running -= 1
        return request

    async def fail(self, request: StringValue, _context: Any) -> StringValue:
        raise ValueError(CANARY, request)

    async def refuse(self, request: StringValue, _context: Any) -> StringValue:
        facts = {"oldest_sequence": "7", "pushback_ms": "150"}
        kind: type[HandfulError] = getattr(errors, request.value)
        raise kind("what happened", reason="A_REASON", violations=[("a", "is bad"), ("b", "too")], facts=facts)

    async def recover(self, request: StringValue, _context: Any) -> StringValue:
        self.refusals += 1
        if self.refusals < 3:
            raise errors.Unavailable("not yet")
        return request

    async def each(self, requests: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            if request.value == "fail":
                raise KeyError(CANARY)
            if request.value == "refuse":
                raise errors.NotFound("not there")
            yield request

    async def endless(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        self.running += 1
        try:
            while True:
                yield request
                await asyncio.sleep(0.01)
        finally:
            self.running -= 1

    def register(self, server: aio.Server) -> None:
        how: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        unary = [self.who, self.echo, self.peer, self.wait, self.fail, self.refuse, self.recover]
        methods: dict[str, Any] = {one.__name__: grpc.unary_unary_rpc_method_handler(one, **how) for one in unary}
        methods["each"] = grpc.stream_stream_rpc_method_handler(self.each, **how)
        methods["endless"] = grpc.unary_stream_rpc_method_handler(self.endless, **how)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("probe", methods),))


class Edge:
    """A running server with the probe, and callers of it."""

    def __init__(self, probe: Probe, server: Server, address: str, channel: aio.Channel) -> None:
        self.probe, self.server, self.address, self.channel = probe, server, address, channel

    def unary(self, method: str, value: str = "", **options: Any) -> Any:
        call: Any = self.channel.unary_unary(f"/probe/{method}", StringValue.SerializeToString, StringValue.FromString)
        return call(StringValue(value=value), timeout=options.pop("timeout", SECONDS), **options)

    def each(self, *messages: bytes) -> Any:
        call: Any = self.channel.stream_stream("/probe/each", bytes, StringValue.FromString)
        return call(iter(messages), timeout=SECONDS)

    async def assert_well(self) -> None:
        assert (await self.unary("echo", "fine")).value == "fine"


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    probe, server = Probe(), Server(Limits(drain_seconds=3, slow_reader_seconds=0.5))
    port = await server.start("127.0.0.1:0", {"probe": probe.register})
    options = [("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Edge(probe, server, f"127.0.0.1:{port}", channel)
    await server.stop()


async def failure(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as failed:
        await call
    return failed.value


async def refusal(call: Any) -> HandfulError:
    """The error that a call fails with."""
    return from_rpc_error(await failure(call))


@pytest.mark.parametrize("given", ["a", "0190-7c", "x" * 128, "it's {mine}"])
async def test_a_request_id_is_given_back(edge: Edge, given: str) -> None:
    """The caller's id serves the call, and comes back with the answer and in the details of an error."""
    call = edge.unary("who", metadata=((REQUEST_ID, given),))
    assert (await call).value == given
    assert dict(await call.initial_metadata())[REQUEST_ID] == given
    error = await refusal(edge.unary("fail", metadata=((REQUEST_ID, given),)))
    assert error.facts["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129])
async def test_a_call_without_a_usable_id_gets_one(edge: Edge, given: str | None) -> None:
    """Every call has an id of its own, also at the same time as others."""
    metadata = () if given is None else ((REQUEST_ID, given),)
    calls = [edge.unary("who", metadata=metadata) for _ in range(20)]
    ids = [answer.value for answer in await asyncio.gather(*calls)]
    assert len(set(ids)) == 20
    assert ids == [dict(await call.initial_metadata())[REQUEST_ID] for call in calls]
    assert all(len(one) == 36 for one in ids)


async def test_what_went_wrong_inside_stays_inside(edge: Edge) -> None:
    """An exception nobody meant reaches the caller as INTERNAL with the request id, without a word of its own."""
    for call in (edge.unary("fail", CANARY), edge.each(StringValue(value="fail").SerializeToString()).read()):
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


async def test_unavailable_is_tried_again(edge: Edge) -> None:
    """A call that a servicer answers with UNAVAILABLE is repeated by the channel that the client uses."""

    def call() -> str:
        with connect(edge.address) as channel:
            stub: Any = channel.unary_unary("/probe/recover", StringValue.SerializeToString, StringValue.FromString)
            return str(stub(StringValue(value="at last"), timeout=SECONDS).value)

    assert await asyncio.to_thread(call) == "at last"
    assert edge.probe.refusals == 3


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


async def test_health_follows_the_server_from_start_to_drain(edge: Edge) -> None:
    """A server is alive and ready with all its services; as soon as it drains it is alive, but no longer ready."""
    health = health_pb2_grpc.HealthStub(edge.channel)
    watches = {
        name: health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
        for name in ("", "ready", "probe")
    }
    for watch in watches.values():
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    under_way = asyncio.ensure_future(edge.unary("wait", "1"))
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(edge.server.stop())
    for name in ("ready", "probe"):
        assert (await watches[name].read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watches[""].read(), 0.3)
    await under_way
    await stopping


async def test_a_name_with_two_servers_is_called_at_both(edge: Edge) -> None:
    """Calls go round the servers behind a name, and all to the other where one is gone."""
    other, probe = Server(Limits(drain_seconds=0)), Probe()
    port = await other.start("127.0.0.1:0", {"probe": probe.register})

    def refusals() -> tuple[int, int]:
        with connect(f"ipv4:{edge.address},127.0.0.1:{port}") as channel:
            recover = channel.unary_unary("/probe/recover", StringValue.SerializeToString, StringValue.FromString)
            for _ in range(10):
                recover(StringValue(), timeout=SECONDS)
        return edge.probe.refusals, probe.refusals

    edge.probe.refusals = probe.refusals = 3
    assert min(await asyncio.to_thread(refusals)) > 3
    await other.stop()
    edge.probe.refusals = probe.refusals = 3
    assert await asyncio.to_thread(refusals) == (13, 3)


async def test_servers_that_are_restarted_in_turn_lose_no_call() -> None:
    """While two servers behind a name are stopped and started again, one at a time, every call gets its answer."""
    servers = [Server(), Server()]
    ports = [await server.start("127.0.0.1:0", {"probe": Probe().register}) for server in servers]
    done = threading.Event()

    def call() -> None:
        with connect("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as channel:
            wait = channel.unary_unary("/probe/wait", StringValue.SerializeToString, StringValue.FromString)
            while not done.is_set():
                wait(StringValue(value="0.02"), timeout=SECONDS)

    callers = [asyncio.create_task(asyncio.to_thread(call)) for _ in range(4)]
    for turn in (0, 1, 0, 1):
        # A channel tries a server that was gone again within two seconds; Kubernetes gives it ten.
        await asyncio.sleep(3)
        await servers[turn].stop()
        servers[turn] = Server()
        await servers[turn].start(f"127.0.0.1:{ports[turn]}", {"probe": Probe().register})
    done.set()
    await asyncio.gather(*callers, return_exceptions=True)
    for server in servers:
        await server.stop()
    assert [caller.exception() for caller in callers] == [None] * 4


async def test_connections_of_an_age_are_opened_again(edge: Edge) -> None:
    """Where connections have an age, a caller is moved to a new one without losing a call."""
    server = Server(Limits(connection_age_seconds=1, drain_seconds=0))
    port = await server.start("127.0.0.1:0", {"probe": edge.probe.register})
    peers = set()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        who = channel.unary_unary("/probe/peer", StringValue.SerializeToString, StringValue.FromString)
        for _ in range(40):
            peers.add((await who(StringValue(), timeout=SECONDS)).value)
            await asyncio.sleep(0.1)
    assert len(peers) > 1
    await server.stop()


async def test_a_drain_lets_calls_finish_and_takes_no_new_ones(edge: Edge) -> None:
    """When a server stops, what is under way gets its answer, streams are told, and new calls are UNAVAILABLE."""
    under_way = edge.unary("wait", "0.5")
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(edge.server.stop())
    await asyncio.wait_for(edge.server.draining.wait(), SECONDS)
    await asyncio.sleep(0.1)
    assert isinstance(await refusal(edge.unary("echo", timeout=2)), errors.Unavailable)
    assert (await under_way).value == "0.5"
    await stopping


async def test_a_taken_port_is_said_so(edge: Edge) -> None:
    """A server whose port is taken cannot start, and the message names the address."""
    with pytest.raises(CannotListen, match=edge.address):
        await Server().start(edge.address, {})
