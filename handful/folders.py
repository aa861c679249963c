"""Folders of pictures or sounds: `daisy/1.jpg rose/2.jpg …`, or `train/` and `val/` folders of such. Of a file it reads
the first bytes alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from handful.errors import InvalidArgument
from handful.groups import groups_of
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
# More are not walked through; more than MANY are not what classes of some dozens of examples look like.
MAX_FILES = 100_000
MANY_FILES, MANY_CLASSES = 10_000, 200
SHOWN = 3
LAYOUT = (
    "A folder to push has a folder for each class: cat/1.jpg dog/2.jpg; or train and val folders of those: "
    "train/cat/1.jpg val/cat/2.jpg."
)


@dataclass(frozen=True)
class LabelledFile:
    """A file, its class, what it is for, and what it belongs to; an empty group is none."""

    path: Path
    label: str
    split: "Split.ValueType" = SPLIT_UNSPECIFIED
    group: str = ""


@dataclass(frozen=True)
class Survey:
    """What a folder holds: the files in class folders, in order, and how much was passed by."""

    folder: Path
    files: list[LabelledFile]
    # Files and folders whose names begin with a dot.
    num_hidden: int
    # Files beside the class folders, which have no class.
    num_loose: int

    @property
    def labels(self) -> list[str]:
        return sorted({file.label for file in self.files})


def find(folder: Path, groups: str = "") -> list[LabelledFile]:
    """Every file of a folder of class folders, in order; what is hidden is none. InvalidArgument that shows the layout
    where there is none.

    `groups` says what files belong to, as `groups_of` takes it.
    """
    return survey(folder, groups).files


def survey(folder: Path, groups: str = "") -> Survey:
    """As `find`, with what was passed by."""
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is not a folder.")
    passed: Counter[str] = Counter()
    found: list[LabelledFile] = []
    for file in _find(folder, passed):
        found.append(file)
        if len(found) > MAX_FILES:
            raise InvalidArgument(f"{folder} has more than {MAX_FILES:,} files in folders. {LAYOUT}")
    if not found:
        beside = f" {passed['loose']} files lie in it directly." if passed["loose"] else ""
        raise InvalidArgument(f"{folder} has no class folders with files.{beside} {LAYOUT}")
    return Survey(folder, _grouped(found, folder, groups) if groups else found, passed["hidden"], passed["loose"])


def doubts(found: Survey) -> list[str]:
    """Why a folder may not be what its owner means to push, in sentences; none where it looks like class folders."""
    taken = [file for file in found.files if _modality(file.path) is not None]
    num, others = len(found.files), len(found.files) - len(taken)
    # One class that has all its files in folders is likely the parent of class folders.
    deep = [file for file in taken if _depth(file, found.folder) > (0 if len(found.labels) == 1 else 1)]
    inner = {one.name.lower() for one in _folders(found.folder)}
    told = []
    if others > num / 2:
        told.append(f"{others:,} of {num:,} files are neither pictures nor sounds.")
    if len(deep) > len(taken) / 2:
        where, label = deep[0].path.relative_to(found.folder), deep[0].label
        told.append(f"Most lie in folders within folders, such as {where}, whose class would be {label}.")
    if num > MANY_FILES:
        told.append(f"There are {num:,} files; some dozens of each class are enough.")
    if len(found.labels) > MANY_CLASSES:
        told.append(f"Every folder is a class, and there are {len(found.labels):,}.")
    if {"train"} < inner & _SPLITS.keys() and inner - _SPLITS.keys():
        beside = ", ".join(sorted(inner - _SPLITS.keys())[:SHOWN])
        told.append(f"Beside train and val stands {beside}, so all of them are taken for classes. Move it elsewhere.")
    return told


def _depth(file: LabelledFile, folder: Path) -> int:
    """How many folders there are between a file and its class folder."""
    above = 2 if file.split == SPLIT_UNSPECIFIED else 3
    return len(file.path.relative_to(folder).parts) - above


def media(folder: Path) -> tuple[list[Path], int]:
    """The pictures and sounds in a folder, however deep, in order, without what is hidden; and how many other files."""
    passed: Counter[str] = Counter()
    files = list(_files(folder, passed))
    kept = [path for path in files if _modality(path) is not None]
    return kept, len(files) - len(kept)


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
            f"WAV, FLAC, OGG or MP3. Convert them first. {LAYOUT}"
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


def _grouped(files: Sequence[LabelledFile], folder: Path, how: str) -> list[LabelledFile]:
    groups = groups_of([file.path for file in files], folder, how)
    return [replace(file, group=group) for file, group in zip(files, groups, strict=True)]


def _find(folder: Path, passed: Counter[str]) -> Iterator[LabelledFile]:
    inner = _folders(folder, passed)
    passed["loose"] += sum(one.is_file() and not _is_hidden(one) for one in folder.iterdir())
    if inner and all(one.name.lower() in _SPLITS for one in inner):
        for split_folder in inner:
            yield from _classes(_folders(split_folder, passed), _SPLITS[split_folder.name.lower()], passed)
    else:
        yield from _classes(inner, SPLIT_UNSPECIFIED, passed)


def _classes(folders: Sequence[Path], split: "Split.ValueType", passed: Counter[str]) -> Iterator[LabelledFile]:
    for class_folder in folders:
        for path in _files(class_folder, passed):
            yield LabelledFile(path, class_folder.name, split)


def _files(folder: Path, passed: Counter[str]) -> Iterator[Path]:
    """In order, however deep, of folders that are not hidden."""
    inner = sorted(folder.iterdir())
    passed["hidden"] += sum(map(_is_hidden, inner))
    for path in inner:
        if _is_hidden(path):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():  # which may lead in a circle
            yield from _files(path, passed)


def _folders(folder: Path, passed: Counter[str] | None = None) -> list[Path]:
    inner = sorted(folder.iterdir())
    if passed is not None:
        passed["hidden"] += sum(map(_is_hidden, inner))
    return [one for one in inner if one.is_dir() and not _is_hidden(one)]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")
