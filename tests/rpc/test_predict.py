"""Predictions over the wire: which model answers, what is refused and how, and what happens when much is asked."""

import asyncio
import io
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from grpc import StatusCode, aio
from PIL import Image

from handful.bundle import manifest
from handful.bundle.images import MAX_BYTES
from handful.bundle.neighbours import Neighbours
from handful.bundle.rows import CoarseRows, HalfRows, Rows
from handful.errors import HandfulError, from_rpc_error
from handful.v1 import inference_pb2_grpc
from handful.v1.bundle_pb2 import ModelManifest
from handful.v1.inference_pb2 import PredictRequest, PredictResponse
from services.inference.loading import Loader
from services.inference.pointers import MISSING_SECONDS, VersionRef
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import COLOURS, GatedLoader, greedy, mean_colour, point, publish
from tests.servers import reason, serving

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
Paint = Callable[[str], bytes]
FLOWERS = "projects/default/models/flowers"
FOLLOWED_SECONDS = 2.0
RED_AND_GREEN = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]


@pytest.fixture
def paint(picture: Callable[..., bytes]) -> Paint:
    return lambda colour: picture(1, COLOURS[colour])


async def predict(stub: Stub, model: str, image: bytes, top_k: int = 0) -> PredictResponse:
    return await stub.Predict(PredictRequest(model=model, image=image, top_k=top_k), timeout=20)


async def refusal(stub: Stub, model: str, image: bytes, top_k: int = 0) -> HandfulError:
    with pytest.raises(aio.AioRpcError) as caught:
        await predict(stub, model, image, top_k)
    return from_rpc_error(caught.value)


async def becomes(stub: Stub, model: str, image: bytes, version: int) -> None:
    """Returns once the version answers; fails where that takes longer than promised."""
    async with asyncio.timeout(FOLLOWED_SECONDS):
        while not (await predict(stub, model, image)).model_version.endswith(f"/versions/{version}"):
            pass


@pytest.mark.parametrize(
    ("suffix", "version", "answer"),
    [("", 2, "RED"), ("@production", 2, "RED"), ("@old", 1, "red"), ("/versions/1", 1, "red")],
)
async def test_the_version_that_is_named_answers(
    store: FilesystemStore, inference_stub: Stub, paint: Paint, suffix: str, version: int, answer: str
) -> None:
    """A model means its alias production, @alias what the alias points at, and a version itself."""
    versions = [publish(store), publish(store, ["RED", "GREEN", "BLUE"])]
    point(store, {"flowers": versions}, aliases={"production": 2, "old": 1})
    response = await predict(inference_stub, FLOWERS + suffix, paint("red"))
    assert response.model_version == f"{FLOWERS}/versions/{version}"
    assert response.predictions[0].label == answer
    assert sum(one.score for one in response.predictions) == pytest.approx(1)


@pytest.mark.parametrize("rows", [HalfRows(RED_AND_GREEN.astype(np.float16)), CoarseRows.of(RED_AND_GREEN)])
async def test_what_is_like_no_class_is_unknown(
    store: FilesystemStore, inference_stub: Stub, paint: Paint, rows: Rows
) -> None:
    """A model of red and green knows red, and says of blue that it is far, whichever release it is of; one that cannot
    tell says nothing.
    """
    known = Neighbours(rows, 2, 0.2)
    point(store, {"flowers": [publish(store, known=known)], "trees": [publish(store)]})
    red, blue = [await predict(inference_stub, FLOWERS, paint(colour)) for colour in ("red", "blue")]
    assert (red.unknown, red.max_distance, blue.unknown) == (False, 0.2, True)
    assert 0 <= red.distance <= 0.2 < blue.distance <= 1
    silent = await predict(inference_stub, "projects/default/models/trees", paint("blue"))
    assert (silent.unknown, silent.HasField("distance"), silent.HasField("max_distance")) == (False, False, False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("models/m99", [f"m{number:02}" for number in range(10)]),
        ("models/m00@beta", ["old", "production"]),
        ("models/m00/versions/7", ["Versions: 1"]),
    ],
)
async def test_what_is_not_there_is_not_found(
    store: FilesystemStore, inference_stub: Stub, paint: Paint, name: str, told: list[str]
) -> None:
    """NOT_FOUND says what there is instead: ten models at most, the aliases of the model, its versions."""
    digest = publish(store)
    point(store, {f"m{number:02}": [digest] for number in range(12)}, aliases={"production": 1, "old": 1})
    error = await refusal(inference_stub, f"projects/default/{name}", paint("red"))
    assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert all(one in error.message for one in told)
    assert "m10" not in error.message


async def test_the_first_model_of_a_project_is_seen_at_once(
    store: FilesystemStore, inference_stub: Stub, paint: Paint
) -> None:
    """A project without models says so, and answers as soon as it has one and was not asked for just before; another
    project's model is not found.
    """
    empty = await refusal(inference_stub, FLOWERS, paint("red"))
    assert (empty.code, "none yet" in empty.message) == (StatusCode.NOT_FOUND, True)
    point(store, {"flowers": [publish(store)]})
    await asyncio.sleep(1.5 * MISSING_SECONDS)
    assert (await predict(inference_stub, FLOWERS, paint("green"))).predictions[0].label == "green"
    other = await refusal(inference_stub, "projects/other/models/flowers", paint("red"))
    assert (other.code, "flowers@" in other.message) == (StatusCode.NOT_FOUND, False)


@pytest.mark.parametrize(
    "name",
    ["", "flowers", "projects/default", f"{FLOWERS}@", f"{FLOWERS}/versions/0", f"{FLOWERS}/versions/x", f"{FLOWERS}/",
     "projects/../models/flowers", "projects/default/models/Flowers", f"{FLOWERS}\n", f"{FLOWERS}@a@b"],
)  # fmt: skip
async def test_a_bad_name_is_an_invalid_argument(inference_stub: Stub, paint: Paint, name: str) -> None:
    """What is no name of a model, an alias or a version is refused by its form, whatever there is."""
    error = await refusal(inference_stub, name, paint("red"))
    assert error.code == StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in error.violations] == ["model"]


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _: b"", "CORRUPT_MEDIA"),
        (lambda good: good[:-300], "CORRUPT_MEDIA"),
        (lambda good: good[:20] + bytes(len(good)), "CORRUPT_MEDIA"),
        (lambda _: b"roses are red", "UNSUPPORTED_FORMAT"),
        (lambda _: encoded(Image.new("L", (8, 8)), "GIF"), "UNSUPPORTED_FORMAT"),
        (lambda _: encoded(Image.new("1", (8000, 8000)), "PNG"), "IMAGE_TOO_LARGE"),
        (lambda good: good + bytes(MAX_BYTES), "FILE_TOO_LARGE"),
    ],
    ids=["empty", "cut", "zeros", "text", "gif", "pixels", "bytes"],
)
async def test_what_is_no_picture_is_refused_with_its_reason(
    store: FilesystemStore, inference_stub: Stub, paint: Paint, make: Callable[[bytes], bytes], expected: str
) -> None:
    """A broken, foreign or huge file is an INVALID_ARGUMENT with its own reason, and the next picture is answered."""
    point(store, {"flowers": [publish(store)]})
    error = await refusal(inference_stub, FLOWERS, make(paint("red")))
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, expected)
    assert (await predict(inference_stub, FLOWERS, paint("blue"))).predictions[0].label == "blue"


@pytest.mark.parametrize(("top_k", "expected"), [(0, 5), (1, 1), (3, 3), (7, 7), (2**31 - 1, 7)])
async def test_as_many_answers_as_asked_for(
    store: FilesystemStore, inference_stub: Stub, paint: Paint, top_k: int, expected: int
) -> None:
    """Five answers unless another number is asked for, never more than there are classes, best first."""
    point(store, {"flowers": [publish(store, "abcdefg")]})
    scores = [one.score for one in (await predict(inference_stub, FLOWERS, paint("red"), top_k)).predictions]
    assert len(scores) == expected
    assert scores == sorted(scores, reverse=True)


async def test_a_negative_number_of_answers_is_refused(inference_stub: Stub, paint: Paint) -> None:
    """Fewer than no answers is an INVALID_ARGUMENT naming the field."""
    error = await refusal(inference_stub, FLOWERS, paint("red"), top_k=-1)
    assert (error.code, [field for field, _ in error.violations]) == (StatusCode.INVALID_ARGUMENT, ["top_k"])


async def test_a_moved_alias_is_followed(store: FilesystemStore, paint: Paint) -> None:
    """Two seconds after an alias moved, its new version answers; what is named by its number does not change."""
    versions = [publish(store), publish(store, ["RED", "GREEN", "BLUE"])]
    point(store, {"flowers": versions}, generation=1)
    async with serving(store, Loader(store, MEBIBYTE)) as stub:
        await becomes(stub, FLOWERS, paint("red"), 1)
        point(store, {"flowers": versions}, generation=2, aliases={"production": 2})
        await becomes(stub, FLOWERS, paint("red"), 2)
        await becomes(stub, f"{FLOWERS}/versions/1", paint("red"), 1)


@pytest.mark.parametrize("broken", [None, b"{", b"[]", b'{"generation":"x"}'], ids=repr)
async def test_an_older_or_broken_pointer_is_passed_over(
    store: FilesystemStore, paint: Paint, broken: bytes | None
) -> None:
    """A pointer of a lower generation, or one that cannot be read, changes nothing, and the others are followed on."""
    versions = [publish(store), publish(store, ["RED", "GREEN", "BLUE"])]
    digest = [publish(store, project="other")] * 2
    point(store, {"flowers": versions}, generation=5, aliases={"production": 2})
    point(store, {"trees": digest}, project="other")
    trees = "projects/other/models/trees"
    async with serving(store, Loader(store, MEBIBYTE)) as stub:
        await becomes(stub, FLOWERS, paint("red"), 2)
        await becomes(stub, trees, paint("red"), 1)
        point(store, {"flowers": versions}, generation=4, aliases={"production": 1})
        if broken is not None:
            store.put(manifest.pointer_key("default"), broken)
        point(store, {"trees": digest}, generation=2, project="other", aliases={"production": 2})
        await becomes(stub, trees, paint("red"), 2)
        await becomes(stub, FLOWERS, paint("red"), 2)


async def test_models_share_a_backbone(store: FilesystemStore) -> None:
    """Two models on one graph hold it once, even loaded at the same time; a model on another graph holds its own."""
    digests = [publish(store), publish(store, "ab"), publish(store, "xyz", mean_colour("other"))]
    loader = Loader(store, MEBIBYTE)
    refs = [VersionRef("default", f"{FLOWERS}/versions/{number}", digest) for number, digest in enumerate(digests, 1)]
    first, second, other = await asyncio.gather(*(loader.load(ref) for ref in refs))
    assert first.backbone is second.backbone
    assert first.backbone is not other.backbone
    assert first.head is (await loader.load(refs[0])).head


async def test_more_models_than_fit_are_all_answered(store: FilesystemStore, paint: Paint) -> None:
    """With memory for one model only, every model is loaded again when it is asked for, and answers."""
    models = {f"m{number}": [publish(store, [f"{name}{number}" for name in COLOURS])] for number in range(4)}
    point(store, models)
    async with serving(store, Loader(store, 1)) as stub:
        for model in [*models, *models]:
            response = await predict(stub, f"projects/default/models/{model}", paint("green"))
            assert response.predictions[0].label == f"green{model[1]}"


@pytest.mark.parametrize("damage", ["changed", "missing"])
@pytest.mark.parametrize("file", ["head.safetensors", "manifest.json", "graph"])
async def test_a_damaged_bundle_is_data_loss(
    store: FilesystemStore, inference_stub: Stub, paint: Paint, file: str, damage: str
) -> None:
    """A file that is not what its hash says, or is gone, is DATA_LOSS; other models answer on."""
    digest = publish(store)
    point(store, {"flowers": [digest], "trees": [publish(store, "abc", mean_colour("other"))]})
    key = manifest.bundle_key("default", digest, file)
    if file == "graph":
        described = store.get(manifest.bundle_key("default", digest, "manifest.json"))
        key = manifest.graph_keys("default", manifest.from_bytes(ModelManifest, described).backbone)[0]
    good = store.get(key)
    store.delete(key) if damage == "missing" else store.put(key, good[:-1] + b"\x07")
    error = await refusal(inference_stub, FLOWERS, paint("red"))
    assert (error.code, error.reason) == (StatusCode.DATA_LOSS, "BLOB_CORRUPT")
    assert (await predict(inference_stub, "projects/default/models/trees", paint("red"))).predictions[0].label == "a"


async def test_many_at_once_get_their_own_answers(store: FilesystemStore, inference_stub: Stub, paint: Paint) -> None:
    """Sixty calls at once, for two models, get what they get one by one, bit for bit."""
    point(store, {"flowers": [publish(store)], "trees": [publish(store, "abc")]})
    asked = [(f"projects/default/models/{model}", colour) for model in ("flowers", "trees") for colour in COLOURS]
    alone = [await predict(inference_stub, model, paint(colour)) for model, colour in asked]
    together = await asyncio.gather(*(predict(inference_stub, model, paint(colour)) for model, colour in asked * 10))
    assert together == alone * 10


async def test_too_many_at_once_are_refused(store: FilesystemStore, paint: Paint) -> None:
    """Where one waits and no more may, further calls are refused at once with a pushback; then all is well again."""
    point(store, {"flowers": [publish(store)]})
    loader = GatedLoader(store)
    async with serving(store, loader, queue=1) as stub:
        first = asyncio.create_task(predict(stub, FLOWERS, paint("red")))
        assert await asyncio.to_thread(loader.gate.entered.wait, 20)
        others = {asyncio.create_task(predict(stub, FLOWERS, paint("red"))) for _ in range(5)}
        refused: set[asyncio.Task[PredictResponse]] = set()
        while len(refused) < 4:
            done, others = await asyncio.wait(others, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            refused |= done
        for one in refused:
            error = one.exception()
            assert isinstance(error, aio.AioRpcError)
            assert (error.code(), reason(error)) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert int(dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"]) >= 1
        loader.gate.opened.set()
        answers = [*await asyncio.gather(first, *others), await predict(stub, FLOWERS, paint("red"))]
        assert [answer.predictions[0].label for answer in answers] == ["red"] * 3


async def test_a_call_whose_caller_went_away_is_not_computed(store: FilesystemStore, paint: Paint) -> None:
    """A call that was cancelled, or whose deadline passed, while it waited takes no time of the backbone."""
    point(store, {"flowers": [publish(store)]})
    loader = GatedLoader(store)
    async with serving(store, loader) as stub:
        first = asyncio.create_task(predict(stub, FLOWERS, paint("red")))
        assert await asyncio.to_thread(loader.gate.entered.wait, 20)
        request = PredictRequest(model=FLOWERS, image=paint("red"))
        cancelled, late = stub.Predict(request, timeout=20), stub.Predict(request, timeout=0.3)
        assert await late.code() == StatusCode.DEADLINE_EXCEEDED
        cancelled.cancel()
        await asyncio.sleep(0.3)
        loader.gate.opened.set()
        await first
        await predict(stub, FLOWERS, paint("red"))
        assert loader.gate.passes == [1, 1]


async def test_of_many_that_go_away_at_random_none_is_computed(store: FilesystemStore, paint: Paint) -> None:
    """Of two hundred calls that wait half are cancelled, or have their deadline pass, one after another: exactly the
    others are computed and answered.
    """
    point(store, {"flowers": [publish(store)]})
    loader, dice = GatedLoader(store), np.random.default_rng(0)
    async with serving(store, loader, queue=256) as stub:
        first = asyncio.create_task(predict(stub, FLOWERS, paint("red")))
        assert await asyncio.to_thread(loader.gate.entered.wait, 20)
        request = PredictRequest(model=FLOWERS, image=paint("red"))
        late = [stub.Predict(request, timeout=dice.uniform(1.5, 2.5)) for _ in range(50)]
        staying = [stub.Predict(request, timeout=60) for _ in range(100)]
        leaving = [stub.Predict(request, timeout=60) for _ in range(50)]
        for one in leaving:
            await asyncio.sleep(dice.uniform(0, 0.02))
            one.cancel()
        assert {await one.code() for one in late} == {StatusCode.DEADLINE_EXCEEDED}
        await asyncio.sleep(0.3)
        loader.gate.opened.set()
        assert {await one.code() for one in staying} == {StatusCode.OK}
        await first
        assert sum(loader.gate.passes) == 101


async def test_who_would_be_answered_too_late_is_refused_at_once(store: FilesystemStore, paint: Paint) -> None:
    """A call with less time left than those before it will take does not wait for its deadline, and is told that it
    need not come again.
    """
    point(store, {"flowers": [publish(store)]})
    loader = GatedLoader(store)
    async with serving(store, loader) as stub:
        request = PredictRequest(model=FLOWERS, image=paint("red"))
        waiting = [stub.Predict(request, timeout=60) for _ in range(50)]
        assert await asyncio.to_thread(loader.gate.entered.wait, 20)
        await asyncio.sleep(0.5)
        hasty = stub.Predict(request, timeout=0.5)
        assert await hasty.code() == StatusCode.RESOURCE_EXHAUSTED
        assert dict(await hasty.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "-1"
        loader.gate.opened.set()
        assert {await one.code() for one in waiting} == {StatusCode.OK}


async def test_memory_that_does_not_suffice_is_said(store: FilesystemStore, inference_stub: Stub, paint: Paint) -> None:
    """A picture that the network has not memory enough for, and a model that cannot be loaded for want of it, are
    RESOURCE_EXHAUSTED; the same process goes on answering.
    """
    models = {"flowers": [publish(store, graph=greedy())], "trees": [publish(store, graph=greedy(limit=-1))]}
    point(store, models)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "PNG")
    for model, image in ((FLOWERS, buffer.getvalue()), ("projects/default/models/trees", paint("red"))):
        error = await refusal(inference_stub, model, image)
        assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    assert (await predict(inference_stub, FLOWERS, paint("red"))).predictions[0].label == "red"
