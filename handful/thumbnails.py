"""Small pictures of examples, as many as are wanted: asked for again until all are here."""

from collections.abc import Iterable

from handful.calls import call
from handful.v1.dataset_pb2 import GetThumbnailsRequest, Thumbnail
from handful.v1.dataset_pb2_grpc import DatasetServiceStub

AT_ONCE = 100


def thumbnails(
    stub: DatasetServiceStub, dataset: str, content_sha256s: Iterable[str], side: int
) -> dict[str, Thumbnail]:
    """By content, of those that the dataset has."""
    found: dict[str, Thumbnail] = {}
    waiting = list(dict.fromkeys(content_sha256s))
    while waiting:
        request = GetThumbnailsRequest(parent=dataset, content_sha256s=waiting[:AT_ONCE], side=side)
        answer = call(stub.GetThumbnails, request)
        found |= {one.content_sha256: one for one in answer.thumbnails}
        waiting = [*answer.unanswered_content_sha256s, *waiting[AT_ONCE:]]
    return found
