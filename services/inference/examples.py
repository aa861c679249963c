"""Examples of datasets, by what is in them. Who is asked about one reads it from the store, as workers do, so that what
was uploaded once need not be sent again. It knows neither datasets nor labels, which are the dataset service's.
"""

import asyncio
import re

from handful.bundle.manifest import blob_key
from handful.errors import InvalidArgument, NotFound
from services.shared.objects import ObjectMissing, ObjectStore

# At a time, of all calls: what is read holds memory before the queue can refuse it, and models and pointers are read by
# the threads that are left, of which the smallest machine has five.
MAX_READS = 4
_SHA256 = re.compile("[0-9a-f]{64}")


class Examples:
    """The stored files of all projects."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._reads = asyncio.Semaphore(MAX_READS)

    async def read(self, project: str, content_sha256: str) -> bytes:
        """The file of a project's example, hash-checked. InvalidArgument, NotFound."""
        if not _SHA256.fullmatch(content_sha256):
            told = "must be the SHA-256 of an example's stored bytes: 64 digits of lower-case hex"
            raise InvalidArgument.fields([("content_sha256", told)])
        key = blob_key(project, content_sha256)
        try:
            async with self._reads:
                return await asyncio.to_thread(self._store.get, key, content_sha256)
        except ObjectMissing:
            message = f"There is no example in projects/{project} whose content_sha256 is {content_sha256}."
            raise NotFound(message) from None
