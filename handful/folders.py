"""Folders of pictures or sounds: `daisy/1.jpg rose/2.jpg …`, or `train/` and `val/` folders of such. Of a file it reads
the first bytes alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import (
    MODALITY_IMAGE,
    MODALITY_SOUND,
    SPLIT_TRAIN,
    SPLIT_UNSPECIFIED,
    SPLIT_VAL,
    Modality,
    Split,
)

_SPLITS = {"train": SPLIT_TRAIN, "val": SPLIT_VAL, "validation": SPLIT_VAL, "valid": SPLIT_VAL}
_BEGINNING = 12
# As `handful.bundle.recordings` and `images` have them, which need libraries that a caller need not have.
_SOUNDS = (
    b"RIF[FX]....WAVE",
    b"fLaC",
    b"OggS",
    b"ID3",
    b"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd\xff][\x00-\xef]",
)
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP")
# Where one kind is so many times as frequent as the other, the other are strays, refused one by one.
_STRAY = 4


@dataclass(frozen=True)
class LabelledFile:
    """A file, its class, what it is for, and what it belongs to; an empty group is none."""

    path: Path
    label: str
    split: "Split.ValueType" = SPLIT_UNSPECIFIED
    group: str = ""


def find(folder: Path, groups: str = "") -> list[LabelledFile]:
    """Every file of a folder of class folders, in order. InvalidArgument that shows the layout where there is none.

    `groups` is a regular expression with one pair of parentheses, found in every file's name: what the parentheses
    match is the file's group, such as the speaker.
    """
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is not a folder.")
    found = list(_find(folder))
    if not found:
        raise InvalidArgument(
            f"{folder} has no class folders with files. It must look like cat/1.jpg dog/2.jpg, "
            "or like train/cat/1.jpg val/cat/2.jpg."
        )
    return _grouped(found, groups) if groups else found


def modality_of(files: Sequence[LabelledFile]) -> "Modality.ValueType":
    """What most files are, by their first bytes. InvalidArgument where all are neither pictures nor sounds, and where
    more than a fifth of those that are something are of the other kind; fewer are strays, which an upload refuses one
    by one, as it does what is neither.
    """
    counted = Counter(_modality(file.path) for file in files)
    pictures, sounds = counted[MODALITY_IMAGE], counted[MODALITY_SOUND]
    if not pictures and not sounds:
        raise InvalidArgument(
            f"None of the {len(files)} files is a picture or a sound that is taken: JPEG, PNG or WebP; "
            "WAV, FLAC, OGG or MP3. Convert them first."
        )
    if max(pictures, sounds) < _STRAY * min(pictures, sounds):
        raise InvalidArgument(
            f"A dataset holds pictures or sounds, not both; here are {pictures} pictures and {sounds} sounds. "
            "Put them into a folder each."
        )
    return MODALITY_SOUND if sounds > pictures else MODALITY_IMAGE


def is_sound(data: bytes) -> bool:
    """Whether a file, or its beginning, is a sound by its first bytes."""
    return any(re.match(kind, data[:_BEGINNING], re.DOTALL) for kind in _SOUNDS)


def _modality(path: Path) -> "Modality.ValueType | None":
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if any(re.match(kind, beginning, re.DOTALL) for kind in _PICTURES):
        return MODALITY_IMAGE
    return MODALITY_SOUND if is_sound(beginning) else None


def _grouped(files: Sequence[LabelledFile], pattern: str) -> list[LabelledFile]:
    try:
        expression = re.compile(pattern)
    except re.error as problem:
        raise InvalidArgument.fields([("groups", f"is no regular expression: {problem}")]) from None
    if expression.groups != 1:
        raise InvalidArgument.fields(
            [("groups", f"must have one pair of parentheses around the group, not {expression.groups}: '_([a-z]+)_'")]
        )
    matches = [expression.search(file.path.name) for file in files]
    missed = [file.path.name for file, match in zip(files, matches, strict=True) if not (match and match[1])]
    if missed:
        raise InvalidArgument.fields([("groups", f"matches nothing in {len(missed)} names, such as {missed[0]}")])
    return [replace(file, group=match[1]) for file, match in zip(files, matches, strict=True) if match]


def _find(folder: Path) -> Iterator[LabelledFile]:
    inner = _folders(folder)
    if inner and all(one.name.lower() in _SPLITS for one in inner):
        for split_folder in inner:
            yield from _classes(split_folder, _SPLITS[split_folder.name.lower()])
    else:
        yield from _classes(folder, SPLIT_UNSPECIFIED)


def _classes(folder: Path, split: "Split.ValueType") -> Iterator[LabelledFile]:
    for class_folder in _folders(folder):
        for path in sorted(class_folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield LabelledFile(path, class_folder.name, split)


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
