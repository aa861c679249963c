"""What a request would become, read off its bytes before they are parsed: a message takes two bytes on the way and a
hundred in memory, so that 32 MiB can be gigabytes. It knows field numbers and no values.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

# Of a request of 32 pictures there are about two hundred.
MAX_FIELDS = 10_000
# Numbers that are packed are the same, at some bytes for each; raw contents are not parsed at all.
MAX_PACKED_BYTES = 16 * 1024 * 1024
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
# By field: the messages in a request that have messages in them, and fields of any number, of which each counts.
Nested = Mapping[int, Any]
_BYTES_CONTENTS = 8
_CONTENTS: Nested = {}
_REQUEST: Nested = {4: {}, 5: {4: {}, 5: _CONTENTS}, 6: {2: {}}}


def check(request: bytes) -> None:
    """DecodeError where a ModelInferRequest has more fields, or larger contents, than anybody needs."""
    _walk(memoryview(request), _REQUEST, MAX_FIELDS)


def _walk(data: memoryview, nested: Nested, left: int) -> int:
    """How many fields may still come."""
    place = 0
    while place < len(data):
        left -= 1
        if left < 0:
            raise DecodeError("too many fields")
        tag, place = _varint(data, place)
        field, kind = tag >> 3, tag & 7
        if kind == _LENGTH:
            size, place = _varint(data, place)
            if nested is _CONTENTS and field != _BYTES_CONTENTS and size > MAX_PACKED_BYTES:
                raise DecodeError("too many numbers")
            if field in nested:
                left = _walk(data[place : place + size], nested[field], left)
            place += size
        elif kind == _VARINT:
            place = _varint(data, place)[1]
        elif kind in (_EIGHT, _FOUR):
            place += 8 if kind == _EIGHT else 4
        else:
            raise DecodeError("a group")
    return left


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at a place, and where it ends."""
    value = shift = 0
    while place < len(data):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last one has no high bit
            return value, place
        shift += 7
        if shift > 63:  # noqa: PLR2004 - of 64 bits
            break
    raise DecodeError("cut off")
