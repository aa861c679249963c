"""What callers stream to us, taken as long as it keeps coming."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from handful.errors import Unavailable

IDLE_SECONDS = 60.0

Request = TypeVar("Request")


async def in_time(
    requests: AsyncIterator[Request], what_next: str, seconds: float = IDLE_SECONDS
) -> AsyncIterator[Request]:
    """The requests. Unavailable UPLOAD_IDLE, with a sentence on what to do next, where none comes for so long."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                request = await anext(requests, None)
        except TimeoutError:
            raise Unavailable(f"Nothing came for {seconds:g} s. {what_next}", reason="UPLOAD_IDLE") from None
        if request is None:
            return
        yield request
