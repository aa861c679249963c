"""Copies of a store's objects on this machine: they spare a trip to it, and never say anything else than it does."""

from pathlib import Path

import pytest
import structlog

from services.shared.objects import ObjectMissing
from services.shared.objects.filesystem import FilesystemStore
from services.shared.objects.nearby import Cache, NearbyStore

KEY = "projects/default/features/one"
DATA = b"0123456789"
SHA256 = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"


@pytest.fixture
def far(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "far")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "near", limit=1000)


def size(cache: Cache) -> int:
    return sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file())


def test_what_was_read_or_written_is_here(far: FilesystemStore, cache: Cache) -> None:
    """Also for another process that has the same folder; the store has what was written."""
    NearbyStore(far, cache).put(KEY, DATA)
    far.put(f"{KEY}-read", DATA)
    assert NearbyStore(far, cache).get(f"{KEY}-read") == DATA
    assert far.get(KEY) == DATA
    far.delete(KEY)
    far.delete(f"{KEY}-read")
    assert [NearbyStore(far, cache).get(key) for key in (KEY, f"{KEY}-read")] == [DATA, DATA]


def test_what_is_nowhere_is_missing_and_what_is_deleted_goes(far: FilesystemStore, cache: Cache) -> None:
    near = NearbyStore(far, cache)
    near.put(KEY, DATA)
    near.delete(KEY)
    for key in (KEY, "projects/default/features/never"):
        with pytest.raises(ObjectMissing):
            near.get(key)


def test_a_copy_that_is_not_what_its_hash_says_is_fetched_again(far: FilesystemStore, cache: Cache) -> None:
    near = NearbyStore(far, cache)
    near.put(KEY, DATA)
    (cache.folder / KEY).write_bytes(b"broken")
    assert near.get(KEY, SHA256) == DATA
    assert (cache.folder / KEY).read_bytes() == DATA


def test_copies_are_bounded_and_the_oldest_go(far: FilesystemStore, cache: Cache) -> None:
    """A hundred times what fits: little more than the limit stays. What is read stays before what is only old."""
    near = NearbyStore(far, cache)
    near.put("read", DATA)
    for number in range(10_000):
        near.put(f"many/{number}", DATA)
        if number % 20 == 0:
            assert near.get("read") == DATA
    assert size(cache) <= 1.2 * cache.limit
    assert (cache.folder / "read").exists()
    assert (cache.folder / "many/9999").exists()
    assert not (cache.folder / "many/0").exists()
    assert far.get("many/0") == DATA


def test_a_folder_that_many_wrote_into_is_bounded_too(far: FilesystemStore, cache: Cache) -> None:
    """Each of many that write a little, one after the other, as runs do."""
    for number in range(500):
        NearbyStore(far, cache).put(f"many/{number}", DATA)
    assert size(cache) <= cache.limit


def test_where_no_copy_can_be_kept_the_store_serves(far: FilesystemStore, cache: Cache) -> None:
    """And the log says so, once."""
    cache.folder.symlink_to(cache.folder)
    near = NearbyStore(far, cache)
    with structlog.testing.capture_logs() as told:
        near.put(KEY, DATA)
        assert near.get(KEY) == DATA
    assert [line["event"] for line in told] == ["no copies kept nearby"]
