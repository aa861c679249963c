"""Wake-ups within a trainer: nobody who waits is forgotten, and nobody is woken for another's run."""

import asyncio
import time

import pytest

from services.trainer.board import Bell, Board
from services.trainer.records import RunKey

RUN = RunKey("default", "run-1")
# Another run, and a run of the same id in another project.
OTHERS = (RunKey("default", "run-2"), RunKey("elsewhere", "run-1"))
# Longer than any wake-up takes; and short, for what must not happen.
LONG, SHORT = 5.0, 0.05


async def rings(bell: Bell, seconds: float = LONG) -> bool:
    """Whether the bell rings before the time is over."""
    start = time.monotonic()
    await bell.wait(seconds)
    return time.monotonic() - start < seconds


async def test_everyone_who_waits_for_a_run_wakes() -> None:
    """Whatever happens to a run wakes all who wait for it."""
    board = Board()
    with board.on(RUN) as one, board.on(RUN) as another:
        waiting = asyncio.gather(rings(one), rings(another))
        await asyncio.sleep(0)
        board.changed(RUN)
        assert all(await waiting)


@pytest.mark.parametrize("other", OTHERS, ids=lambda key: key.name)
async def test_nobody_wakes_for_another_run(other: RunKey) -> None:
    """What happens to one run rings no bell of another, nor the queue's."""
    board = Board()
    with board.on(RUN) as bell, board.on_queue() as queue:
        board.changed(other)
        assert not any(await asyncio.gather(rings(bell, SHORT), rings(queue, SHORT)))


async def test_a_queued_run_wakes_the_queue_alone() -> None:
    """Those who wait for work wake when a run waits; watchers do not."""
    board = Board()
    with board.on_queue() as queue, board.on(RUN) as bell:
        board.queued()
        worker, watcher = await asyncio.gather(rings(queue, SHORT), rings(bell, SHORT))
        assert worker
        assert not watcher


async def test_a_ring_between_two_waits_counts_once() -> None:
    """What happened since the last wait ends the next one at once, and only that one."""
    board = Board()
    with board.on(RUN) as bell:
        board.changed(RUN)
        board.changed(RUN)
        assert await rings(bell)
        assert not await rings(bell, SHORT)
        board.changed(RUN)
        assert await rings(bell)


async def test_what_happens_after_a_wait_timed_out_is_not_lost() -> None:
    """A wait that ended in vain leaves the bell ready for the next."""
    board = Board()
    with board.on(RUN) as bell:
        assert not await rings(bell, SHORT)
        board.changed(RUN)
        assert await rings(bell)


async def test_one_who_leaves_takes_nobody_along() -> None:
    """When one who waits is cancelled, the others are still woken; later ones too."""
    board = Board()

    async def wait() -> bool:
        with board.on(RUN) as bell:
            return await rings(bell)

    leaving, staying = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    board.changed(RUN)
    assert await staying
    coming = asyncio.create_task(wait())
    await asyncio.sleep(0)
    board.changed(RUN)
    assert await coming
