"""What a store in a bucket promises beyond what all stores do: a real server that is wrong, away, full or damaged."""

import hashlib
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.shared.identifiers import new_id
from services.shared.objects import (
    ObjectCorrupt,
    ObjectMissing,
    ObjectStore,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    open_store,
)
from services.shared.objects.retrying import RetryingStore
from tests.minio_server import ADMIN, BUCKET, READER, WRITER, MinioServer

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024
FROZEN_SECONDS = 40.0

# What is wrong, the answer of the server, and the variable that mends it.
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "key": ({"s3_access_key": "nobody"}, "InvalidAccessKeyId", "HANDFUL_S3_ACCESS_KEY"),
    "secret": ({"s3_secret_key": "not it"}, "SignatureDoesNotMatch", "HANDFUL_S3_SECRET_KEY"),
    "bucket": ({"store": "s3://elsewhere", "s3_access_key": ADMIN[0], "s3_secret_key": ADMIN[1]}, "NoSuch", "STORE"),
    "another's bucket": ({"store": "s3://elsewhere"}, "AccessDenied", "policy"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("keys", [WRITER, READER], ids=["writer", "reader"])
def test_what_someone_must_mend_is_told_at_once(minio: MinioServer, keys: tuple[str, str], wrong: str) -> None:
    """Wrong keys or no bucket: one line with what to mend, without trying again."""
    fields, answer, variable = WRONG[wrong]
    began = time.monotonic()
    with pytest.raises(StoreRefused) as refused:
        open_store(replace(minio.settings(keys, seconds=60.0), **fields))
    assert time.monotonic() - began < 5.0
    assert "\n" not in str(refused.value)
    assert answer in str(refused.value)
    assert variable in str(refused.value)
    assert WRITER[1] not in str(refused.value)


@pytest.mark.parametrize("variable", ["HANDFUL_S3_SECRET_KEY", "HANDFUL_S3_ENDPOINT"])
def test_a_service_without_its_bucket_does_not_start(minio: MinioServer, variable: str, tmp_path: Path) -> None:
    """A service that its store refuses, or that cannot find it, ends with status 2 and one line."""
    environment = {**minio.environment(), "HANDFUL_HOME": str(tmp_path), "HANDFUL_STORE_SECONDS": "1"}
    environment |= {
        "HANDFUL_DATASET_ADDRESS": "127.0.0.1:0",
        "HANDFUL_LOG_LEVEL": "error",
        variable: "http://127.0.0.1:1",
    }
    service = [sys.executable, "-m", "services.dataset"]
    ended = subprocess.run(service, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60)
    (line,) = ended.stderr.decode().splitlines()
    assert (ended.returncode, line.startswith("dataset: ")) == (2, True)
    assert variable in line


def test_a_server_that_starts_later_is_waited_for(tmp_path: Path) -> None:
    """Services start in any order: one that is there before its store waits for it."""
    server = MinioServer(tmp_path / "minio")
    with server:
        server.provision()
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(open_store, server.settings(seconds=60.0))
        time.sleep(1.5)
        assert not opened.done()
        with server:
            opened.result().put("a", b"x")


def test_the_reader_reads_and_nothing_else(minio: MinioServer) -> None:
    """The identity of inference reads what is there and told what is not; it can neither write nor delete."""
    prefix = new_id()
    writer, reader = (open_store(minio.settings(keys, prefix)) for keys in (WRITER, READER))
    writer.put("projects/default/aliases.json", b"one")
    found = reader.get_if_changed("projects/default/aliases.json", None)
    assert found is not None
    assert reader.get_if_changed("projects/default/aliases.json", found[1]) is None
    assert reader.get("projects/default/aliases.json", hashlib.sha256(b"one").hexdigest()) == b"one"
    assert list(reader.keys("projects/")) == ["projects/default/aliases.json"]
    for read in (reader.get, lambda key: reader.get_if_changed(key, None)):
        with pytest.raises(ObjectMissing):
            read("projects/other/aliases.json")
    for key in ("projects/default/aliases.json", "projects/default/new"):
        for change in (
            lambda key: reader.put(key, b"two"),
            lambda key: reader.put(key, bytes(33 * MEBIBYTE)),
            reader.delete,
        ):
            with pytest.raises(StoreRefused, match="AccessDenied"):
                change(key)
    assert [writer.get(key) for key in writer.keys("")] == [b"one"]


def test_identities_may_be_made_again(minio: MinioServer) -> None:
    """Making the bucket and the identities a second time changes nothing that is there."""
    store = open_store(minio.settings(prefix=new_id()))
    store.put("a", b"x")
    minio.provision()
    assert store.get("a") == b"x"


def test_a_large_object_goes_in_parts(minio: MinioServer) -> None:
    """70 MB are stored in three parts, come back as they were, and leave no part behind."""
    store = open_store(minio.settings(prefix=new_id()))
    data = hashlib.sha256(b"seed").digest() * (70 * MEBIBYTE // 32)
    store.put("large", data)
    assert store.get("large", hashlib.sha256(data).hexdigest()) == data
    found = store.get_if_changed("large", None)
    assert found is not None
    assert found[1].endswith("-3")
    assert minio.unfinished() == []


def test_a_full_disk_is_full_and_keeps_no_parts(tmp_path: Path) -> None:
    """What does not fit is refused as such, without trying again, and the parts that did fit are removed."""
    with MinioServer(tmp_path / "minio", megabytes=200) as server:
        server.provision()
        store = RetryingStore(open_store(server.settings()), 60.0)
        began = time.monotonic()
        with pytest.raises(StoreFull):
            store.put("large", bytes(200 * MEBIBYTE))
        assert time.monotonic() - began < 30.0
        assert server.unfinished() == []
        store.put("small", b"x")
        assert list(store.keys("")) == ["small"]


@pytest.mark.parametrize("num_bytes", [1000, 200_000, 5_000_000])
@pytest.mark.parametrize("position", [0.0, 0.999])
def test_a_byte_flipped_on_the_servers_disk_is_found(minio: MinioServer, num_bytes: int, position: float) -> None:
    """The server has lost the object, which is not the same as being away; other objects are given as before."""
    prefix = new_id()
    store = open_store(minio.settings(prefix=prefix))
    data = hashlib.sha256(b"seed").digest() * (num_bytes // 32)
    for key in ("good", "bad"):
        store.put(key, data)
    stored = max(minio.files(f"{prefix}/bad"), key=lambda path: path.stat().st_size)
    content = bytearray(stored.read_bytes())
    content[content.find(data[:512]) + int(position * len(data))] ^= 1
    stored.write_bytes(content)
    with pytest.raises(ObjectCorrupt):
        RetryingStore(store, 60.0).get("bad", hashlib.sha256(data).hexdigest())
    assert store.get("good", hashlib.sha256(data).hexdigest()) == data


def test_a_server_that_comes_back_is_used_again(own_minio: MinioServer) -> None:
    """Work goes on after the server was killed and started again; nothing that was put is lost."""
    store = RetryingStore(open_store(own_minio.settings()), 60.0)
    end = threading.Event()

    def work(name: str) -> int:
        number = 0
        while not end.is_set():
            number += 1
            store.put(f"{name}/{number}", name.encode() * number)
            assert store.get(f"{name}/{number}") == name.encode() * number
        return number

    with ThreadPoolExecutor(3) as threads:
        working = {name: threads.submit(work, name) for name in ("a", "b", "c")}
        time.sleep(0.5)
        own_minio.stop(signal.SIGKILL)
        time.sleep(1.5)
        own_minio.start()
        time.sleep(0.5)
        end.set()
        done = {name: one.result() for name, one in working.items()}
    for name, number in done.items():
        assert set(store.keys(f"{name}/")) == {f"{name}/{one}" for one in range(1, number + 1)}


def test_a_server_that_says_nothing_is_away(own_minio: MinioServer) -> None:
    """A call to a server that keeps the connection and is silent ends in time; once it speaks, it is used again."""
    store: ObjectStore = open_store(own_minio.settings())
    own_minio.freeze()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"s3://{BUCKET}"):
        store.get("a")
    assert time.monotonic() - began < FROZEN_SECONDS
    own_minio.thaw()
    with pytest.raises(ObjectMissing):
        RetryingStore(store, 60.0).get("a")


def test_a_store_may_go_to_another_process(minio: MinioServer) -> None:
    """Processes that build graphs get the store of the worker that starts them."""
    store = RetryingStore(open_store(minio.settings(prefix=new_id())), 1.0)
    pickle.loads(pickle.dumps(store)).put("a", b"x")  # noqa: S301 - it is ours
    assert store.get("a") == b"x"


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[MinioServer]:
    """A server over TLS whose certificate no authority of the system has signed."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=minio", "-days", "1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "private.key", "-out", "public.crt"]
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine")
    subprocess.run(made, cwd=folder, check=True, capture_output=True)
    with MinioServer(tmp_path / "minio", certificates=folder) as server:
        yield server


def test_a_certificate_is_checked(certified: MinioServer) -> None:
    """Over TLS the server must be one that the system's authorities know, or those in SSL_CERT_FILE."""
    program = (
        "from services.shared.objects import *; from services.shared.objects import s3; "
        "from services.shared.settings import read; settings = read(StoreSettings); s3.make_bucket(settings); "
        "store = open_store(settings); store.put('a', b'x' * 70_000_000); print(len(store.get('a')))"
    )
    environment = certified.environment(ADMIN)
    trusting = {**environment, "SSL_CERT_FILE": f"{certified.certificates}/public.crt"}
    done, refused = (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=one, capture_output=True, text=True, check=False)
        for one in (trusting, environment)
    )
    assert done.stdout.strip() == "70000000", done.stderr
    assert refused.returncode == 1
    assert "cannot be reached, or is no S3 server (SSLError)" in refused.stderr.splitlines()[-1]
