"""What is served: models of ten classes, trained and exported by Handful, and the pictures that are asked about."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from handful import Client
from handful.cli.stack import Stack
from handful.folders import find

SIZE = (500, 375)
NUM_BYTES = 46_000
# JPEG qualities that are tried: at high ones a step is large.
QUALITIES = (*range(50, 92, 3), *range(92, 101))
NUM_PICTURES = 64
# Cats and dogs are two classes; behind coloured glass they are ten.
GLASS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "plain": None}
PER_CLASS = 20
# The same architecture with its backbone in integers, of those that are offered so.
INT8 = "_int8"
# B0's weights are in no package, and random ones take the same time.
RECIPES: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {"weights": "PRETRAINED"},
    "efficientnet_lite0_int8": {"weights": "PRETRAINED", "backbone_precision": "INT8"},
    "efficientnet_b0": {"weights": "RANDOM"},
}
ARCHITECTURES = tuple(name for name in RECIPES if not name.endswith(INT8))


def train(home: Path, photographs: Path, architectures: Sequence[str]) -> dict[str, Path]:
    """By architecture a folder with the exported model; the services' home has it under the same name, and in integers
    where that is offered. What is there already is taken as it is.
    """
    wanted = [one for name in architectures for one in (name, f"{name}{INT8}") if one in RECIPES]
    folders = {name: home / "exports" / name for name in wanted}
    missing = [name for name, folder in folders.items() if not folder.exists()]
    if missing:
        _train(home, photographs, missing, folders)
    return {name: folders[name] for name in architectures}


def _train(home: Path, photographs: Path, names: Sequence[str], folders: Mapping[str, Path]) -> None:
    files = find(photographs)
    examples = home / "examples"
    for number, (label, paths) in enumerate(_by_label([(file.label, file.path) for file in files]).items()):
        for place, path in enumerate(paths[: PER_CLASS * len(GLASS)]):
            colour = list(GLASS)[place % len(GLASS)]
            target = examples / f"{colour}-{label}" / f"{number}-{place}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_encode(_behind(Image.open(path), colour)))
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        client.push("pictures", examples)
        for name in names:
            print(f"Training and exporting {name}.", flush=True)
            architecture, recipe = name.removesuffix(INT8), RECIPES[name]
            run = client.train("pictures", model=model_id(name), architecture=architecture, **recipe)
            exported = client.export(run.result().model_version, home / f"{name}.zip").path
            with zipfile.ZipFile(exported) as archive:
                archive.extractall(folders[name])


def model_id(architecture: str) -> str:
    return architecture.replace("_", "-")


def pictures(folder: Path, photographs: Path) -> Path:
    """A folder of JPEG files of some 46 kB and 500 x 375 pixels, which none was trained on; `label` is their class."""
    folder.mkdir()
    by_label = _by_label([(file.label, file.path) for file in find(photographs)])
    for place in range(NUM_PICTURES):
        label, colour = list(by_label)[place % len(by_label)], list(GLASS)[place % len(GLASS)]
        image = _behind(Image.open(by_label[label][-1 - place // len(by_label)]), colour)
        candidates = [_encode(image, quality) for quality in QUALITIES]
        data = min(candidates, key=lambda one: abs(len(one) - NUM_BYTES))
        (folder / f"{place:02}-{colour}-{label}.jpg").write_bytes(data)
    return folder


def label(picture: Path) -> str:
    """The class of a picture by its name."""
    return picture.stem.partition("-")[2]


def _by_label(files: Sequence[tuple[str, Path]]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for label, path in sorted(files):
        found.setdefault(label, []).append(path)
    return found


def _behind(image: Image.Image, colour: str) -> Image.Image:
    fitted, glass = ImageOps.fit(image.convert("RGB"), SIZE), GLASS[colour]
    return fitted if glass is None else Image.blend(fitted, Image.new("RGB", SIZE, glass), 0.4)


def _encode(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
