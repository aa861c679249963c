"""Zips that someone made up: what an import must refuse, each with the reason it must give."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

FOREIGN, CORRUPT = "UNSUPPORTED_ARCHIVE", "CORRUPT_ARCHIVE"
NAME, TWICE, MANY = "BAD_ENTRY_NAME", "DUPLICATE_ENTRY", "TOO_MANY_ENTRIES"

Make = Callable[[Mapping[str, bytes]], bytes]
# Where fields stand in the records: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
LOCAL, CENTRAL, END = 30, 46, 22


def zipped(
    files: Mapping[str, bytes], *, entry: Callable[[zipfile.ZipInfo], object] = lambda _: None, method: int = 0
) -> bytes:
    """As exports are written, unless an entry is changed before it is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = 3, (stat.S_IFREG | 0o644) << 16, method
            entry(info)
            archive.writestr(info, data)
    return buffer.getvalue()


def renamed(name: bytes) -> Make:
    """Its first entry has another name, in both places."""

    def make(files: Mapping[str, bytes]) -> bytes:
        placeholder = "x" * len(name)
        data = zipped({**files, placeholder: b"evil"})
        return data.replace(placeholder.encode(), name)

    return make


def twice(first: str, second: str) -> Make:
    """Two entries, which one file system or another takes for one."""

    def make(files: Mapping[str, bytes]) -> bytes:
        marks = {"a" * len(first): first, "b" * len(second): second}
        data = zipped({**files, **dict.fromkeys(marks, b"evil")})
        for mark, name in marks.items():
            data = data.replace(mark.encode(), name.encode())
        return data

    return make


def patched(offset: int, form: str, value: int, where: str = "central") -> Make:
    """A field of the first entry's record, or of the last record, has another value."""

    def make(files: Mapping[str, bytes]) -> bytes:
        data = bytearray(zipped(files))
        start = {"local": 0, "central": data.index(b"PK\x01\x02"), "end": len(data) - END}[where]
        struct.pack_into(f"<{form}", data, start + offset, value)
        return bytes(data)

    return make


def overlapping(_: Mapping[str, bytes]) -> bytes:
    """Many entries share the bytes of one."""
    name, kernel = "bomb", bytes(1000)
    one = zipped({name: kernel})
    central = one[one.index(b"PK\x01\x02") : -END]
    count = 200
    start = len(one) - len(central) - END
    return (
        one[:start]
        + central * count
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(central) * count, start, 0)
    )


def quoted(_: Mapping[str, bytes]) -> bytes:
    """An entry lies within another's bytes."""
    inner = zipped({"inner": b"evil"})
    outer = bytearray(zipped({"outer": inner}))
    central = outer.index(b"PK\x01\x02", LOCAL + 5 + len(inner))
    hidden = inner[inner.index(b"PK\x01\x02") : -END]
    record = bytearray(hidden)
    struct.pack_into("<L", record, 42, LOCAL + 5)
    directory = bytes(outer[central:-END]) + bytes(record)
    return bytes(outer[:central]) + directory + ended(2, len(directory), central)


def ended(count: int, size: int, start: int) -> bytes:
    """The last record of a zip with so many entries, whose directory begins there and has so many bytes."""
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)


def many(_: Mapping[str, bytes]) -> bytes:
    return zipped({f"entry-{number}": b"" for number in range(2000)})


def mode(kind: int) -> Make:
    return lambda files: zipped(files, entry=lambda info: setattr(info, "external_attr", (kind | 0o777) << 16))


def flipped(files: Mapping[str, bytes]) -> bytes:
    """A bit of the first entry's content is another."""
    data = bytearray(zipped(files))
    data[LOCAL + len(min(files)) + 2] ^= 1
    return bytes(data)


def tar(_: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("bundle/manifest.json"))
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """Takes bytes, and cannot go back."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def streamed(files: Mapping[str, bytes]) -> bytes:
    """Sizes stand after the bytes."""
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return pipe.data


def nested(files: Mapping[str, bytes]) -> bytes:
    return zipped({"export.zip": zipped(files)})


BAD_NAMES = [
    b"../evil",
    b"/absolute",
    b"C:\\windows",
    b"..\\evil",
    b"a/../../b",
    b"a//b",
    b"./a",
    b"a/./b",
    b"folder/",
    b"a\x00b",
    b"a\nb",
    b"~root",
    b"a" * 201,
    "\u202egpj.exe".encode(),
    "caf\u00e9".encode(),
    b"\xff\xfe",
    b".hidden",
    b"con:stream",
    b" ",
]

HOSTILE: dict[str, tuple[Make, str]] = {
    "nothing": (lambda _: b"", FOREIGN),
    "a byte": (lambda _: b"P", FOREIGN),
    "text": (lambda _: b"PK is what this text begins with", FOREIGN),
    "no entries": (lambda _: zipped({}), FOREIGN),
    "tar": (tar, FOREIGN),
    "gzip": (lambda _: b"\x1f\x8b\x08\x00" + bytes(100), FOREIGN),
    "pickle": (lambda _: b"\x80\x04cposix\nsystem\n(S'touch canary'\ntR.", FOREIGN),
    **{f"named {name[:20]!r}": (renamed(name), NAME) for name in BAD_NAMES},
    "one name twice": (twice("evil", "evil"), TWICE),
    "names that differ by case": (twice("evil", "EVIL"), TWICE),
    "a link": (mode(stat.S_IFLNK), FOREIGN),
    "a pipe": (mode(stat.S_IFIFO), FOREIGN),
    "a device": (mode(stat.S_IFCHR), FOREIGN),
    "another system's": (patched(5, "B", 0), FOREIGN),
    "deflated": (lambda files: zipped(files, method=zipfile.ZIP_DEFLATED), FOREIGN),
    "bzip2": (lambda files: zipped(files, method=zipfile.ZIP_BZIP2), FOREIGN),
    "lzma": (lambda files: zipped(files, method=zipfile.ZIP_LZMA), FOREIGN),
    "a bomb": (lambda _: zipped({"bomb": bytes(10_000_000)}, method=zipfile.ZIP_DEFLATED), FOREIGN),
    "encrypted": (patched(8, "H", 1), FOREIGN),
    "streamed": (streamed, FOREIGN),
    "entries that overlap": (overlapping, CORRUPT),
    "an entry in an entry": (quoted, CORRUPT),
    "many entries": (many, MANY),
    "many entries, it says": (patched(8, "H", 60_000, "end"), FOREIGN),
    "fewer entries than it says": (lambda files: counted(files, 1), CORRUPT),
    "more entries than it says": (lambda files: counted(files, -1), CORRUPT),
    "a smaller size": (patched(24, "L", 1), CORRUPT),
    "a larger size": (patched(24, "L", 1 << 30), CORRUPT),
    "both sizes larger": (lambda files: resized(files, 1 << 30), CORRUPT),
    "another local size": (patched(18, "L", 1, "local"), CORRUPT),
    "another local name": (patched(LOCAL, "B", ord("X"), "local"), CORRUPT),
    "another local method": (patched(8, "H", 8, "local"), CORRUPT),
    "another offset": (patched(42, "L", 7), CORRUPT),
    "an offset beyond the end": (patched(42, "L", 0xFFFFFFFE), CORRUPT),
    "sizes of zip64": (lambda files: resized(files, 0xFFFFFFFF), CORRUPT),
    "bytes before it": (lambda files: b"#!/bin/sh\n" + zipped(files), FOREIGN),
    "an archive before it": (lambda files: zipped({"evil": b"evil"}) + zipped(files), CORRUPT),
    "bytes after it": (lambda files: zipped(files) + b"\n", CORRUPT),
    "a comment": (lambda files: patched(20, "H", 5, "end")(files) + b"hello", CORRUPT),
    "a large comment": (lambda files: patched(20, "H", 65_535, "end")(files) + bytes(65_535), CORRUPT),
    "a second disk": (patched(4, "H", 1, "end"), FOREIGN),
    "a flipped bit": (flipped, CORRUPT),
    "a wrong checksum": (patched(14, "L", 0, "local"), CORRUPT),
    "a zip in a zip": (nested, "NOT_A_MODEL"),
    "other files": (lambda _: zipped({"README.md": b"hello", "weights.pt": b"\x80\x04."}), "NOT_A_MODEL"),
}


def counted(files: Mapping[str, bytes], more: int) -> bytes:
    data = bytearray(zipped(files))
    for offset in (8, 10):
        struct.pack_into("<H", data, len(data) - END + offset, len(files) + more)
    return bytes(data)


def resized(files: Mapping[str, bytes], size: int) -> bytes:
    data = bytearray(zipped(files))
    central = data.index(b"PK\x01\x02")
    for start in (18, 22, central + 20, central + 24):
        struct.pack_into("<L", data, start, size)
    return bytes(data)


def truncated(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """Cut off at every sixteenth."""
    data = zipped(files)
    for sixteenth in range(1, 16):
        yield data[: len(data) * sixteenth // 16]
