"""Servers from start to drain: their health, several behind a name, connections of an age, ports that are taken."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handful import errors
from handful.channel import connect
from services.shared.server import CannotListen, Limits, Server
from tests.playing_worker import refusal
from tests.probe import SECONDS, Edge, Probe, served


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with served() as edge:
        yield edge


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


async def test_a_server_that_is_held_up_answers_when_it_comes_to_it(edge: Edge) -> None:
    """Of more than a thousand calls that wait while its loop stands still gRPC cancels some at random, so that others
    wait no longer; our channel tries these again.
    """
    count, standing_seconds = 1500, 1.5

    def ask() -> list[str]:
        with connect(edge.address) as channel:
            echo = channel.unary_unary("/probe/echo", StringValue.SerializeToString, StringValue.FromString)
            calls = [echo.future(StringValue(value=str(number)), timeout=60) for number in range(count)]
            return [call.result().value for call in calls]

    asking = asyncio.create_task(asyncio.to_thread(ask))
    await asyncio.sleep(0.1)
    time.sleep(standing_seconds)  # noqa: ASYNC251 - it is to stand still
    assert await asking == [str(number) for number in range(count)]


async def test_a_taken_port_is_said_so(edge: Edge) -> None:
    """A server whose port is taken cannot start, and the message names the address."""
    with pytest.raises(CannotListen, match=edge.address):
        await Server().start(edge.address, {})
