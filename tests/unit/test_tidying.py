"""Features in the store are bounded: the oldest go, of one project and of no other."""

import time
from pathlib import Path

import pytest

from services.shared.objects.filesystem import FilesystemStore
from services.trainer.worker.tidying import Tidying


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    """Ten features of two projects each, written one after the other, and a picture older than all of them."""
    store = FilesystemStore(tmp_path)
    store.put("projects/one/blobs/picture", b"x")
    for number in range(10):
        for project in ("one", "two"):
            store.put(f"projects/{project}/features/s{number % 2}/{number}", b"x")
            time.sleep(0.002)
    return store


def left(store: FilesystemStore, project: str) -> set[str]:
    return {key.rpartition("/")[2] for key in store.keys(f"projects/{project}/features/")}


def test_the_oldest_features_of_a_project_go(store: FilesystemStore) -> None:
    Tidying(store, kept=3).tidy("one")
    assert left(store, "one") == {"7", "8", "9"}
    assert len(left(store, "two")) == 10
    assert store.get("projects/one/blobs/picture") == b"x"


def test_where_there_is_room_nothing_goes(store: FilesystemStore) -> None:
    Tidying(store, kept=10).tidy("one")
    assert len(left(store, "one")) == 10


def test_a_project_is_looked_through_once_in_a_while(store: FilesystemStore) -> None:
    """After a run, beside what follows; not after the next run again; and never where no bound is set."""
    Tidying(store, kept=0).after_run("one")
    tidying = Tidying(store, kept=4)
    tidying.after_run("one")
    ends = time.monotonic() + 10
    while len(left(store, "one")) > 4 and time.monotonic() < ends:
        time.sleep(0.01)
    assert left(store, "one") == {"6", "7", "8", "9"}
    store.put("projects/one/features/s0/new", b"x")
    tidying.after_run("one")
    time.sleep(0.2)
    assert len(left(store, "one")) == 5
