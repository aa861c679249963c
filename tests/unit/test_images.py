"""Pictures: what is refused and why, what is kept, and that the colours are the ones that were meant."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from handful.bundle.images import MAX_BYTES, BadImage, Preprocessing, decode, fit

ORIENTATION = 0x0112
CANARY = "CANARY-0b5f1d"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], rows: bytes = b"", *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG built by hand; `rows` are its pixels, each row behind a filter byte, `extra` are chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """The JPEG with a segment after its start."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def exif(**tags: Any) -> bytes:
    """EXIF bytes; the keywords are tags written as `t` and their number in hexadecimal."""
    block = Image.Exif()
    for tag, value in tags.items():
        block[int(tag[1:], 16)] = value
    return block.tobytes()


def _film(kind: str, side: int, frames: int, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (side, side), (9 * i % 256, 255 - 9 * i % 256, 0)) for i in range(frames)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def _tampered(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


_ROWS = b"".join(b"\0" + noise().tobytes()[start : start + 192] for start in range(0, 192 * 48, 192))
_GOOD = png((64, 48), _ROWS)
_BOMB = zlib.compress(b"A" * 50_000_000)
_CYCLE = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0100, 4, 1, 1, 8)

# What must be refused: how to make it, and the reason that the caller is to be told.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "CORRUPT_MEDIA"),
    "one byte": (lambda: b"\xff", "UNSUPPORTED_FORMAT"),
    "text": (lambda: b"not a picture\n" * 100, "UNSUPPORTED_FORMAT"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(1024 * 1024), "UNSUPPORTED_FORMAT"),
    "JPEG marker": (lambda: b"\xff\xd8\xff", "CORRUPT_MEDIA"),
    "PNG signature": (lambda: b"\x89PNG\r\n\x1a\n", "CORRUPT_MEDIA"),
    "WebP header": (lambda: b"RIFF\x04\0\0\0WEBP", "CORRUPT_MEDIA"),
    "GIF": (lambda: encoded(noise(), "GIF"), "UNSUPPORTED_FORMAT"),
    "BMP": (lambda: encoded(noise(), "BMP"), "UNSUPPORTED_FORMAT"),
    "TIFF": (lambda: encoded(noise(), "TIFF"), "UNSUPPORTED_FORMAT"),
    "TIFF in a circle": (lambda: _CYCLE, "UNSUPPORTED_FORMAT"),
    "ICO": (lambda: encoded(noise(), "ICO"), "UNSUPPORTED_FORMAT"),
    "JPEG 2000": (lambda: encoded(noise(), "JPEG2000"), "UNSUPPORTED_FORMAT"),
    "AVIF": (lambda: encoded(noise(), "AVIF"), "UNSUPPORTED_FORMAT"),
    "PDF": (lambda: encoded(noise(), "PDF"), "UNSUPPORTED_FORMAT"),
    "EPS": (lambda: encoded(noise(), "EPS"), "UNSUPPORTED_FORMAT"),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>x()</script></svg>', "UNSUPPORTED_FORMAT"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "UNSUPPORTED_FORMAT"),
    "PSD": (lambda: b"8BPS\0\x01" + bytes(64), "UNSUPPORTED_FORMAT"),
    "30000x30000": (lambda: png((30_000, 30_000)), "IMAGE_TOO_LARGE"),
    "13000x13000": (lambda: png((13_000, 13_000)), "IMAGE_TOO_LARGE"),
    "1 bit, 9000x9000": (lambda: png((9000, 9000), bytes(9000 * 1126), depth=1, colour=0), "IMAGE_TOO_LARGE"),
    "1x65535": (lambda: png((1, 65_535)), "IMAGE_TOO_LARGE"),
    "65535x1": (lambda: png((65_535, 1)), "IMAGE_TOO_LARGE"),
    "0x0": (lambda: png((0, 0)), "CORRUPT_MEDIA"),
    "long animated WebP": (lambda: _film("WEBP", 1400, 26, lossless=True, method=0), "IMAGE_TOO_LARGE"),
    "long animated PNG": (
        lambda: png((64, 48), _ROWS, extra=chunk(b"acTL", struct.pack(">II", 20_000, 0))),
        "IMAGE_TOO_LARGE",
    ),
    "zTXt bomb": (lambda: png((64, 48), _ROWS, extra=chunk(b"zTXt", b"c\0\0" + _BOMB)), "CORRUPT_MEDIA"),
    "iCCP bomb": (lambda: png((64, 48), _ROWS, extra=chunk(b"iCCP", b"c\0\0" + _BOMB)), "CORRUPT_MEDIA"),
    "70 MB of texts": (
        lambda: png((64, 48), _ROWS, extra=70 * chunk(b"zTXt", b"c\0\0" + zlib.compress(b"x" * 1_000_000))),
        "CORRUPT_MEDIA",
    ),
    "PNG header tampered": (lambda: _tampered(_GOOD, 8 + 8 + 13), "CORRUPT_MEDIA"),
    "PNG pixels tampered": (lambda: _tampered(_GOOD, _GOOD.index(b"IDAT") + 2000), "CORRUPT_MEDIA"),
    "PNG pixels' checksum wrong": (lambda: _tampered(_GOOD, len(_GOOD) - 13), "CORRUPT_MEDIA"),
    "PNG without its end": (lambda: _GOOD[:-12], "CORRUPT_MEDIA"),
    "more than 32 MiB": (lambda: encoded(noise(), "JPEG") + bytes(MAX_BYTES), "FILE_TOO_LARGE"),
}

_JPEG = encoded(noise(), "JPEG")
# Turned, and with a text that lies behind the end.
_BEYOND = b"II*\0\x08\0\0\0" + struct.pack("<HHHIIHHIII", 2, ORIENTATION, 3, 1, 3, 0x010E, 2, 500, 4000, 0)
_LOOP = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)  # a directory within itself
# Good pixels, bad company: phones and editors write such files.
ODD: dict[str, bytes] = {
    "EXIF of garbage": with_segment(_JPEG, 0xE1, b"Exif\0\0garbage, no directory at all"),
    "EXIF that points beyond its end": with_segment(_JPEG, 0xE1, b"Exif\0\0" + _BEYOND),
    "EXIF within itself": with_segment(_JPEG, 0xE1, b"Exif\0\0" + _LOOP),
    "EXIF of 64 kB": with_segment(_JPEG, 0xE1, b"Exif\0\0" + b"\xff" * 65_000),
    "MPF of garbage": with_segment(_JPEG, 0xE2, b"MPF\0garbage, no directory at all"),
    "colour profile of garbage": with_segment(_JPEG, 0xE2, b"ICC_PROFILE\0\x01\x01garbage"),
    "PNG and ZIP": _GOOD + b"PK\x03\x04" + bytes(100),
    "JPEG and HTML": _JPEG + b"<script>alert(1)</script>",
    "MPO": encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)]),
    "progressive JPEG": encoded(noise(), "JPEG", progressive=True),
}

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
_PALETTE = chunk(b"PLTE", bytes([*RED, *GREEN, *BLUE]))
_GREY16 = b"\0" + struct.pack(">4H", 0, 257 * 7, 32_768, 65_535)


def _line(width: int, row: bytes, colour: int, depth: int = 8, extra: bytes = b"") -> bytes:
    return png((width, 1), b"\0" + row, colour=colour, depth=depth, extra=extra)


def _trns(data: bytes) -> bytes:
    return chunk(b"tRNS", data)


def _grey(*levels: int) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


def _swapped_profile() -> bytes:
    # sRGB with the colorants of red and blue exchanged: red in the file means blue.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tXYZ", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tXYZ", b"bXYZ", 1)


GOLDEN: dict[str, tuple[bytes, list[tuple[int, int, int]]]] = {
    "1 bit": (_line(4, b"\xa0", 0, depth=1), _grey(255, 0, 255, 0)),
    "2 bits": (_line(4, b"\x1b", 0, depth=2), _grey(0, 85, 170, 255)),
    "4 bits": (_line(2, b"\x0b", 0, depth=4), _grey(0, 187)),
    "grey": (_line(3, bytes([0, 7, 255]), 0), _grey(0, 7, 255)),
    "grey, one level transparent": (_line(3, bytes([0, 7, 9]), 0, extra=_trns(b"\0\x07")), _grey(0, 255, 9)),
    "16 bits": (png((4, 1), _GREY16, depth=16, colour=0), _grey(0, 7, 127, 255)),
    "16 bits, one level transparent": (
        png((4, 1), _GREY16, depth=16, colour=0, extra=_trns(b"\x80\0")),
        _grey(0, 7, 255, 255),
    ),
    "16 bits, black transparent": (
        png((4, 1), _GREY16, depth=16, colour=0, extra=_trns(b"\0\0")),
        _grey(255, 7, 127, 255),
    ),
    "RGB of 16 bits": (_line(1, struct.pack(">3H", 0, 32_768, 65_535), 2, depth=16), [(0, 128, 255)]),
    "RGB, one colour transparent": (
        _line(2, bytes([*RED, *BLUE]), 2, extra=_trns(struct.pack(">3H", *RED))),
        [WHITE, BLUE],
    ),
    "grey with alpha": (_line(3, bytes([0, 255, 0, 0, 0, 128]), 4), _grey(0, 255, 127)),
    "RGB with alpha": (_line(3, bytes([*RED, 255, *RED, 0, *RED, 128]), 6), [RED, WHITE, (255, 127, 127)]),
    "palette": (_line(3, bytes([0, 1, 2]), 3, extra=_PALETTE), [RED, GREEN, BLUE]),
    "palette with alpha": (
        _line(3, bytes([0, 1, 2]), 3, extra=_PALETTE + _trns(bytes([255, 0, 128]))),
        [RED, WHITE, (127, 127, 255)],
    ),
    "CMYK": (encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "JPEG", quality=100), [RED]),
    "CMYK black": (encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "JPEG", quality=100), [BLACK]),
    "colour profile": (encoded(Image.new("RGB", (1, 1), RED), "PNG", icc_profile=_swapped_profile()), [BLUE]),
    "animated PNG": (_film("PNG", 1, 3), [(0, 255, 0)]),
    "animated WebP": (_film("WEBP", 1, 3, lossless=True), [(0, 255, 0)]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_picture_of_ours_is_refused_with_its_reason(case: str) -> None:
    """Bytes that are broken, foreign or too large raise BadImage with the reason that fits, and nothing else."""
    make, reason = HOSTILE[case]
    with pytest.raises(BadImage) as refused:
        decode(make())
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {"lossless": True})]
)
def test_a_file_that_was_cut_off_is_refused(kind: str, options: dict[str, Any]) -> None:
    """A picture cut off at any sixteenth is CORRUPT_MEDIA, never half a picture."""
    whole = encoded(noise(), kind, **options)
    for sixteenth in range(16):
        with pytest.raises(BadImage) as refused:
            decode(whole[: len(whole) * sixteenth // 16])
        assert refused.value.reason == "CORRUPT_MEDIA", sixteenth


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", ODD)
def test_odd_metadata_costs_no_picture(case: str) -> None:
    """A picture whose pixels are whole is taken, whatever is written around them."""
    assert decode(ODD[case]).size == (64, 48)


@pytest.mark.parametrize("case", GOLDEN)
def test_colours_are_the_ones_meant(case: str) -> None:
    """Every kind of pixel becomes the RGB it stands for, transparency on white, of films the first frame."""
    data, expected = GOLDEN[case]
    image = decode(data)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[0].astype(int) - np.array(expected)).max() <= 1


def test_sixteen_bits_keep_their_order() -> None:
    """Lighter 16-bit grey never becomes darker, and all 256 levels are used."""
    row = b"\0" + struct.pack(">8192H", *range(0, 65_528, 8), 65_535)
    levels = np.asarray(decode(png((8192, 1), row, depth=16, colour=0)))[0, :, 0].astype(int)
    assert (np.diff(levels) >= 0).all()
    assert len(set(levels)) == 256


# Where the first pixel of the file and the last of its first row are to be seen: (down, right).
UPRIGHT = {
    1: ((0, 0), (0, 1)),
    2: ((0, 1), (0, 0)),
    3: ((1, 1), (1, 0)),
    4: ((1, 0), (1, 1)),
    5: ((0, 0), (1, 0)),
    6: ((0, 1), (1, 1)),
    7: ((1, 1), (0, 1)),
    8: ((1, 0), (0, 0)),
    **dict.fromkeys([0, 9, 65_535], ((0, 0), (0, 1))),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    """The EXIF orientation is applied to the pixels, in every format; a value without meaning changes nothing."""
    image = Image.new("RGB", (64, 32), BLUE)
    image.paste(RED, (0, 0, 16, 16))
    image.paste(GREEN, (48, 0, 64, 16))
    upright = np.asarray(decode(encoded(image, kind, exif=exif(**{f"t{ORIENTATION:x}": orientation}))))
    assert upright.shape == ((64, 32, 3) if 5 <= orientation <= 8 else (32, 64, 3))
    corners = upright[4 :: upright.shape[0] - 9, 4 :: upright.shape[1] - 9].argmax(axis=2)
    first, last = UPRIGHT[orientation]
    assert (corners[first], corners[last]) == (0, 1)


def test_a_draft_is_smaller_and_large_enough() -> None:
    """With `draft`, a JPEG is decoded at a fraction whose sides are no shorter than asked."""
    draft = decode(encoded(noise((800, 600)), "JPEG"), draft=140)
    assert 140 <= min(draft.size) < 600


def test_decoding_in_threads_leaves_warnings_as_they_were() -> None:
    """Servers decode in several threads at once; that changes nothing for the rest of the process."""
    data = encoded(noise((400, 300)), "JPEG")
    for _ in range(5):
        with warnings.catch_warnings(), ThreadPoolExecutor(4) as threads:
            warnings.simplefilter("ignore")
            before = list(warnings.filters)
            list(threads.map(decode, [data] * 40))
            assert list(warnings.filters) == before


@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
def test_the_middle_is_cut_out_or_the_whole_is_squashed(filter_name: str) -> None:
    """`center_crop` keeps the aspect and the middle, `squash` keeps everything; both end at `size` x `size`."""
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    with pytest.raises(ValueError, match="fit"):
        fit(image, Preprocessing(fit="unspecified", size=50, resize=50, filter=filter_name))
    cut = np.asarray(fit(image, Preprocessing(fit="center_crop", size=50, resize=50, filter=filter_name)))
    squashed = np.asarray(fit(image, Preprocessing(fit="squash", size=50, filter=filter_name)))
    assert cut.shape == squashed.shape == (50, 50, 3)
    assert (cut[:, 2:-2] == BLUE).all()
    assert (squashed[:, [5, -5]] == RED).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_tall_picture_with_transparency_is_its_rows(mode: str) -> None:
    """What is done strip by strip is what is done to each row alone, to the last bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 5, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("RGBA" if mode == "P" else mode)
    image = image.quantize(60) if mode == "P" else image
    rows = [decode(encoded(image.crop((0, row, 5, row + 1)), "PNG")) for row in range(600)]
    whole = decode(encoded(image, "PNG"))
    np.testing.assert_array_equal(np.asarray(whole), np.concatenate([np.asarray(row) for row in rows]))
