"""What a picture's first bytes say of its size, against what Pillow finds; and what they cannot say."""

import io
import time
from typing import Any

import pytest
from PIL import Image

from services.inference.glancing import MAX_SEGMENTS, Look, glance

SIZES = [(1, 1), (640, 480), (1999, 1001), (4001, 3003)]


def encoded(size: tuple[int, int], kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(how.pop("mode", "RGB"), size, how.pop("colour", 90)).save(buffer, kind, **how)
    return buffer.getvalue()


def exif() -> bytes:
    """A header with a thumbnail's own frame in it."""
    found = Image.Exif()
    found[0x010E] = "a picture of nothing"
    return b"Exif\0\0" + found.tobytes()[6:] + encoded((160, 120), "JPEG")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "how", "factor"),
    [
        ("JPEG", {}, 1),
        ("JPEG", {"progressive": True}, 3),
        ("JPEG", {"exif": exif(), "comment": b"x" * 60_000}, 1),
        ("JPEG", {"mode": "L"}, 1),
        ("PNG", {}, 10),
        ("PNG", {"mode": "RGBA", "colour": (1, 2, 3, 4)}, 10),
        ("WEBP", {}, 10),
        ("WEBP", {"lossless": True}, 10),
        ("WEBP", {"mode": "RGBA", "colour": (1, 2, 3, 4), "quality": 20}, 10),
        ("WEBP", {"exif": exif()}, 10),
    ],
)  # fmt: skip
def test_a_header_says_how_large(size: tuple[int, int], kind: str, how: dict[str, Any], factor: float) -> None:
    """Pixels are those of the picture, in each way to write it, and its cost is by its kind."""
    look = glance(encoded(size, kind, **how))
    pixels = size[0] * size[1]
    assert look == Look(pixels, factor * pixels / 1e6)
    assert look.is_large == (pixels > 2e6 or factor * pixels > 10e6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_may_end_anywhere(kind: str) -> None:
    """Of every beginning of a file there is some answer, and no error."""
    whole = encoded((64, 48), kind)
    assert all(glance(whole[:end]).pixels >= 0 for end in range(len(whole)))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"roses are red", bytes(64)])
def test_what_is_no_picture_costs_nothing(data: bytes) -> None:
    """It is refused without being decoded, and need not wait for large pictures."""
    assert glance(data) == Look(0, 0)


@pytest.mark.parametrize("segment", [b"\xff\xe1\x00\x02", b"\xff\xe1\x00\x00", b"\xff\xff", b"\xff\x01"])
def test_a_header_without_end_is_not_read_on(segment: bytes) -> None:
    """A JPEG of nothing but segments is looked at for a moment, and goes the way of large pictures."""
    data = b"\xff\xd8" + segment * (30_000_000 // len(segment))
    began = time.thread_time()
    look = glance(data)
    assert time.thread_time() - began < MAX_SEGMENTS * 1e-4
    assert look.is_large


def test_a_size_that_is_refused_for_its_header_costs_nothing() -> None:
    """Nobody is refused for what a few bytes claim: they are decoded apart, which ends at once."""
    claims = b"\x89PNG\r\n\x1a\n" + bytes([0, 0, 0, 13]) + b"IHDR" + b"\xff" * 8 + bytes(9)
    look = glance(claims)
    assert (look.pixels, look.cost, look.is_large) == ((2**32 - 1) ** 2, 0, True)
