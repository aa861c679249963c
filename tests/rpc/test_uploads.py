"""Uploads over the wire: a verdict for every item, hostile ones included, and a server that stays well."""

import asyncio
import gc
import hashlib
import io
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from handful import errors
from handful.bundle.images import BadImage
from handful.bundle.manifest import blob_key
from handful.v1 import bundle_pb2, dataset_pb2
from handful.v1.bundle_pb2 import SPLIT_UNSPECIFIED
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from handful.v1.dataset_pb2 import UploadExamplesResponse as Verdict
from services.dataset.ingest import Decoders
from services.dataset.records import DatasetKey, ExampleRecord
from services.dataset.uploads import MAX_STREAMS
from services.shared.identifiers import new_id
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.playing_worker import refusal
from tests.servers import DatasetService
from tests.unit.test_images import CANARY, HOSTILE, ORIENTATION, encoded, exif, noise, png

Item = tuple[Step.Begin, bytes]
COMMIT = Step(commit=Step.Commit())


async def create(service: DatasetService, dataset: str = "flowers", parent: str = "projects/default") -> str:
    """The name of a new dataset."""
    request = dataset_pb2.CreateDatasetRequest(parent=parent, dataset_id=dataset)
    return (await service.stub.CreateDataset(request)).dataset.name


def steps(dataset: str, items: Iterable[Item]) -> Iterator[Step]:
    """A whole upload."""
    yield Step(open=Step.Open(dataset=dataset))
    for begin, data in items:
        yield Step(begin=begin)
        for start in range(0, len(data), MEBIBYTE):
            yield Step(chunk=Step.Chunk(data=data[start : start + MEBIBYTE]))
        yield COMMIT


async def upload(service: DatasetService, dataset: str, *items: Item) -> list[Verdict]:
    """The verdicts on an upload."""
    return [verdict async for verdict in service.stub.UploadExamples(steps(dataset, items))]


async def assert_well(service: DatasetService, dataset: str) -> None:
    """A good picture is still taken."""
    (verdict,) = await upload(service, dataset, (Step.Begin(label="good"), encoded(noise(seed=99), "JPEG")))
    assert verdict.HasField("stored")


async def test_hostile_files_get_verdicts_and_the_stream_goes_on(
    dataset_service: DatasetService, store: FilesystemStore, picture: Callable[..., bytes]
) -> None:
    """Between good files, every hostile one is refused with its reason and a hint, in order, and leaves nothing."""
    dataset = await create(dataset_service)
    items: list[Item] = []
    for number, (case, (make, _)) in enumerate(HOSTILE.items()):
        items.append((Step.Begin(client_ref=f"bad {case}", label="x", filename="photo.png"), make()))
        items.append((Step.Begin(client_ref=f"good {case}", label="x"), picture(number)))
    verdicts = await upload(dataset_service, dataset, *items)
    assert [verdict.client_ref for verdict in verdicts] == [begin.client_ref for begin, _ in items]
    assert all(verdict.HasField("stored") for verdict in verdicts[1::2])
    refused = {case: verdict.rejected for case, verdict in zip(HOSTILE, verdicts[::2], strict=True)}
    assert all(one.message and one.hint for one in refused.values())
    given = {case: Verdict.Reason.Name(one.reason).removeprefix("REASON_") for case, one in refused.items()}
    assert given == {case: reason for case, (_, reason) in HOSTILE.items()}
    assert len(list(store.keys("projects/"))) == len(HOSTILE)
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == len(HOSTILE)


def _jpeg() -> bytes:
    tags = Image.Exif()
    tags[0x010E], tags[ORIENTATION] = CANARY, 6
    tags.get_ifd(0x8825)[0x1B] = CANARY.encode()  # where it was taken, in words
    return encoded(noise(), "JPEG", exif=tags.tobytes(), comment=CANARY, xmp=CANARY.encode()) + CANARY.encode()


def _png() -> bytes:
    info = PngInfo()
    info.add_text("Author", CANARY)
    info.add_itxt("XML:com.adobe.xmp", CANARY)
    return encoded(noise(), "PNG", pnginfo=info, exif=exif(t10e=CANARY, t112=6))


def _webp(**options: Any) -> bytes:
    return encoded(noise(), "WEBP", exif=exif(t10e=CANARY, t112=6), xmp=CANARY.encode(), **options)


SPEAKING = {
    "JPEG": (_jpeg, "image/jpeg"),
    "PNG": (_png, "image/png"),
    "lossy WebP": (_webp, "image/jpeg"),
    "lossless WebP": (lambda: _webp(lossless=True), "image/png"),
}


@pytest.mark.parametrize("case", SPEAKING)
async def test_what_is_stored_is_upright_and_knows_nothing_but_pixels(
    dataset_service: DatasetService, store: FilesystemStore, case: str
) -> None:
    """Stored bytes are upright, without a trace of metadata, lossless where the source was, and what the hash says."""
    make, media_type = SPEAKING[case]
    data = make()
    assert CANARY.encode() in data
    (verdict,) = await upload(dataset_service, await create(dataset_service), (Step.Begin(label="x"), data))
    example = verdict.stored.example
    blob = store.get(blob_key("default", example.content_sha256), example.content_sha256)
    assert CANARY.encode() not in blob
    kept = Image.open(io.BytesIO(blob))
    assert kept.size == (example.width, example.height) == (48, 64)
    assert (kept.mode, kept.get_format_mimetype(), example.media_type) == ("RGB", media_type, media_type)
    assert not kept.getexif()
    assert set(kept.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert example.upload_sha256 == hashlib.sha256(data).hexdigest()


async def test_the_largest_picture_allowed_is_taken(decoders: Decoders) -> None:
    """49 megapixels with transparency fit into the limits of a decoding process."""
    (picture,) = await decoders.normalize(png((7000, 7000), (b"\0" + bytes(14_000)) * 7000, colour=4))
    assert (picture.width, picture.height) == (7000, 7000)


_BEGIN = Step(begin=Step.Begin(client_ref="1", label="x"))
_OPEN = Step(open=Step.Open(dataset="projects/default/datasets/flowers"))
_BYTE = Step(chunk=Step.Chunk(data=b"x"))
BROKEN = {
    "nothing": [],
    "begin before open": [_BEGIN],
    "open twice": [_OPEN, _OPEN],
    "chunk outside of an item": [_OPEN, _BYTE],
    "commit outside of an item": [_OPEN, COMMIT],
    "begin twice": [_OPEN, _BEGIN, _BEGIN],
    "open within an item": [_OPEN, _BEGIN, _OPEN],
    "end within an item": [_OPEN, _BEGIN, _BYTE],
    "empty message": [_OPEN, Step()],
    "chunk above 1 MiB": [_OPEN, _BEGIN, Step(chunk=Step.Chunk(data=bytes(MEBIBYTE + 1)))],
    "client_ref too long": [_OPEN, Step(begin=Step.Begin(client_ref="x" * 257, label="x"))],
    "filename too long": [_OPEN, Step(begin=Step.Begin(filename="x" * 257, label="x"))],
    "split that is none": [_OPEN, Step(begin=Step.Begin(split=7, label="x")), COMMIT],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_caller_that_breaks_the_order_of_steps_is_told(dataset_service: DatasetService, case: str) -> None:
    """A stream out of order ends with INVALID_ARGUMENT PROTOCOL, stores nothing, and hurts nobody else."""
    dataset = await create(dataset_service)
    error = await refusal(dataset_service.stub.UploadExamples(iter(BROKEN[case])).read())
    assert (type(error), error.reason) == (errors.InvalidArgument, "PROTOCOL")
    assert not (await dataset_service.stub.ListExamples(dataset_pb2.ListExamplesRequest(parent=dataset))).examples
    await assert_well(dataset_service, dataset)


async def test_items_before_a_broken_step_get_their_verdicts(
    dataset_service: DatasetService, picture: Callable[..., bytes]
) -> None:
    """What was committed in order is stored and answered before the stream ends with PROTOCOL."""
    dataset = await create(dataset_service)
    items = [(Step.Begin(client_ref=str(seed), label="x"), picture(seed)) for seed in range(6)]
    call = dataset_service.stub.UploadExamples(iter([*steps(dataset, items), COMMIT]))
    verdicts: list[Any] = [await call.read() for _ in items]
    assert [(one.client_ref, one.HasField("stored")) for one in verdicts] == [(str(seed), True) for seed in range(6)]
    assert (await refusal(call.read())).reason == "PROTOCOL"


@pytest.mark.parametrize("name", ["projects/default/datasets/trees", "projects/other/datasets/flowers", "flowers", ""])
async def test_uploads_go_to_datasets_of_the_project(dataset_service: DatasetService, name: str) -> None:
    """An unknown dataset, or another project's, is NOT_FOUND; what is no name is INVALID_ARGUMENT."""
    await create(dataset_service)
    error = await refusal(dataset_service.stub.UploadExamples(steps(name, [])).read())
    expected = (errors.NotFound, []) if name.startswith("projects/") else (errors.InvalidArgument, ["open.dataset"])
    assert (type(error), [field for field, _ in error.violations]) == expected


LABELS = ["a", "x" * 128, "می‌خواهم", "👩‍🔬", "Löwe 🦁", "وردة", "a/b", "'; DROP TABLE examples; --", "=1+1"]
UNSHOWABLE = ["", " ", " a", "a\n", "x" * 129, "x" * 1_000_000, "a\0b", "\x1b[31m", "a\u202eb"]
FILENAMES = {"a.jpg": "a.jpg", "../../etc/b.jpg": "b.jpg", "C:\\me\\c.jpg": "c.jpg", "d\n\0.jpg": "d.jpg", "": ""}


async def test_labels_are_kept_or_refused_and_filenames_lose_their_folders(
    dataset_service: DatasetService, picture: Callable[..., bytes]
) -> None:
    """A label comes back verbatim or is INVALID_LABEL for its item alone; of a path the bare, printable name stays."""
    begins = [Step.Begin(label=label) for label in [*UNSHOWABLE, *LABELS]]
    begins += [Step.Begin(label=f"file {number}", filename=name) for number, name in enumerate(FILENAMES)]
    verdicts = await upload(dataset_service, await create(dataset_service), *((begin, picture()) for begin in begins))
    assert {one.rejected.reason for one in verdicts[: len(UNSHOWABLE)]} == {Verdict.REASON_INVALID_LABEL}
    kept = [one.stored.example for one in verdicts[len(UNSHOWABLE) :]]
    assert [one.label for one in kept[: len(LABELS)]] == LABELS
    assert [one.filename for one in kept[len(LABELS) :]] == list(FILENAMES.values())


async def test_announced_checksums_are_checked(
    dataset_service: DatasetService, store: FilesystemStore, picture: Callable[..., bytes]
) -> None:
    """Bytes other than announced are CHECKSUM_MISMATCH and nothing of them is stored; the right ones are taken."""
    dataset, data = await create(dataset_service), picture()
    begin = Step.Begin(label="x", upload_sha256=hashlib.sha256(data).hexdigest())
    (verdict,) = await upload(dataset_service, dataset, (begin, picture(1)))
    assert verdict.rejected.reason == Verdict.REASON_CHECKSUM_MISMATCH
    assert not list(store.keys(""))
    (verdict,) = await upload(dataset_service, dataset, (begin, data))
    assert verdict.HasField("stored")


async def test_equal_content_is_one_example_per_label(dataset_service: DatasetService) -> None:
    """The same pixels under the same label are one example, however they were packed; under another label, another."""
    dataset = await create(dataset_service)
    plain, packed = encoded(noise(), "PNG"), encoded(noise(), "PNG", compress_level=0)
    a, b = Step.Begin(label="a", filename="first.png"), Step.Begin(label="b")
    verdicts = await upload(dataset_service, dataset, (a, plain), (a, plain), (a, packed), (b, plain))
    *same, other = (verdict.stored for verdict in verdicts)
    assert [len({one.example.name for one in some}) for some in (same, [*same, other])] == [1, 2]
    assert sorted(one.already_stored for one in same) == [False, True, True]
    assert (other.example.content_sha256, other.already_stored) == (same[0].example.content_sha256, False)
    (again,) = await upload(dataset_service, dataset, (Step.Begin(label="a", split=bundle_pb2.SPLIT_VAL), packed))
    assert (again.stored.already_stored, again.stored.example) == (True, same[0].example)
    found = await dataset_service.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset))
    assert [(one.label, one.num_examples) for one in found.dataset.labels] == [("a", 1), ("b", 1)]


async def test_cancelled_uploads_leave_nothing_behind(
    dataset_service: DatasetService, picture: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Streams cancelled within an item, with many more committed, end; no task is left, and uploads go on."""
    dataset = await create(dataset_service)
    await assert_well(dataset_service, dataset)
    for number in range(6):
        call = dataset_service.stub.UploadExamples()
        items = [(Step.Begin(label="x"), picture(100 * number + seed)) for seed in range(20)]
        for step in [*steps(dataset, items), _BEGIN, _BYTE]:
            await call.write(step)
        await asyncio.sleep(0.03 * (number % 3))
        call.cancel()
    left = [task for task in asyncio.all_tasks() if "services/" in repr(task)]
    assert not left or not (await asyncio.wait(left, timeout=30))[1]
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    await assert_well(dataset_service, dataset)


async def test_streams_are_limited_and_given_back(dataset_service: DatasetService) -> None:
    """One stream too many is RESOURCE_EXHAUSTED; when the others are gone there is room again."""
    dataset = await create(dataset_service)
    calls = [dataset_service.stub.UploadExamples() for _ in range(MAX_STREAMS)]
    for call in calls:
        for step in (_OPEN, _BEGIN, COMMIT):
            await call.write(step)
        await call.read()
    error = await refusal(dataset_service.stub.UploadExamples(steps(dataset, [])).read())
    assert (type(error), error.reason) == (errors.ResourceExhausted, "TOO_MANY_STREAMS")
    for call in calls[::2]:
        await call.done_writing()
        assert await call.read() is aio.EOF
    for call in calls[1::2]:
        call.cancel()
    await assert_well(dataset_service, dataset)


async def test_a_store_that_is_away_is_unavailable(
    dataset_service: DatasetService, store: FilesystemStore, picture: Callable[..., bytes]
) -> None:
    """While the store cannot be written, uploads end with UNAVAILABLE; when it is back, they go on."""
    dataset = await create(dataset_service)
    away = store.folder.rename(store.folder.with_name("away"))
    store.folder.touch()
    call = dataset_service.stub.UploadExamples(steps(dataset, [(Step.Begin(label="x"), picture())]))
    assert isinstance(await refusal(call.read()), errors.Unavailable)
    store.folder.unlink()
    away.rename(store.folder)
    await assert_well(dataset_service, dataset)


async def test_a_decoding_process_that_dies_costs_one_picture(picture: Callable[..., bytes]) -> None:
    """When a decoding process is killed, its picture is refused and the next is decoded by another process."""
    before = set(multiprocessing.active_children())
    decoders = Decoders(1)
    try:
        await decoders.normalize(picture())
        (process,) = set(multiprocessing.active_children()) - before
        decoding = asyncio.ensure_future(decoders.normalize(png((7000, 7000), bytes(876 * 7000), depth=1, colour=0)))
        await asyncio.sleep(0.3)
        process.kill()
        with pytest.raises(BadImage):
            await decoding
        assert (await decoders.normalize(picture(1)))[0].width == 64
    finally:
        decoders.close()


async def test_a_decoding_process_has_no_threads_for_arithmetic(picture: Callable[..., bytes]) -> None:
    """Each would take from the address space that it is limited to."""
    before = set(multiprocessing.active_children())
    decoders = Decoders(1)
    try:
        await decoders.normalize(picture())
        (process,) = set(multiprocessing.active_children()) - before
        surroundings = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
        assert b"OPENBLAS_NUM_THREADS=1" in surroundings.split(b"\0")
    finally:
        decoders.close()


async def test_the_same_pieces_in_two_orders_wait_for_nobody_forever(dataset_service: DatasetService) -> None:
    """Uploads at once of recordings with the same pieces store each of them once, whatever order they come in."""
    dataset = await create(dataset_service)
    key = DatasetKey("default", dataset.rpartition("/")[2])
    contents = [f"{number:064x}" for number in range(12)]

    async def add(upload: int) -> list[str]:
        pieces = [
            ExampleRecord(new_id(), "x", SPLIT_UNSPECIFIED, "a.wav", f"{upload:064x}", content, "audio/flac", 0, 0, 1)
            for content in (contents if upload % 2 else reversed(contents))
        ]
        async with dataset_service.catalog.writing() as catalog:
            return [one.example for one in await catalog.add_examples(key, pieces)]

    added = await asyncio.gather(*(add(upload) for upload in range(16)))
    assert {tuple(sorted(ids)) for ids in added} == {tuple(sorted(added[0]))}
