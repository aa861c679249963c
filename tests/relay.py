"""A TCP relay: one address in front of another that may change, whose connections can be cut at any byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CHUNK = 4096


class Relay:
    """Passes bytes on in both directions. `upstream` is where they go; None: nobody is there, and none get in.

    `allow` says for each new connection after how many bytes towards the client it is cut; None: never. `num_cut`
    counts.
    """

    def __init__(self, upstream: str | None = None, allow: Callable[[], int | None] = lambda: None) -> None:
        self.upstream = upstream
        self.address = ""
        self.num_cut = 0
        self._allow = allow
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Relay]:
        """Relays, at `address`, inside this context."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Breaks every connection there is now, both ways, without a farewell."""
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._relay(reader, writer)
        except OSError:
            pass  # one side was cut; so is the other
        finally:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.upstream is None:
            return
        host, _, port = self.upstream.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ends = {writer, far_writer}
        self._open |= ends
        try:
            away = asyncio.create_task(_pass(reader, far_writer, None))
            back = asyncio.create_task(_pass(far_reader, writer, self._allow()))
            await asyncio.wait({away, back}, return_when=asyncio.FIRST_COMPLETED)
            self.num_cut += back.done() and back.exception() is None and back.result()
        finally:
            for end in ends:
                end.transport.abort()
            self._open -= ends
            await asyncio.gather(away, back, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> bool:
    """Passes bytes on until the source ends or the budget is spent: whether it was spent."""
    while data := await reader.read(CHUNK if budget is None else min(CHUNK, budget)):
        writer.write(data)
        await writer.drain()
        if budget is not None:
            budget -= len(data)
            if budget <= 0:
                return True
    return False
