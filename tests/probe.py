"""A service of our own on a real server: its methods do what servicers do, good and bad."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from handful import errors
from handful.errors import HandfulError
from services.shared.interceptors import request_id
from services.shared.server import Limits, Server

CANARY = "CANARY-/etc/secret-0b5f1d"
SECONDS = 10


class Sent:
    """A request whose end can be seen."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Probe:
    """A service whose methods do what servicers do, good and bad."""

    def __init__(self) -> None:
        self.running = 0
        self.refusals = 0
        self.refusal: HandfulError = errors.Unavailable("not yet")
        self.seen: list[weakref.ref[Sent]] = []

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

    async def refuse_large(self, request: Sent, _context: Any) -> StringValue:
        made = Sent(2 * request.data)
        self.seen += [weakref.ref(request), weakref.ref(made)]
        try:
            return StringValue(value=vars(made)[CANARY])
        except KeyError:
            raise errors.InvalidArgument("broken") from ValueError("unreadable")

    async def fail_in_a_ring(self, request: StringValue, _context: Any) -> StringValue:
        first, second = ValueError(CANARY, request), KeyError(CANARY)
        first.__cause__, second.__cause__ = second, first
        raise first

    async def recover(self, request: StringValue, _context: Any) -> StringValue:
        self.refusals += 1
        if self.refusals < 3:
            raise self.refusal
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
        unary = [self.who, self.echo, self.peer, self.wait, self.fail, self.fail_in_a_ring, self.refuse, self.recover]
        methods: dict[str, Any] = {one.__name__: grpc.unary_unary_rpc_method_handler(one, **how) for one in unary}
        large = {**how, "request_deserializer": Sent}
        methods["refuse_large"] = grpc.unary_unary_rpc_method_handler(self.refuse_large, **large)
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


@asynccontextmanager
async def served() -> AsyncIterator[Edge]:
    """The probe on a server that drains for 3 s at most and lets a reader go after half a second."""
    probe, server = Probe(), Server(Limits(drain_seconds=3, slow_reader_seconds=0.5))
    port = await server.start("127.0.0.1:0", {"probe": probe.register})
    options = [("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Edge(probe, server, f"127.0.0.1:{port}", channel)
    await server.stop()
