"""A gRPC server from start to drain: limits, keepalive, health, signals. It does not know what it serves."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from services.shared import parent
from services.shared.interceptors import Edge, Observe
from services.shared.settings import CannotStart

log = structlog.get_logger()

MEBIBYTE = 1024 * 1024
_SECOND = 1000
LOOPBACK = ("127.", "localhost", "[::1]", "unix:")
# The health of the whole server, and whether it should get calls: a server that drains is alive, but not ready.
ALIVE, READY = "", "ready"


class CannotListen(CannotStart):
    """The address is taken, or is none of this machine's."""


@dataclass(frozen=True)
class Limits:
    """What a server takes. Messages beyond `message_bytes` are refused by gRPC itself, before they are read whole.

    A connection is closed `connection_age_seconds` after it was opened, once its calls have ended: callers connect
    again, and so find servers that were added. 0: never. Not for servers with long streams.
    """

    message_bytes: int = 4 * MEBIBYTE
    drain_seconds: float = 20.0
    slow_reader_seconds: float = 30.0
    connection_age_seconds: int = 0
    reflection: bool = False
    # By method, what looks at a request's bytes before they are parsed: DecodeError for what is none.
    guards: Mapping[str, Callable[[bytes], None]] = field(default_factory=dict)


class Server:
    """A server that listens. `draining` is set when it is about to stop; `observe` hears of every call's end."""

    def __init__(self, limits: Limits = Limits(), observe: Observe = lambda *_: None) -> None:
        self.limits = limits
        self.draining = asyncio.Event()
        self._server = aio.server(
            interceptors=[Edge(limits.slow_reader_seconds, limits.guards, observe)], options=_options(limits)
        )
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []

    async def start(self, address: str, services: Mapping[str, Callable[[aio.Server], None]]) -> int:
        """Listens on the address and serves; `services` maps a service's full name to what registers it."""
        for register in services.values():
            register(self._server)
        self._names = [READY, *services]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self.limits.reflection:
            reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            raise CannotListen(
                f"Cannot listen on {address}: the port is taken or the address is not this machine's. "
                "Stop what uses it, or set another address."
            ) from None
        await self._server.start()
        await self._health.set(ALIVE, HealthCheckResponse.SERVING)
        await self._set_health(HealthCheckResponse.SERVING)
        log.info("listening", address=address, port=port, services=list(services))
        if not address.startswith(LOOPBACK):
            log.warning("open to the network without encryption or credentials", address=address)
        return port

    async def run(self, beside: Sequence[Coroutine[None, None, None]] = (), *, parent_pipe: bool = False) -> None:
        """Serves until SIGTERM or SIGINT, or the end of the parent's pipe where there is one, then drains. What runs
        for ever beside it is cancelled after that; should it end by itself, the service drains and ends with its error.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if parent_pipe:
            parent.when_gone(partial(os.kill, os.getpid(), signal.SIGTERM))
        tasks = [asyncio.create_task(one) for one in beside]
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        await stop.wait()
        await self.stop()
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()

    async def stop(self) -> None:
        """Takes no new calls, tells streams to end, and gives the calls under way time to finish."""
        log.info("draining", seconds=self.limits.drain_seconds)
        self.draining.set()
        await self._set_health(HealthCheckResponse.NOT_SERVING)
        await self._server.stop(self.limits.drain_seconds)
        log.info("stopped")

    async def _set_health(self, status: "HealthCheckResponse.ServingStatus") -> None:
        for name in self._names:
            await self._health.set(name, status)


def _options(limits: Limits) -> list[tuple[str, int]]:
    age = limits.connection_age_seconds
    return [
        *([("grpc.max_connection_age_ms", age * _SECOND)] if age else []),
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.server_handshake_timeout_ms", 5 * _SECOND),
        ("grpc.max_connection_idle_ms", 300 * _SECOND),
        # A frozen peer is noticed after ping timeout, not keepalive timeout: which is a minute by default.
        ("grpc.keepalive_time_ms", 20 * _SECOND),
        ("grpc.keepalive_timeout_ms", 10 * _SECOND),
        ("grpc.http2.ping_timeout_ms", 10 * _SECOND),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10 * _SECOND),
        # Keeps a stalled upload from buffering 16 MiB.
        ("grpc.http2.bdp_probe", 0),
    ]
