"""How long a worker takes work: as long as it is wanted, has something to do, and is not too old."""

import time

from services.trainer.worker.shift import Shift


def test_a_worker_stays_until_it_is_told_to_go() -> None:
    """Without limits only the end of the shift ends it."""
    shift = Shift(idle_seconds=0, max_seconds=0)
    time.sleep(0.05)
    assert not shift.is_over
    shift.end()
    assert shift.is_over


def test_a_worker_goes_when_it_has_had_nothing_to_do_for_so_long() -> None:
    """Idleness counts from the start and anew from the end of every run."""
    shift = Shift(idle_seconds=0.2, max_seconds=0)
    for _ in range(3):
        time.sleep(0.1)
        shift.worked()
    assert not shift.is_over
    time.sleep(0.25)
    assert shift.is_over


def test_a_worker_goes_after_so_long_however_much_there_is_to_do() -> None:
    """The age of a worker is not made younger by work."""
    shift = Shift(idle_seconds=10, max_seconds=0.2)
    assert not shift.is_over
    time.sleep(0.25)
    shift.worked()
    assert shift.is_over
