"""A store that is away: waited for, so long and no longer, and not where whoever waits shall stop."""

import pickle
import threading
import time
from pathlib import Path

import pytest

from services.shared.objects import StoreUnavailable
from services.shared.objects.filesystem import FilesystemStore
from services.shared.objects.retrying import RetryingStore
from services.trainer.worker.reporting import RunCancelled

KEY = "projects/default/blobs/one"


@pytest.fixture
def away(tmp_path: Path) -> FilesystemStore:
    """A store that cannot be read or written below the project: a link in a circle is in the way."""
    store = FilesystemStore(tmp_path)
    (tmp_path / "projects").symlink_to(tmp_path / "projects")
    return store


def test_a_store_that_comes_back_in_time_was_never_away(away: FilesystemStore) -> None:
    """What is asked for meanwhile is done then."""

    def mend() -> None:
        time.sleep(0.5)
        (away.folder / "projects").unlink()

    thread = threading.Thread(target=mend)
    thread.start()
    RetryingStore(away, 30).put(KEY, b"bytes")
    thread.join()
    assert away.get(KEY) == b"bytes"


def test_a_store_that_stays_away_is_given_up(away: FilesystemStore) -> None:
    """After so many seconds it is unavailable."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        RetryingStore(away, 1.5).get(KEY)
    assert 1 < time.monotonic() - began < 10


def test_whoever_waits_may_be_stopped(away: FilesystemStore) -> None:
    """What `check` raises ends the wait, though not in another process."""

    def check() -> None:
        raise RunCancelled

    store = RetryingStore(away, 60).checking(check)
    with pytest.raises(RunCancelled):
        store.get(KEY)
    with pytest.raises(StoreUnavailable):
        pickle.loads(pickle.dumps(RetryingStore(away, 0).checking(check))).get(KEY)  # noqa: S301 - our own


def test_nobody_waits_to_remove(away: FilesystemStore) -> None:
    """A deletion that cannot be done now is not done."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        RetryingStore(away, 60).delete(KEY)
    assert time.monotonic() - began < 1
