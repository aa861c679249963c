"""One upload stream: items in, verdicts out, in order. A bad item costs a verdict; only a caller that breaks the order
of steps ends the stream. It decodes several items at once and reads no further than that.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from handful import names
from handful.bundle.images import MAX_BYTES, BadImage
from handful.bundle.manifest import blob_key
from handful.errors import InvalidArgument, ResourceExhausted
from handful.v1 import bundle_pb2, dataset_pb2
from services.dataset.catalog import Catalog, CatalogWriter
from services.dataset.ingest import Decoders
from services.dataset.messages import example_message
from services.dataset.records import DatasetKey, ExampleRecord, Stored
from services.shared.identifiers import new_id, now_us
from services.shared.objects import ObjectStore
from services.shared.streams import in_time

# Items being decoded or waiting for their turn to be answered, per stream.
AHEAD = 4
# Each holds some items of up to 32 MiB in memory.
MAX_STREAMS = 16
MAX_CHUNK = 1024 * 1024
MAX_TEXT = 256

Answer = dataset_pb2.UploadExamplesResponse
_HINTS = {
    "CORRUPT_MEDIA": "Open the file to see whether it is whole, then export it again as JPEG or PNG, or WAV or FLAC.",
    "UNSUPPORTED_FORMAT": "Pictures: convert it to JPEG, PNG or WebP. Sounds: to WAV, FLAC, OGG or MP3.",
    "IMAGE_TOO_LARGE": "Scale it down; 1,000 pixels on the long side are plenty.",
    "FILE_TOO_LARGE": "Save it smaller: 1,000 pixels on the long side are plenty, and FLAC halves a sound.",
    "CHECKSUM_MISMATCH": "The bytes changed on the way; send the file again.",
    "INVALID_LABEL": "Give it a class name of 1 to 128 characters.",
    "SOUND_TOO_LONG": "Cut it into shorter recordings, or keep what shows the class.",
    "SOUND_TOO_SHORT": "Record it again, with a little more before and after.",
    "SILENT": "Listen to it: the microphone may have been off. Record it again.",
    "CLIPPED": "Record it again farther away, or with less gain.",
    "OTHER_GROUP": "Leave it out, or push everything to a new dataset with the groups that are right.",
    "UNSUPPORTED_SOUND": "Convert it to one or two channels of 16,000 to 48,000 samples per second.",
}


@dataclass
class Item:
    """An item on its way: what was announced, and the bytes so far."""

    begin: dataset_pb2.UploadExamplesRequest.Begin
    data: bytearray = field(default_factory=bytearray)
    num_bytes: int = 0

    def add(self, chunk: bytes) -> None:
        if len(chunk) > MAX_CHUNK:
            raise _protocol(f"a chunk has more than {MAX_CHUNK} bytes")
        self.num_bytes += len(chunk)
        if self.num_bytes <= MAX_BYTES:
            self.data += chunk
        else:
            self.data.clear()


class Uploads:
    """Takes examples into datasets."""

    def __init__(self, catalog: Catalog, store: ObjectStore, decoders: Decoders) -> None:
        self._catalog = catalog
        self._store = store
        self._decoders = decoders
        self._streams = 0

    async def run(self, requests: AsyncIterator[dataset_pb2.UploadExamplesRequest]) -> AsyncIterator[Answer]:
        """The verdicts of a stream, in the order of its items."""
        if self._streams >= MAX_STREAMS:
            raise ResourceExhausted(f"{MAX_STREAMS} uploads are under way. Try again later.", reason="TOO_MANY_STREAMS")
        self._streams += 1
        try:
            async with aclosing(self._verdicts(requests)) as verdicts:
                async for verdict in verdicts:
                    yield verdict
        finally:
            self._streams -= 1

    async def _verdicts(
        self, requests: AsyncIterator[dataset_pb2.UploadExamplesRequest]
    ) -> AsyncGenerator[Answer, None]:
        incoming = in_time(requests, "Send what was not answered again.")
        key, modality = await self._open(incoming)
        waiting: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue(AHEAD)
        unanswered: set[asyncio.Task[Answer]] = set()
        reader = asyncio.create_task(self._read(partial(self._take, key, modality), incoming, waiting, unanswered))
        try:
            while (task := await waiting.get()) is not None:
                # Shielded: cancelling an item would cost the decoding process that is at it.
                yield await asyncio.shield(task)
                unanswered.discard(task)
            await reader
        finally:
            # What was committed is finished, answered or not; nothing of a stream outlives it.
            reader.cancel()
            await asyncio.gather(reader, *unanswered, return_exceptions=True)

    async def _open(
        self, requests: AsyncIterator[dataset_pb2.UploadExamplesRequest]
    ) -> "tuple[DatasetKey, bundle_pb2.Modality.ValueType]":
        first = await anext(requests, None)
        if first is None or first.WhichOneof("step") != "open":
            raise _protocol("the first message must be open")
        key = DatasetKey(**names.match(names.DATASET, first.open.dataset, "open.dataset"))
        async with self._catalog.reading() as catalog:
            return key, (await catalog.dataset(key)).modality

    async def _read(
        self,
        take: Callable[[Item], Coroutine[Any, Any, Answer]],
        requests: AsyncIterator[dataset_pb2.UploadExamplesRequest],
        waiting: "asyncio.Queue[asyncio.Task[Answer] | None]",
        unanswered: "set[asyncio.Task[Answer]]",
    ) -> None:
        try:
            async for item in _items(requests):
                task = asyncio.create_task(take(item))
                unanswered.add(task)
                await waiting.put(task)
        except Exception:
            await waiting.put(None)
            raise
        await waiting.put(None)

    async def _take(self, key: DatasetKey, modality: "bundle_pb2.Modality.ValueType", item: Item) -> Answer:
        """Stores the item, or says why not."""
        answer = Answer(client_ref=item.begin.client_ref)
        try:
            records, known = await self._store_item(key, modality, item)
            messages = [example_message(key, record) for record in records]
            answer.stored.example.CopyFrom(messages[0])
            answer.stored.already_stored = known
            answer.stored.pieces.extend(messages if len(messages) > 1 else ())
        except BadImage as bad:
            answer.rejected.reason = Answer.Reason.Value(f"REASON_{bad.reason}")
            answer.rejected.message = bad.message
            answer.rejected.hint = _HINTS[bad.reason]
        return answer

    async def _store_item(
        self, key: DatasetKey, modality: "bundle_pb2.Modality.ValueType", item: Item
    ) -> tuple[list[ExampleRecord], bool]:
        upload_sha256 = await asyncio.to_thread(_check_item, item)
        async with self._catalog.reading() as catalog:
            known = await catalog.examples_by_upload(key, item.begin.label, upload_sha256)
        if known and _is_in(item.begin.group, known) and not _unlike(item.begin.split, known):
            return known, True
        if known:
            async with self._catalog.writing() as catalog:
                return await _told(catalog, key, known, item.begin), True
        kept = await self._decoders.normalize(bytes(item.data), modality)
        # The blobs first: a row never names bytes that are not there.
        for one in kept:
            await asyncio.to_thread(self._store.put, blob_key(key.project, one.sha256), one.data)
        group = item.begin.group or (upload_sha256 if len(kept) > 1 else "")
        records = [_record(item, upload_sha256, group, one) for one in kept]
        async with self._catalog.writing() as catalog:
            stored = await _told(catalog, key, await catalog.add_examples(key, records), item.begin)
        return stored, all(one.example != record.example for one, record in zip(stored, records, strict=True))


def _is_in(group: str, found: Sequence[ExampleRecord]) -> bool:
    """Whether the examples are in the group already; no group asks for none."""
    return not group or all(one.group == group for one in found)


def _unlike(split: "bundle_pb2.Split.ValueType", found: Sequence[ExampleRecord]) -> list[ExampleRecord]:
    """Those of the examples that were never uploaded for that split; none asks for nothing."""
    return [one for one in found if split and split not in one.uploaded_for]


async def _told(
    catalog: CatalogWriter,
    key: DatasetKey,
    found: list[ExampleRecord],
    begin: dataset_pb2.UploadExamplesRequest.Begin,
) -> list[ExampleRecord]:
    """The examples as they are after the caller said again what they belong to and what they are for."""
    joined = await _join(catalog, key, found, begin.group)
    unlike = _unlike(begin.split, joined)
    if unlike:
        await catalog.note_split(key, unlike, begin.split)
    return joined


async def _join(catalog: CatalogWriter, key: DatasetKey, found: list[ExampleRecord], group: str) -> list[ExampleRecord]:
    """The examples in the group; BadImage where one was given another."""
    if _is_in(group, found):
        return found
    joined = await catalog.join(key, found, group)
    other = next((one.group for one in joined if one.group != group), None)
    if other is not None:
        raise BadImage("OTHER_GROUP", f"It is in the dataset already, under this label and in the group {other!r}.")
    return joined


def _record(item: Item, upload_sha256: str, group: str, kept: Stored) -> ExampleRecord:
    return ExampleRecord(
        example=new_id(),
        label=item.begin.label,
        split=item.begin.split,
        filename=_bare_name(item.begin.filename),
        upload_sha256=upload_sha256,
        content_sha256=kept.sha256,
        media_type=kept.media_type,
        width=kept.width,
        height=kept.height,
        create_time_us=now_us(),
        sample_rate=kept.sample_rate,
        duration_us=kept.duration_us,
        group=group,
    )


async def _items(requests: AsyncIterator[dataset_pb2.UploadExamplesRequest]) -> AsyncIterator[Item]:
    item: Item | None = None
    async for request in requests:
        step = request.WhichOneof("step")
        if step == "begin" and item is None:
            item = Item(_checked(request.begin))
        elif step == "chunk" and item is not None:
            item.add(request.chunk.data)
        elif step == "commit" and item is not None:
            yield item
            item = None
        else:
            raise _protocol(
                f"{step or 'an empty message'} is out of order; it is begin, chunks, commit, for every item"
            )
    if item is not None:
        raise _protocol("the stream ended within an item")


def _checked(begin: dataset_pb2.UploadExamplesRequest.Begin) -> dataset_pb2.UploadExamplesRequest.Begin:
    if max(len(begin.client_ref), len(begin.filename), len(begin.group)) > MAX_TEXT:
        raise _protocol(f"client_ref, filename and group have at most {MAX_TEXT} characters")
    if begin.split not in bundle_pb2.Split.values():
        raise _protocol(f"there is no split {begin.split}")
    return begin


def _check_item(item: Item) -> str:
    """The SHA-256 of the bytes; BadImage where the item cannot be taken whatever its pixels are."""
    if not names.is_label(item.begin.label):
        raise BadImage("INVALID_LABEL", "The label is empty, too long, or has control characters or spaces around it.")
    if item.num_bytes > MAX_BYTES:
        raise BadImage("FILE_TOO_LARGE", f"The file has {item.num_bytes} bytes; at most {MAX_BYTES} are taken.")
    digest = hashlib.sha256(item.data).hexdigest()
    if item.begin.upload_sha256 and item.begin.upload_sha256 != digest:
        raise BadImage("CHECKSUM_MISMATCH", "The bytes are not the ones that upload_sha256 announced.")
    return digest


def _bare_name(filename: str) -> str:
    bare = PureWindowsPath(PurePosixPath(filename).name).name
    return "".join(letter for letter in bare if letter.isprintable())


def _protocol(problem: str) -> InvalidArgument:
    return InvalidArgument(f"UploadExamples: {problem}.", reason="PROTOCOL")
