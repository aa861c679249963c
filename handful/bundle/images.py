"""Pictures: from bytes to upright RGB, and to a backbone's input. The same code when data comes in, in training and
in serving; exported models carry this very file. It opens JPEG, PNG and WebP, and no other parser is ever entered.
It needs Pillow alone.
"""

import io
import zlib
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageCms, ImageMath, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
# Transparent pixels are shown on white, as most viewers do.
BACKGROUND = (255, 255, 255)
_STRIP_ROWS = 256

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN = "The file is broken or cut off."
_SRGB = ImageCms.createProfile("sRGB")


class BadImage(Exception):
    """These bytes are no picture we take. `reason` is CORRUPT_MEDIA, UNSUPPORTED_FORMAT, IMAGE_TOO_LARGE or
    FILE_TOO_LARGE; the message is for the caller.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a backbone's input of `size` x `size` pixels.

    `fit` is `center_crop`, the short side resized to `resize` and the middle cut out, or `squash`, both sides resized.
    `filter` is `bilinear` or `bicubic`, antialiased. JPEGs are decoded with the given `draft`.
    """

    fit: str
    size: int
    filter: str
    resize: int = 0
    draft: int = 0


def looks_like_picture(data: bytes) -> bool:
    """Whether a file begins as the pictures that are taken do; the first 12 bytes are enough."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def decode(data: bytes, draft: int = 0) -> Image.Image:
    """The picture, upright, RGB, 8 bits; of an animation the first frame.

    With `draft`, a JPEG is decoded at the smallest fraction whose sides are no shorter than that many pixels.
    BadImage where the bytes are none, or too many; limits are checked before pixels are decoded.
    """
    if len(data) > MAX_BYTES:
        raise BadImage("FILE_TOO_LARGE", f"The file has {len(data)} bytes; at most {MAX_BYTES} are taken.")
    image = _open(data)
    _check_size(image)
    try:
        if image.format == "PNG":
            _check_chunks(data)
        if draft and image.format in {"JPEG", "MPO"}:
            image.draft("RGB", (draft, draft))
        image.load()
        return _to_rgb(_upright(image))
    except (MemoryError, BadImage):
        raise
    except Exception as problem:
        raise BadImage("CORRUPT_MEDIA", _BROKEN) from problem


def fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The picture at a backbone's input size, RGB, `size` x `size`."""
    size, resample = (preprocessing.size, preprocessing.size), _FILTERS[preprocessing.filter]
    if preprocessing.fit == "squash":
        return image.resize(size, resample)
    if preprocessing.fit != "center_crop":
        raise ValueError(f"unknown fit {preprocessing.fit}")
    # Resizing the short side to `resize` and cutting out the middle is cutting first and resizing once.
    side = min(image.size) * preprocessing.size / preprocessing.resize
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(size, resample, box=(left, top, left + side, top + side))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        raise _too_large() from problem
    except UnidentifiedImageError as problem:
        raise _unidentified(data) from problem
    except Exception as problem:
        raise BadImage("CORRUPT_MEDIA", _BROKEN) from problem


def _unidentified(data: bytes) -> BadImage:
    if not data:
        return BadImage("CORRUPT_MEDIA", "The file is empty.")
    if looks_like_picture(data):
        return BadImage("CORRUPT_MEDIA", _BROKEN)
    return BadImage("UNSUPPORTED_FORMAT", "The file is not a JPEG, PNG or WebP picture.")


def _check_size(image: Image.Image) -> None:
    pixels = image.width * image.height * getattr(image, "n_frames", 1)
    if not pixels or pixels > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise _too_large()


def _too_large() -> BadImage:
    return BadImage(
        "IMAGE_TOO_LARGE",
        f"The picture has more than {MAX_PIXELS // 1_000_000} megapixels or a side above {MAX_SIDE} pixels.",
    )


def _check_chunks(png: bytes) -> None:
    # Pillow checks no checksum of pixel data, and takes a missing end for an end.
    position = 8
    while (kind := png[position + 4 : position + 8]) != b"IEND":
        end = position + 8 + int.from_bytes(png[position : position + 4])
        if kind == b"IDAT" and zlib.crc32(png[position + 4 : end]) != int.from_bytes(png[end : end + 4]):
            raise ValueError("wrong checksum")
        if end >= len(png):
            raise ValueError("no end")
        position = end + 4


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001 - Pillow raises many kinds; broken metadata is no reason to refuse a good picture
        return image
    return image.transpose(turn) if turn is not None else image


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow keeps the colour profile beside the pixels.
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image = _to_eight_bits(image.convert("I"), image.info.get("transparency"))
    if image.has_transparency_data:
        return _on_background(image)
    if profile and image.mode in {"RGB", "CMYK", "L"}:
        image = _to_srgb(image, profile)
    return image.convert("RGB")


def _on_background(image: Image.Image) -> Image.Image:
    """Strip by strip: the layers of a whole picture take three times what it takes itself."""
    canvas = Image.new("RGB", image.size, BACKGROUND)
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height))).convert("RGBA")
        canvas.paste(strip, (0, top), mask=strip.getchannel("A"))
    return canvas


def _to_eight_bits(grey: Image.Image, clear: int | None) -> Image.Image:
    image = grey.point(lambda value: value * (1 / 257)).convert("L")
    image.info.pop("transparency", None)  # a level of 16 bits
    if clear is not None:
        image.putalpha(ImageMath.lambda_eval(lambda of: of["convert"]((of["grey"] != clear) * 255, "L"), grey=grey))
    return image


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a broken profile is no reason to refuse a good picture
        return image
    return converted or image
