"""Streams of callers: taken in order, and given up when nothing comes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from handful.errors import Unavailable
from services.shared.streams import in_time


async def numbers(count: int, *, ends: bool) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0.01)
        yield number
    if not ends:
        await asyncio.Event().wait()


async def test_what_comes_in_time_is_taken() -> None:
    """All of it, in order, however long it takes together."""
    taken = [number async for number in in_time(numbers(30, ends=True), "", seconds=0.25)]
    assert taken == list(range(30))


async def test_a_caller_that_falls_silent_is_given_up() -> None:
    """What came before is kept; then it is UNAVAILABLE, with what to do."""
    taken: list[int] = []
    with pytest.raises(Unavailable) as silent:
        taken.extend([number async for number in in_time(numbers(3, ends=False), "Send it again.", seconds=0.2)])
    assert (silent.value.reason, silent.value.message) == ("UPLOAD_IDLE", "Nothing came for 0.2 s. Send it again.")
