"""What stands in an export, made of a bundle alone: equal bundles give equal files."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from handful.bundle import images, manifest, neighbours, recordings, sounds
from handful.bundle.heads import LinearHead
from handful.bundle.predictor import plain, spectrograms
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, Head
from services.trainer.exports import archive, card
from services.trainer.exports.bundle import Bundle
from services.trainer.exports.merging import merge

SHIPPED = Path(__file__).parent / "shipped"
SHIPPED_SOUND = SHIPPED / "sound"
# Where a bundle lies in a zip, and what it is loaded back from.
FOLDER = "bundle"


def make(bundle: Bundle) -> dict[str, bytes]:
    """The files, by their names in the zip."""
    return {**_common(bundle), **(_of_sounds(bundle) if bundle.of_sounds else _of_pictures(bundle))}


def _common(bundle: Bundle) -> dict[str, bytes]:
    model = bundle.model
    head = LinearHead.from_bytes(model.head, bundle.files["head.safetensors"])
    id2label = dict(enumerate(model.labels))
    label2id = {label: index for index, label in id2label.items()}
    return {
        "README.md": card.write(bundle).encode(),
        "model.onnx": merge(bundle.graph, head),
        "labels.json": _json({"id2label": id2label, "label2id": label2id}),
        "golden.npz": _npz(load(bundle.files["golden.safetensors"])),
        **_neighbours(bundle),
        **card.licenses(bundle),
        **{f"{FOLDER}/{name}": data for name, data in _bundled(bundle).items()},
    }


def _of_sounds(bundle: Bundle) -> dict[str, bytes]:
    how = bundle.model.backbone.sound_preprocessing
    preprocessing = {"piece_seconds": how.piece_seconds, "spectrograms": list(map(vars, spectrograms(how)))}
    return {
        "preprocessing.json": _json(preprocessing),
        "sounds.py": Path(sounds.__file__).read_bytes(),
        "recordings.py": Path(recordings.__file__).read_bytes(),
        **_shipped(SHIPPED_SOUND),
    }


def _of_pictures(bundle: Bundle) -> dict[str, bytes]:
    model, row = bundle.model, bundle.row
    network = {
        "library": row.network.library,
        "name": row.network.name,
        "options": dict(row.network.options),
        "feature_width": row.feature_width,
        "normalization": Head.Normalization.Name(model.head.normalization).removeprefix("NORMALIZATION_").lower(),
    }
    preprocessing = {"image": vars(plain(model.backbone.preprocessing)), "mean": row.mean, "std": row.std}
    files = {
        "network.json": _json(network),
        "preprocessing.json": _json(preprocessing),
        "images.py": Path(images.__file__).read_bytes(),
        **_shipped(SHIPPED),
    }
    if model.backbone.precision == BACKBONE_PRECISION_INT8:  # the weights are of float32, whose features are others
        del files["network.json"], files["model.py"]
    return files


def _bundled(bundle: Bundle) -> dict[str, bytes]:
    return {
        "manifest.json": bundle.described,
        manifest.BACKBONE_GRAPH: bundle.graph,
        manifest.BACKBONE_WEIGHTS: bundle.weights,
        **bundle.files,
    }


def _shipped(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _neighbours(bundle: Bundle) -> dict[str, bytes]:
    if not bundle.model.HasField("neighbours"):
        return {}
    described = bundle.model.neighbours
    numbers = {"nearest": np.array(described.nearest), "max_distance": np.array(described.max_distance)}
    return {"neighbours.npz": _npz({**load(bundle.files[neighbours.FILE]), **numbers})}


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """What numpy.savez writes, but for the time of day."""
    npz = io.BytesIO()
    archive.write(npz, {f"{name}.npy": _npy(array) for name, array in arrays.items()})
    return npz.getvalue()


def _npy(array: npt.NDArray[Any]) -> bytes:
    npy = io.BytesIO()
    np.save(npy, array, allow_pickle=False)
    return npy.getvalue()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
