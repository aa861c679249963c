"""How large a picture is and what it costs to decode, by its first bytes: cheap enough for the event loop. What it is
told is not trusted: whoever decodes finds out.
"""

from dataclasses import dataclass

from handful.bundle.images import MAX_PIXELS

MEGAPIXEL = 1_000_000
# What is more goes the way of large pictures, so that small ones need not wait for it.
LARGE_PIXELS = 2 * MEGAPIXEL
LARGE_COST = 10.0
# A header with more segments than cameras write is not read on.
MAX_SEGMENTS = 500
# Measured, for a megapixel (benchmarks/lanes.py): of a plain JPEG, most of which is never computed, 1.2 to 2 ms; of a
# progressive one three times that; of a PNG or WebP, which is decoded whole, ten times.
_PROGRESSIVE, _WHOLE = 3.0, 10.0
# Of JPEG (ITU-T T.81, table B.1): frame headers, the progressive ones among them, and markers without a length.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_FRAMES = {0xC2, 0xC6, 0xCA, 0xCE}
_FILL, _BARE = 0xFF, frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class Look:
    """A picture as its header has it: pixels, and the cost of decoding it in that of a plain JPEG of one megapixel."""

    pixels: int
    cost: float

    @property
    def is_large(self) -> bool:
        return self.pixels > LARGE_PIXELS or self.cost > LARGE_COST


def glance(data: bytes) -> Look:
    """What the header of a JPEG, PNG or WebP says; of a JPEG whose frame is not found the file's length stands for its
    pixels. Nothing else is decoded at all, and costs nothing.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    pixels = _webp(data) if data[8:12] == b"WEBP" else _png(data) if data.startswith(b"\x89PNG") else 0
    return Look(pixels, _cost(_WHOLE, pixels))


def _jpeg(data: bytes) -> Look:
    """The frame header: marker, length, precision, height, width."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker = data[at + 1 : at + 2]
        if data[at : at + 1] != b"\xff" or not marker:
            break
        kind = marker[0]
        if kind in _FRAMES:
            pixels = _number(data[at + 5 : at + 7]) * _number(data[at + 7 : at + 9])
            return Look(pixels, _cost(_PROGRESSIVE if kind in _PROGRESSIVE_FRAMES else 1, pixels))
        if kind == _FILL:
            at += 1
        else:
            at += 2 + (0 if kind in _BARE else _number(data[at + 2 : at + 4]))
    return Look(len(data), _cost(_PROGRESSIVE, len(data)))


def _cost(factor: float, pixels: int) -> float:
    """Nothing of what is refused for its header alone, whatever that says."""
    return factor * pixels / MEGAPIXEL if pixels <= MAX_PIXELS else 0.0


def _number(data: bytes) -> int:
    return int.from_bytes(data)


def _png(data: bytes) -> int:
    return _number(data[16:20]) * _number(data[20:24])


def _webp(data: bytes) -> int:
    kind = data[12:16]
    if kind == b"VP8X":
        return (1 + int.from_bytes(data[24:27], "little")) * (1 + int.from_bytes(data[27:30], "little"))
    if kind == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        return (1 + (sides & 0x3FFF)) * (1 + (sides >> 14 & 0x3FFF))
    return (int.from_bytes(data[26:28], "little") & 0x3FFF) * (int.from_bytes(data[28:30], "little") & 0x3FFF)
