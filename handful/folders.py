"""Folders of pictures: `daisy/1.jpg rose/2.jpg …`, or `train/` and `val/` folders of such. It opens no picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VAL, Split

_SPLITS = {"train": SPLIT_TRAIN, "val": SPLIT_VAL, "validation": SPLIT_VAL, "valid": SPLIT_VAL}


@dataclass(frozen=True)
class LabelledFile:
    """A file, its class, and what it is for."""

    path: Path
    label: str
    split: "Split.ValueType" = SPLIT_UNSPECIFIED


def find(folder: Path) -> list[LabelledFile]:
    """Every file of a folder of class folders, in order. InvalidArgument that shows the layout where there is none."""
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is not a folder.")
    found = list(_find(folder))
    if not found:
        raise InvalidArgument(
            f"{folder} has no class folders with files. It must look like cat/1.jpg dog/2.jpg, "
            "or like train/cat/1.jpg val/cat/2.jpg."
        )
    return found


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
