"""Work in processes of its own: limited in memory and time, and gone with whoever asked for it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from handful.errors import InvalidArgument
from services.trainer.limited import Limited, LimitsExceeded

MEMORY_BYTES = 512 * 2**20
WALL_SECONDS = 2.0


@pytest.fixture
async def limited() -> AsyncIterator[Limited]:
    made = Limited(MEMORY_BYTES, WALL_SECONDS)
    yield made
    await asyncio.to_thread(made.close)


def add(first: int, second: int) -> tuple[int, int]:
    return first + second, os.getpid()


def refuse() -> None:
    raise InvalidArgument("Not this.", reason="CORRUPT_MODEL", facts={"a": "b"})


def fail() -> None:
    raise ZeroDivisionError


class Odd(Exception):
    """Cannot be made again of what is kept of it."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def surprise() -> None:
    raise Odd(1, 2)


def fill() -> int:
    return len(bytearray(4 * MEMORY_BYTES))


def die() -> None:
    os.abort()


def hang(told: Path | None = None) -> None:
    if told is not None:
        told.write_text(str(os.getpid()))
    time.sleep(60)


async def test_work_is_done_elsewhere(limited: Limited) -> None:
    """Each piece has a process of its own, and what it returns comes back."""
    results = [await limited.run(add, number, 1) for number in range(2)]
    assert [total for total, _ in results] == [1, 2]
    assert len({os.getpid(), *(pid for _, pid in results)}) == 3


async def test_errors_come_back(limited: Limited) -> None:
    """What the work raises is raised; an error that was meant for the caller is as it was, and no fault of ours."""
    with pytest.raises(ZeroDivisionError):
        await limited.run(fail)
    with pytest.raises(RuntimeError, match="1 and 2"):
        await limited.run(surprise)
    with pytest.raises(InvalidArgument) as caught:
        await limited.run(refuse)
    assert (caught.value.message, caught.value.reason, caught.value.facts) == ("Not this.", "CORRUPT_MODEL", {"a": "b"})
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("work", [fill, die, hang])
async def test_limits_are_kept(limited: Limited, work: Callable[[], object]) -> None:
    """Too much memory, a crash and too much time end that piece, and the next is done."""
    with pytest.raises(LimitsExceeded):
        await limited.run(work)
    assert (await limited.run(add, 1, 1))[0] == 2


def pid_in(file: Path) -> int:
    """What another process wrote; 0 so far."""
    return int(file.read_text() or 0) if file.exists() else 0


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_who_goes_away_takes_the_process_along(tmp_path: Path) -> None:
    """A caller's end is the work's end, long before its time is up."""
    patient = Limited(MEMORY_BYTES, wall_seconds=120)
    task = asyncio.create_task(patient.run(hang, tmp_path / "pid"))
    async with asyncio.timeout(30):
        while not (pid := pid_in(tmp_path / "pid")):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        assert lives(pid)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        while lives(pid):  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.02)
    await asyncio.to_thread(patient.close)
