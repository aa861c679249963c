"""Streams of callers: taken in order, and given up when nothing comes."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from handful.errors import HandfulError, ResourceExhausted, Unavailable
from services.inference.many import as_they_come
from services.shared.streams import Streams, in_time, until_draining

Value = TypeVar("Value")


async def numbers(count: int, *, ends: bool) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0.01)
        yield number
    if not ends:
        await asyncio.Event().wait()


async def collect(values: AsyncIterator[Value], into: list[Value]) -> None:
    """What came stays where the values end with an error."""
    async for value in values:
        into.append(value)  # noqa: PERF401


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


async def test_a_stream_ends_when_the_server_drains() -> None:
    """What came before is taken; a stream that ends by itself just ends."""
    draining = asyncio.Event()
    assert [number async for number in until_draining(numbers(3, ends=True), draining)] == [0, 1, 2]
    taken: list[int] = []
    asyncio.get_running_loop().call_later(0.3, draining.set)
    with pytest.raises(Unavailable) as stopped:
        await collect(until_draining(numbers(3, ends=False), draining), taken)
    assert (taken, stopped.value.reason) == ([0, 1, 2], "SERVER_DRAINING")


async def test_what_was_asked_before_the_end_is_answered_before_it() -> None:
    async def slowly(number: int) -> int:
        await asyncio.sleep(0.1 * (3 - number))
        return 10 * number

    answers: list[tuple[int, int | HandfulError]] = []
    with pytest.raises(Unavailable):
        await collect(as_they_come(in_time(numbers(3, ends=False), "", seconds=0.1), slowly), answers)
    assert answers == [(2, 20), (1, 10), (0, 0)]


async def test_streams_are_bounded() -> None:
    """One more than there may be is refused; one that ends, as it should or not, makes room."""
    streams = Streams(2, asyncio.Event())
    with streams.open(numbers(1, ends=False)) as first, streams.open(numbers(1, ends=True)) as second:
        assert [await anext(first), await anext(second)] == [0, 0]
        with pytest.raises(ResourceExhausted) as caught, streams.open(numbers(1, ends=True)):
            pass
        assert caught.value.reason == "TOO_MANY_STREAMS"
    with pytest.raises(KeyError), streams.open(numbers(1, ends=True)):
        raise KeyError
    with streams.open(numbers(3, ends=True)) as again, streams.open(numbers(1, ends=True)):
        assert [number async for number in again] == [0, 1, 2]
