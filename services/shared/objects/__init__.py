"""Objects: bytes under a key, whole or not at all. What they mean is their owners' business.

Keys look like `projects/default/blobs/1f…`: parts of letters, digits, `.`, `_`, `-`, joined by `/`.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from services.shared.objects.errors import ObjectCorrupt, ObjectMissing, StoreUnavailable
from services.shared.objects.filesystem import FilesystemStore
from services.shared.settings import CannotStart

__all__ = ["ObjectCorrupt", "ObjectMissing", "ObjectStore", "StoreUnavailable", "get_first", "open_store"]


class ObjectStore(Protocol):
    """Where artefacts live. Every method blocks and may be called from any thread; all raise StoreUnavailable."""

    def put(self, key: str, data: bytes) -> None:
        """Stores the bytes; durable and whole when it returns. An object of that key is replaced."""

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The bytes. ObjectMissing, or ObjectCorrupt where their SHA-256 (lower-case hex) is not the given one."""

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        """The bytes and their tag, or None where the tag is still the given one. ObjectMissing."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix, oldest object first."""

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where there is none."""


def open_store(url: str) -> ObjectStore:
    """The store that a setting names: a folder, or `file:///folder`."""
    if "://" in url and not url.startswith("file://"):
        raise CannotStart(f"HANDFUL_STORE={url}: must be a folder or file:///folder.")
    return FilesystemStore(url.removeprefix("file://"))


def get_first(store: ObjectStore, keys: Iterable[str], sha256: str) -> bytes:
    """The bytes under the first of several keys that is there. ObjectMissing where none is, or ObjectCorrupt."""
    for key in keys:
        try:
            return store.get(key, sha256)
        except ObjectMissing:
            continue
    raise ObjectMissing(sha256)
