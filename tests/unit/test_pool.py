"""The pool of loaded things: within its budget, each loaded once, failures forgotten."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from services.inference.pool import Pool


@dataclass(frozen=True)
class Thing:
    num_bytes: int
    private: bool = False


def loads(num_bytes: int, *, private: bool = False) -> Callable[[], Awaitable[Thing]]:
    async def load() -> Thing:
        return Thing(num_bytes, private)

    return load


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ("abc", "abc"),
        ("abcd", "bcd"),
        ("abcad", "cad"),
        ("abcabcd", "bcd"),
        ("abcdabcd", "bcd"),
    ],
)
async def test_the_least_recently_used_goes_first(asked: str, left: str) -> None:
    """Of four things with room for three the one that was asked for longest ago is dropped."""
    pool = Pool(30, 20)
    for key in asked:
        await pool.get(key, loads(10))
        assert pool.num_bytes() <= 30
    assert {key for key in "abcd" if key in pool} == set(left)


async def test_as_many_go_as_the_new_one_needs() -> None:
    """A large thing drives out several small ones, and one larger than the budget is held alone."""
    pool = Pool(30, 20)
    for key, num_bytes in (("a", 10), ("b", 10), ("c", 10), ("d", 20)):
        await pool.get(key, loads(num_bytes))
    assert [key for key in "abcd" if key in pool] == ["c", "d"]
    assert (await pool.get("e", loads(99))).num_bytes == 99
    assert [key for key in "abcde" if key in pool] == ["e"]
    await pool.get("f", loads(1))
    assert [key for key in "abcdef" if key in pool] == ["f"]


async def test_what_grows_drives_others_out() -> None:
    """A value that is changed for a larger one makes room as a new one would, and stays though it was the oldest."""
    pool = Pool(30, 20)
    for key in "abc":
        await pool.get(key, loads(10))
    pool.change("a", lambda _: Thing(20))
    assert [key for key in "abc" if key in pool] == ["a", "c"]


async def test_what_is_private_drives_out_what_is_private() -> None:
    """Private things leave the others alone, and the others leave them alone; each keep to their budget."""
    pool = Pool(30, 20)
    for key in "abc":
        await pool.get(key, loads(10))
    for key in "pqrs":
        await pool.get(key, loads(10, private=True))
        assert pool.num_bytes(private=True) <= 20
    assert {key for key in "abcpqrs" if key in pool} == set("abcrs")
    await pool.get("d", loads(10))
    assert {key for key in "abcdpqrs" if key in pool} == set("bcdrs")
    await pool.get("t", loads(99, private=True))
    assert {key for key in "bcdrst" if key in pool} == set("bcdt")


async def test_a_thing_may_be_replaced() -> None:
    """Another value takes the place of one that is there, and of none."""
    pool = Pool(30, 20)
    await pool.get("a", loads(10))
    for key in "ab":
        pool.change(key, lambda there: Thing(there.num_bytes + 2))
    assert (await pool.get("a", loads(10))).num_bytes == 12
    assert "b" not in pool


async def test_a_thing_is_loaded_once_however_many_ask() -> None:
    """A hundred callers at once, and one later, cause one load and get the same thing."""
    pool = Pool(30, 20)
    ready = asyncio.Event()
    loaded: list[Thing] = []

    async def load() -> Thing:
        await ready.wait()
        loaded.append(Thing(10))
        return loaded[-1]

    asking = [asyncio.create_task(pool.get("a", load)) for _ in range(100)]
    await asyncio.sleep(0)
    ready.set()
    found = [*await asyncio.gather(*asking), await pool.get("a", load)]
    assert len(loaded) == 1
    assert all(one is loaded[0] for one in found)


async def test_a_slow_load_holds_up_no_other() -> None:
    """What is loaded already is had while something else is still loading."""
    pool = Pool(30, 20)
    ready = asyncio.Event()

    async def load() -> Thing:
        await ready.wait()
        return Thing(10)

    slow = asyncio.create_task(pool.get("slow", load))
    await asyncio.sleep(0)
    assert (await asyncio.wait_for(pool.get("a", loads(10)), 5)).num_bytes == 10
    assert not slow.done()
    ready.set()
    await slow


async def test_a_failure_is_told_to_all_for_a_while() -> None:
    """All who wait for a load, and all who come within the time, hear that it failed; then it is tried again."""
    pool, tries = Pool(30, 20, patience=0.3), list[int]()

    async def fail() -> Thing:
        tries.append(1)
        await asyncio.sleep(0)
        raise KeyError("away")

    for _ in range(2):
        answers = await asyncio.gather(*(pool.get("a", fail) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [KeyError] * 3
    assert len(tries) == 1
    assert "a" not in pool
    assert (await pool.get("b", loads(10))).num_bytes == 10
    await asyncio.sleep(0.6)
    assert (await pool.get("a", loads(10))).num_bytes == 10


async def test_a_failure_that_passes_is_forgotten() -> None:
    """All who wait for the load hear of it, and the next one to ask has it tried again."""
    pool, tries = Pool(30, 20, passing=(KeyError,)), list[int]()

    async def fail() -> Thing:
        tries.append(1)
        await asyncio.sleep(0)
        raise KeyError("away")

    answers = await asyncio.gather(*(pool.get("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [KeyError] * 3
    assert len(tries) == 1
    assert (await pool.get("a", loads(10))).num_bytes == 10


async def test_a_caller_that_goes_away_ends_no_load() -> None:
    """The first caller is cancelled; the load goes on for the second, and once."""
    pool = Pool(30, 20)
    ready = asyncio.Event()
    loaded: list[Thing] = []

    async def load() -> Thing:
        await ready.wait()
        loaded.append(Thing(10))
        return loaded[-1]

    first, second = (asyncio.create_task(pool.get("a", load)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    ready.set()
    assert await second is loaded[0]
    assert len(loaded) == 1
