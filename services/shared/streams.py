"""What callers stream to us, taken as long as it keeps coming and the server stays."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from handful.errors import ResourceExhausted, Unavailable

IDLE_SECONDS = 60.0

Request = TypeVar("Request")


async def in_time(
    requests: AsyncIterator[Request], what_next: str, seconds: float = IDLE_SECONDS, reason: str = "UPLOAD_IDLE"
) -> AsyncIterator[Request]:
    """The requests. Unavailable with the reason, and a sentence on what to do next, where none comes for so long."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                request = await anext(requests, None)
        except TimeoutError:
            raise Unavailable(f"Nothing came for {seconds:g} s. {what_next}", reason=reason) from None
        if request is None:
            return
        yield request


async def until_draining(requests: AsyncIterator[Request], draining: asyncio.Event) -> AsyncGenerator[Request, None]:
    """The requests. Unavailable SERVER_DRAINING once the server is about to stop."""
    stopping = asyncio.create_task(draining.wait())
    coming: asyncio.Future[Request | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(requests, None))
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise Unavailable("The server is stopping. Open the stream again.", reason="SERVER_DRAINING")
            if (request := coming.result()) is None:
                return
            yield request
    finally:
        stopping.cancel()
        if coming is not None:
            coming.cancel()


class Streams:
    """The streams of requests that a server holds open, of all kinds together: at most so many, none that is idle, and
    none once `draining` is set.
    """

    def __init__(self, most: int, draining: asyncio.Event) -> None:
        self._most = most
        self._draining = draining
        self._open = 0

    @contextmanager
    def open(self, requests: AsyncIterator[Request]) -> Iterator[AsyncGenerator[Request, None]]:
        """The requests of one, as they come. ResourceExhausted TOO_MANY_STREAMS, or Unavailable as above."""
        if self._open >= self._most:
            raise ResourceExhausted(f"{self._most} streams are open. Try again later.", reason="TOO_MANY_STREAMS")
        self._open += 1
        try:
            patient = in_time(requests, "Open the stream again.", reason="STREAM_IDLE")
            yield until_draining(patient, self._draining)
        finally:
            self._open -= 1
