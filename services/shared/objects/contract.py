"""What every object store does, whichever it is."""

from collections.abc import Iterator
from typing import Protocol


class ObjectStore(Protocol):
    """Where artefacts live. Every method blocks and may be called from any thread; all raise StoreUnavailable."""

    def put(self, key: str, data: bytes) -> None:
        """Stores the bytes; durable and whole when it returns. An object of that key is replaced."""

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The bytes. ObjectMissing, or ObjectCorrupt where their SHA-256 (lower-case hex) is not the given one."""

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        """The bytes and their tag, or None where the tag is still the given one. ObjectMissing."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix, oldest object first, as far as the store's clock tells them apart."""

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where there is none."""
