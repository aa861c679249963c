"""`python -m benchmarks.peers.load`: callers in a process of their own, each of whom asks again as soon as it is
answered. It knows no server: it sends bytes that are given to it and keeps those that come back.

The first line of standard input says whom to call and what to send, every further one with how many callers and for how
many seconds; each is answered by a line of JSON. With 0 seconds every caller asks once. gRPC callers share one channel;
each HTTP caller keeps a connection, and its client reads no more of HTTP/1.1 than a status and a length, or chunks, so
that what the client costs, which is printed beside, is little for both: 0.2 to 0.7 ms of processor time for each call.
"""

import asyncio
import base64
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

DEADLINE_SECONDS = 30.0
# A caller that was refused does not ask again at once.
PAUSE_SECONDS = 0.02
MAX_BYTES = 64 * 1024 * 1024

Call = Callable[[bytes], Awaitable[bytes]]


class Refused(Exception):
    """The server answered, and not with an answer."""


class HttpCaller:
    """One connection, opened again where it was lost."""

    def __init__(self, address: str, path: str, content_type: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, body: bytes) -> bytes:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._call(body)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None

    async def _call(self, body: bytes) -> bytes:
        reader, writer = self._streams or await asyncio.open_connection(self._host, self._port)
        self._streams = reader, writer
        writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status, _, rest = head.partition(b"\r\n")
        length = rest.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        answer = await (reader.readexactly(int(length)) if length else _chunks(reader))
        if status.split()[1] != b"200":
            raise Refused(f"{status.decode()}: {answer[:200]!r}")
        return answer


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body without a length, which comes as `chunked`."""
    found = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return found


@asynccontextmanager
async def callers(setup: dict[str, Any], number: int) -> AsyncIterator[Sequence[Call]]:
    """So many, who connect with their first calls."""
    if setup["protocol"] == "http":
        several = [HttpCaller(setup["address"], setup["path"], setup["content_type"]) for _ in range(number)]
        try:
            yield several
        finally:
            for one in several:
                one.close()
        return
    options = [("grpc.max_receive_message_length", MAX_BYTES)]
    async with grpc.aio.insecure_channel(setup["address"], options) as channel:
        method: Any = channel.unary_unary(setup["path"])

        async def call(body: bytes) -> bytes:
            answer: bytes = await method(body, timeout=DEADLINE_SECONDS)
            return answer

        yield [call] * number


class Round:
    """What some callers saw."""

    def __init__(self, bodies: Sequence[bytes], seconds: float) -> None:
        self._bodies = bodies
        self._ends = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.answers: list[bytes] = [b""] * len(bodies)
        self.failures: list[str] = []

    async def go_on(self, call: Call, first: int) -> None:
        """One caller, who begins with one of the bodies and takes the others in turn."""
        place = first
        while True:
            began = time.perf_counter()
            which = place % len(self._bodies)
            try:
                self.answers[which] = await call(self._bodies[which])
                self.latencies.append(time.perf_counter() - began)
            except (grpc.RpcError, Refused, OSError, EOFError, asyncio.IncompleteReadError) as problem:
                self.failures.append(_say(problem))
                await asyncio.sleep(PAUSE_SECONDS)
            place += 1
            if time.perf_counter() >= self._ends:
                return


def _say(problem: BaseException) -> str:
    if isinstance(problem, grpc.aio.AioRpcError):
        return f"{problem.code().name}: {problem.details()}"
    return repr(problem)


async def measure(calls: Sequence[Call], bodies: Sequence[bytes], seconds: float) -> dict[str, Any]:
    began, cost = time.perf_counter(), _processor_seconds()
    found = Round(bodies, seconds)
    await asyncio.gather(*(found.go_on(call, first) for first, call in enumerate(calls)))
    ordered = sorted(found.latencies)
    return {
        "answered": len(ordered),
        "failed": len(found.failures),
        "why": found.failures[0] if found.failures else "",
        "seconds": time.perf_counter() - began,
        "p50": _quantile(ordered, 0.5),
        "p99": _quantile(ordered, 0.99),
        "cpu_seconds": _processor_seconds() - cost,
        "answers": [base64.b64encode(one).decode() for one in found.answers],
    }


def _quantile(ordered: Sequence[float], of: float) -> float:
    return ordered[min(len(ordered) - 1, int(of * len(ordered)))] if ordered else float("nan")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    setup = json.loads(sys.stdin.readline())
    bodies = [base64.b64decode(one) for one in setup["bodies"]]
    while line := await asyncio.to_thread(sys.stdin.readline):
        wanted = json.loads(line)
        # New connections each time: servers close those that were idle, and that is no failure of a call.
        async with callers(setup, wanted["callers"]) as calls:
            found = await measure(calls, bodies, wanted["seconds"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
