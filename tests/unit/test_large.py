"""Large pictures beside small ones: decoded apart, with the same answers, a few at most."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from handful.bundle.manifest import from_bytes, graph_keys
from handful.bundle.predictor import Backbone, Predictor, to_pixels
from handful.errors import InvalidArgument, ResourceExhausted
from handful.v1.bundle_pb2 import ModelManifest
from services.inference.answering import Answer
from services.inference.batching import Batcher
from services.inference.large import MAX_WAITING, NICENESS
from services.inference.loading import Loader, Model
from services.inference.pointers import VersionRef
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import PREPROCESSING, mean_colour, publish

LARGE = (2000, 1400)
NAME = "projects/default/models/m/versions/1"


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    batcher = Batcher(threads=1, queue=64)
    yield batcher
    await batcher.close()


@pytest.fixture
async def model(store: FilesystemStore) -> Model:
    return await Loader(store, MEBIBYTE).load(VersionRef("default", NAME, publish(store)))


@pytest.fixture(scope="module")
def large(picture: Callable[..., bytes]) -> bytes:
    """A PNG, which is decoded whole."""
    return picture(1, (200, 40, 40), LARGE, "PNG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_a_large_picture_is_answered_as_any(
    batcher: Batcher, model: Model, picture: Callable[..., bytes], kind: str
) -> None:
    """Bit for bit as it would be without a way of its own."""
    data = picture(1, (30, 200, 30), LARGE, kind)
    alone = Predictor(model.head.labels, PREPROCESSING, Backbone(mean_colour()), model.head.head)
    expected = alone.probabilities(to_pixels(data, PREPROCESSING)[None])[0]
    np.testing.assert_array_equal((await batcher.answer(data, model)).probabilities, expected)


async def test_small_pictures_overtake_large_ones(
    batcher: Batcher, model: Model, large: bytes, picture: Callable[..., bytes]
) -> None:
    """Small ones that come last are answered while large ones wait; more large ones than a few are refused at once, and
    all that were taken are answered. The thread that decodes them yields to the others.
    """
    taken = [asyncio.create_task(batcher.answer(large, model)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await batcher.answer(large, model)
    assert caught.value.reason == "OVERLOADED"
    assert 1 <= int(caught.value.facts["pushback_ms"]) < 60_000
    await asyncio.gather(*(batcher.answer(picture(seed), model) for seed in range(10)))
    assert not all(one.done() for one in taken)
    assert sum(nice >= NICENESS for nice in levels()) >= 1
    assert len(await asyncio.gather(*taken)) == MAX_WAITING
    assert isinstance(await batcher.answer(large, model), Answer)


def levels() -> list[int]:
    """How much each of this process's threads yields, above what the process does."""
    files = list(Path("/proc/self/task").glob("*/stat"))
    found = [int(file.read_text().rpartition(")")[2].split()[16]) for file in files]
    own = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[16])
    return [NICENESS if nice == 19 else nice - own for nice in found]


async def test_a_large_picture_that_is_broken_fails_alone(batcher: Batcher, model: Model, large: bytes) -> None:
    """With its reason, and those beside it are answered."""
    broken, good = await asyncio.gather(
        batcher.answer(large[:-5000], model), batcher.answer(large, model), return_exceptions=True
    )
    assert isinstance(broken, InvalidArgument)
    assert broken.reason == "CORRUPT_MEDIA"
    assert isinstance(good, Answer)


async def test_large_pictures_whose_callers_went_away_make_room(batcher: Batcher, model: Model, large: bytes) -> None:
    """Those that wait still are never decoded, and others are taken in their place."""
    first = [asyncio.create_task(batcher.answer(large, model)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    for one in first[1:]:
        one.cancel()
    await asyncio.gather(*first[1:], return_exceptions=True)
    second = [asyncio.create_task(batcher.answer(large, model)) for _ in range(MAX_WAITING - 1)]
    answers = await asyncio.gather(first[0], *second)
    assert len(answers) == MAX_WAITING


@pytest.mark.parametrize("own", [False, True])
async def test_a_project_s_own_network_is_private(store: FilesystemStore, *, own: bool) -> None:
    """A graph that lies where all projects share it is not private; one below a project is."""
    digest = publish(store)
    described = from_bytes(ModelManifest, store.get(f"projects/default/bundles/{digest}/manifest.json"))
    shared_key, own_key = graph_keys("default", described.backbone)
    if own:
        store.put(own_key, store.get(shared_key))
        store.delete(shared_key)
    model = await Loader(store, MEBIBYTE).load(VersionRef("default", NAME, digest))
    assert model.backbone.private == own
