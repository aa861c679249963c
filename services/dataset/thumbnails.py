"""Small pictures of stored examples, for people to look at. It knows no SQL."""

import asyncio
import re
from collections.abc import Sequence

import structlog

from handful.bundle.images import BadImage
from handful.bundle.manifest import blob_key
from handful.errors import InvalidArgument
from handful.v1 import dataset_pb2
from services.dataset.ingest import Decoders
from services.dataset.records import ExampleRecord
from services.shared.objects import ObjectCorrupt, ObjectMissing, ObjectStore

log = structlog.get_logger()

MAX_PICTURES = 100
SIDES = range(16, 257)
DEFAULT_SIDE = 128
# Pictures of up to 32 MiB that are in memory at once, for one request.
AT_ONCE = 4
# An answer ends when it has so many; one message may have 4 MiB.
ROOM_BYTES = 2 * 1024 * 1024
_SHA256 = re.compile("[0-9a-f]{64}")


def check(request: dataset_pb2.GetThumbnailsRequest) -> int:
    """The side that is wanted; InvalidArgument naming every field that is not right."""
    problems, num, side = [], len(request.content_sha256s), request.side or DEFAULT_SIDE
    if not 1 <= num <= MAX_PICTURES:
        problems.append(("content_sha256s", f"must be 1 to {MAX_PICTURES}, not {num}"))
    problems += [
        (f"content_sha256s[{place}]", "must be 64 lower-case hexadecimal digits")
        for place, one in enumerate(request.content_sha256s)
        if not _SHA256.fullmatch(one)
    ]
    if side not in SIDES:
        problems.append(("side", f"must be between {SIDES[0]} and {SIDES[-1]}, not {side}"))
    if problems:
        raise InvalidArgument.fields(problems)
    return side


async def make(
    store: ObjectStore, decoders: Decoders, project: str, examples: Sequence[ExampleRecord], side: int
) -> dataset_pb2.GetThumbnailsResponse:
    """The thumbnails of those examples that are pictures, as many as one answer has room for. One that cannot be made
    costs no other.
    """

    async def one(example: ExampleRecord) -> dataset_pb2.Thumbnail:
        made = dataset_pb2.Thumbnail(content_sha256=example.content_sha256, filename=example.filename)
        key = blob_key(project, example.content_sha256)
        try:
            data = await asyncio.to_thread(store.get, key, example.content_sha256)
            made.jpeg = await decoders.thumbnail(data, side)
        except (ObjectMissing, ObjectCorrupt) as problem:
            log.warning("a stored picture is damaged", key=key, problem=type(problem).__name__)
            made.problem = "The stored picture is damaged or gone."
        except BadImage as bad:
            made.problem = bad.message
        return made

    pictures = [example for example in examples if example.media_type.startswith("image/")]
    answer, num_bytes = dataset_pb2.GetThumbnailsResponse(), 0
    while pictures and num_bytes < ROOM_BYTES:
        made = await asyncio.gather(*map(one, pictures[:AT_ONCE]))
        answer.thumbnails.extend(made)
        num_bytes += sum(len(thumbnail.jpeg) for thumbnail in made)
        pictures = pictures[AT_ONCE:]
    answer.unanswered_content_sha256s.extend(example.content_sha256 for example in pictures)
    return answer
