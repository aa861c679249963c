"""What every object store promises, whichever it is."""

import hashlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.shared.identifiers import new_id
from services.shared.objects import (
    ObjectCorrupt,
    ObjectMissing,
    ObjectStore,
    StoreSettings,
    StoreUnavailable,
    get_first,
    open_store,
)
from services.shared.objects.filesystem import FilesystemStore
from services.shared.settings import BadSettings

# Add a store: a line with the settings of an empty one.
STORES: dict[str, Callable[[pytest.FixtureRequest], StoreSettings]] = {
    "filesystem": lambda request: StoreSettings(store=str(request.getfixturevalue("tmp_path") / "store")),
    "s3": lambda request: request.getfixturevalue("minio").settings(prefix=new_id()),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return open_store(STORES[request.param](request))


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000], ids=["empty", "a byte", "5 MB"])
def test_what_was_put_is_got(store: ObjectStore, data: bytes) -> None:
    """An object comes back byte for byte, also when its hash is asked for."""
    store.put("projects/default/blobs/a", data)
    assert store.get("projects/default/blobs/a") == data
    assert store.get("projects/default/blobs/a", hashlib.sha256(data).hexdigest()) == data
    assert list(store.keys("projects/default/blobs/a")) == ["projects/default/blobs/a"]


def test_a_put_replaces(store: ObjectStore) -> None:
    """The last bytes put under a key are the object."""
    store.put("a", b"long before")
    store.put("a", b"after")
    assert store.get("a") == b"after"
    assert list(store.keys("")) == ["a"]


def test_other_bytes_than_the_hash_says_are_never_given(store: ObjectStore) -> None:
    """One wrong byte is ObjectCorrupt."""
    data = b"0123456789" * 100
    for position in (0, 500, 999):
        store.put("a", data[:position] + b"x" + data[position + 1 :])
        with pytest.raises(ObjectCorrupt):
            store.get("a", hashlib.sha256(data).hexdigest())


def test_the_first_of_several_keys_is_read(store: ObjectStore) -> None:
    """Of several keys the first that is there counts; none of them, or a wrong hash, is an error."""
    data, sha256 = b"a graph", hashlib.sha256(b"a graph").hexdigest()
    store.put("second", data)
    assert get_first(store, ("first", "second"), sha256) == data
    with pytest.raises(ObjectMissing):
        get_first(store, ("first", "third"), sha256)
    store.put("first", b"another")
    with pytest.raises(ObjectCorrupt):
        get_first(store, ("first", "second"), sha256)


@pytest.mark.parametrize("key", ["b", "projects/default/none", "a/b/c", "projects", "projects/a"])
def test_what_is_not_there_is_missing(store: ObjectStore, key: str) -> None:
    """A key without an object is ObjectMissing, also where it is a part of another key, or goes on after one."""
    store.put("a/b", b"x")
    store.put("projects/a/b", b"x")
    for read in (store.get, lambda key: store.get_if_changed(key, None)):
        with pytest.raises(ObjectMissing):
            read(key)
    store.delete(key)
    assert list(store.keys("")) == ["a/b", "projects/a/b"]


def test_a_tag_tells_whether_an_object_changed(store: ObjectStore) -> None:
    """With the tag of the bytes at hand nothing is read again; after a put, even of equal bytes, it may be."""
    store.put("a", b"one")
    first = store.get_if_changed("a", None)
    assert first is not None
    assert first[0] == b"one"
    assert store.get_if_changed("a", first[1]) is None
    for data in (b"two", b"six"):
        store.put("a", data)
        changed = store.get_if_changed("a", first[1])
        assert changed is not None
        assert (changed[0], store.get_if_changed("a", changed[1])) == (data, None)


def test_keys_are_listed_by_prefix_oldest_first(store: ObjectStore) -> None:
    """A prefix need not end at a slash; objects come in the order they were put, a replaced one last."""
    for key in ("p/b/2", "p/a/1", "p/ab", "q/a/1", "p/b/1"):
        store.put(key, b"x")
        time.sleep(0.01)
    assert list(store.keys("p/")) == ["p/b/2", "p/a/1", "p/ab", "p/b/1"]
    assert list(store.keys("p/a")) == ["p/a/1", "p/ab"]
    assert list(store.keys("none/")) == []
    store.put("p/b/2", b"y")
    assert list(store.keys("p/b/")) == ["p/b/1", "p/b/2"]


def test_deleting_is_safe_to_repeat(store: ObjectStore) -> None:
    """A deleted object is gone, and deleting it again does nothing."""
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.keys("a/b")) == []
    assert list(store.keys("")) == []
    store.put("a/b", b"y")
    assert store.get("a/b") == b"y"


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../b", "a/..", ".hidden", "a/.b", "a\\b", "a\nb", "a\n", "a b", "ä", "a\0"]
)
def test_what_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    """A key that could lead out of the store, or that another store could not hold, is a ValueError."""
    for use in (store.get, store.delete, lambda key: store.put(key, b"x")):
        with pytest.raises(ValueError, match="key"):
            use(key)


def test_readers_see_whole_objects_only(store: ObjectStore) -> None:
    """While an object is replaced over and over, by several writers, every read gives one writer's bytes whole."""
    sizes = (10, 100_000, 3_000_000)
    store.put("a", b"0" * sizes[0])
    end = threading.Event()

    def write(letter: bytes) -> None:
        for size in itertools.cycle(sizes):
            if end.is_set():
                return
            store.put("a", letter * size)

    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(write, letter) for letter in (b"1", b"2", b"3")]
        for _ in range(50):
            data = store.get("a")
            assert len(data) in sizes
            assert len(set(data)) == 1
            time.sleep(0.002)
        end.set()
        for writer in writers:
            writer.result()


def test_listing_bears_objects_that_come_and_go(store: ObjectStore) -> None:
    """While others put and delete, a listing gives what stays, and does not fail over what goes."""
    for number in range(20):
        store.put(f"stay/{number}", b"x")
    end = threading.Event()

    def churn(name: str) -> None:
        while not end.is_set():
            store.put(f"stay/{name}", b"x")
            store.delete(f"stay/{name}")

    with ThreadPoolExecutor(3) as threads:
        churning = [threads.submit(churn, name) for name in ("a", "b", "c")]
        try:
            for _ in range(100):
                assert {f"stay/{number}" for number in range(20)} <= set(store.keys("stay/"))
        finally:
            end.set()
        for one in churning:
            one.result()


@pytest.fixture
def away(tmp_path: Path) -> FilesystemStore:
    """A store whose folder is a file now, which not even root can write into."""
    store = FilesystemStore(tmp_path / "store")
    store.folder.rmdir()
    store.folder.touch()
    return store


def test_a_folder_that_cannot_be_written_is_unavailable(away: FilesystemStore, tmp_path: Path) -> None:
    """A store that cannot write raises StoreUnavailable, at once where it cannot even be opened."""
    with pytest.raises(StoreUnavailable):
        away.put("a/b", b"x")
    with pytest.raises(StoreUnavailable):
        open_store(StoreSettings(store=str(tmp_path / "store" / "below")))


def test_a_failed_put_leaves_no_file(tmp_path: Path) -> None:
    """Where an object cannot be put in place, nothing of it stays behind, and nothing is listed."""
    store = FilesystemStore(tmp_path / "store")
    (store.folder / "a").mkdir()
    with pytest.raises(StoreUnavailable):
        store.put("a", b"x")
    assert [path.name for path in store.folder.rglob("*")] == ["a"]
    assert list(store.keys("")) == []


def test_a_folder_may_be_a_url(tmp_path: Path) -> None:
    """A folder and its file URL name the same store; a scheme that is not known says what may be set."""
    open_store(StoreSettings(store=str(tmp_path / "store"))).put("a", b"x")
    assert open_store(StoreSettings(store=f"file://{tmp_path}/store")).get("a") == b"x"
    with pytest.raises(BadSettings, match="HANDFUL_STORE"):
        StoreSettings(store="ftp://somewhere")
