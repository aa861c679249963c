"""Objects: bytes under a key, whole or not at all. What they mean is their owners' business.

Keys look like `projects/default/blobs/1f…`: parts of letters, digits, `.`, `_`, `-`, joined by `/`.
"""

from collections.abc import Iterable

from services.shared.objects.contract import ObjectStore
from services.shared.objects.errors import ObjectCorrupt, ObjectMissing, StoreFull, StoreRefused, StoreUnavailable
from services.shared.objects.filesystem import FilesystemStore
from services.shared.objects.settings import StoreSettings

__all__ = [
    "ObjectCorrupt",
    "ObjectMissing",
    "ObjectStore",
    "StoreFull",
    "StoreRefused",
    "StoreSettings",
    "StoreUnavailable",
    "get_first",
    "open_store",
]


def open_store(settings: StoreSettings, *, at_once: bool = True) -> ObjectStore:
    """The store that the settings name, found to be there. StoreUnavailable where it is not. A folder is created, at
    once or with the first object.
    """
    if settings.is_s3:
        from services.shared.objects import s3  # half a second, which a folder does not cost

        return s3.open_bucket(settings)
    return FilesystemStore(settings.folder, at_once=at_once)


def get_first(store: ObjectStore, keys: Iterable[str], sha256: str) -> bytes:
    """The bytes under the first of several keys that is there. ObjectMissing where none is, or ObjectCorrupt."""
    for key in keys:
        try:
            return store.get(key, sha256)
        except ObjectMissing:
            continue
    raise ObjectMissing(sha256)
