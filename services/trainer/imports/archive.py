"""A zip that anyone may have sent, read as data: names are never paths, and nothing is inflated.

Only what `services.trainer.exports.archive` writes is taken: every byte of the file belongs to one entry or to the
directory, entries lie one after another in its order, and none is compressed, encrypted or anything but a file. So
there is no entry that overlaps another or hides, and none is larger than it lies there. Formats: PKWARE APPNOTE 6.3.10,
sections 4.3.7, 4.3.12 and 4.3.16.
"""

import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from handful.errors import InvalidArgument
from services.trainer.exports.archive import MODE, UNIX

MAX_ENTRIES = 256
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
MAX_NAME = 200

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
# Version 2.0 of the format; 1980-01-01 00:00 as zip counts it.
_VERSION, _TIME, _DATE = 20, 0, 0x21
_CORRUPT = "The zip is broken or cut off. Export the model again, and send it as it is."
_FOREIGN = "The file is not a model as it was exported. Send the zip as it is, not unpacked and zipped again."


@dataclass(frozen=True)
class Entry:
    """Where an entry's bytes lie in the file, and their CRC-32."""

    start: int
    size: int
    crc: int


class Archive:
    """A zip whose structure was found right. Its entries are checked as they are read."""

    def __init__(self, path: Path, entries: dict[str, Entry]) -> None:
        self._path = path
        self._entries = entries

    @classmethod
    def open(cls, path: Path) -> "Archive":
        """InvalidArgument UNSUPPORTED_ARCHIVE, CORRUPT_ARCHIVE, TOO_MANY_ENTRIES, BAD_ENTRY_NAME or DUPLICATE_ENTRY."""
        with path.open("rb") as file:
            if file.read(4) != _SIGNATURES[0]:
                raise _refused("UNSUPPORTED_ARCHIVE", _FOREIGN)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END.size))
            start, count = _end(file.read(), size)
            file.seek(start)
            directory = file.read(size - _END.size - start)
            entries = _entries(directory, count, start)
            for name, entry in entries.items():
                local = _local(name, entry)
                file.seek(entry.start - len(local))
                if file.read(len(local)) != local:
                    raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
        return cls(path, entries)

    def names(self) -> set[str]:
        return set(self._entries)

    def size(self, name: str) -> int:
        return self._entries[name].size

    def read(self, name: str) -> bytes:
        """An entry's bytes. InvalidArgument CORRUPT_ARCHIVE where they are not what its CRC says."""
        entry = self._entries[name]
        with self._path.open("rb") as file:
            file.seek(entry.start)
            data = file.read(entry.size)
        if zlib.crc32(data) != entry.crc:
            raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
        return data


def _end(record: bytes, size: int) -> tuple[int, int]:
    """Where the directory begins, and how many entries it has."""
    if len(record) < _END.size:
        raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
    signature, disk, first_disk, here, count, length, start, comment = _END.unpack(record)
    if signature != _SIGNATURES[2] or comment or start + length + _END.size != size:
        raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
    if disk or first_disk or here != count:
        raise _refused("UNSUPPORTED_ARCHIVE", _FOREIGN)
    if count > MAX_ENTRIES or length > MAX_ENTRIES * (_CENTRAL.size + MAX_NAME):
        raise _refused("TOO_MANY_ENTRIES", f"The zip has more than {MAX_ENTRIES} entries, or long ones.")
    return start, count


def _entries(directory: bytes, count: int, directory_start: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    folded: set[str] = set()
    position = start = 0
    for _ in range(count):
        name, entry, length = _entry(directory[position:], start)
        folded.add(name.lower())
        if len(folded) == len(entries):
            raise _refused("DUPLICATE_ENTRY", "The zip has two entries of one name.")
        entries[name] = entry
        position += length
        start = entry.start + entry.size
    if position != len(directory) or start != directory_start:
        raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
    return entries


def _entry(directory: bytes, start: int) -> tuple[str, Entry, int]:
    """The entry that the directory has next and that begins there in the file, and how long its record is."""
    if len(directory) < _CENTRAL.size:
        raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
    fields = _CENTRAL.unpack_from(directory)
    flags, method, crc, stored, size, length = (fields[index] for index in (5, 6, 9, 10, 11, 12))
    if fields[0] != _SIGNATURES[1] or fields[-1] != start:
        raise _refused("CORRUPT_ARCHIVE", _CORRUPT)
    name = _name(directory[_CENTRAL.size : _CENTRAL.size + length])
    if fields != _central(crc, size, length, start):
        sizes = not (flags or method) and stored != size
        raise _refused(*(("CORRUPT_ARCHIVE", _CORRUPT) if sizes else ("UNSUPPORTED_ARCHIVE", _FOREIGN)))
    return name, Entry(start + _LOCAL.size + length, size, crc), _CENTRAL.size + length


def _name(raw: bytes) -> str:
    name = raw.decode("ascii", "replace")
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise _refused("BAD_ENTRY_NAME", f"{_FOREIGN} It has an entry whose name no export has.")
    return name


def _central(crc: int, size: int, name_length: int, start: int) -> tuple[object, ...]:
    made_by = (_VERSION, UNIX, _VERSION, 0)
    return (_SIGNATURES[1], *made_by, 0, 0, _TIME, _DATE, crc, size, size, name_length, 0, 0, 0, 0, MODE << 16, start)


def _local(name: str, entry: Entry) -> bytes:
    fixed = _LOCAL.pack(_SIGNATURES[0], _VERSION, 0, 0, _TIME, _DATE, entry.crc, entry.size, entry.size, len(name), 0)
    return fixed + name.encode()


def _refused(reason: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason)
