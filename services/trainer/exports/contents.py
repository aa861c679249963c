"""What stands in an export, made of a bundle alone: equal bundles give equal files."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from handful.bundle import error_control, images, manifest, neighbours, recordings, sounds
from handful.bundle.error_control import Measured
from handful.bundle.heads import LinearHead
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import plain, spectrograms
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, Head
from services.trainer.exports import archive, card, intermediate
from services.trainer.exports.browser import page
from services.trainer.exports.bundle import Bundle
from services.trainer.exports.formats import Format
from services.trainer.exports.halving import halve
from services.trainer.exports.integers import to_integers
from services.trainer.exports.merging import merge

SHIPPED = Path(__file__).parent / "shipped"
# Where a bundle lies in a zip, and what it is loaded back from.
FOLDER = "bundle"
ERROR_CONTROL = "error_control.json"


def make(bundle: Bundle, wanted: Format, merged: bytes) -> dict[str, bytes]:
    """The files but for what is said of them, by their names in the zip, with its graph merged. FailedPrecondition
    FORMAT_UNSUITABLE where the network cannot be written so.
    """
    described = {**_described(bundle), ERROR_CONTROL: _json(_error_control(bundle, wanted))}
    with wanted.suits():
        return {**described, **_NETWORKS[wanted.name](bundle, merged)}


def merged(bundle: Bundle) -> bytes:
    """The model as one graph, which answers as it does."""
    return merge(bundle.graph, LinearHead.from_bytes(bundle.model.head, bundle.files["head.safetensors"]))


def _described(bundle: Bundle) -> dict[str, bytes]:
    """What stands in every format."""
    id2label = dict(enumerate(bundle.model.labels))
    label2id = {label: index for index, label in id2label.items()}
    return {
        "labels.json": _json({"id2label": id2label, "label2id": label2id}),
        "preprocessing.json": _json(_preprocessing(bundle)),
        **card.licenses(bundle),
    }


def _preprocessing(bundle: Bundle) -> dict[str, Any]:
    backbone = bundle.model.backbone
    if bundle.of_sounds:
        how = backbone.sound_preprocessing
        return {"piece_seconds": how.piece_seconds, "spectrograms": list(map(vars, spectrograms(how)))}
    return {"image": vars(plain(backbone.preprocessing)), "mean": bundle.row.mean, "std": bundle.row.std}


def _error_control(bundle: Bundle, wanted: Format) -> dict[str, Any]:
    """What was measured, None where nothing was, and why nothing is promised by it, empty where something may be."""
    known, refusal = bundle.model.error_control, wanted.promise_refusal
    if refusal or not bundle.model.HasField("error_control"):
        return {"refusal": refusal, "measured": None}
    measured = Measured(known.num_groups, list(known.min_confidences), list(known.errors))
    return {"refusal": "", "measured": measured._asdict()}


def _onnx(bundle: Bundle, merged: bytes) -> dict[str, bytes]:
    bundled = {f"{FOLDER}/{name}": data for name, data in _bundled(bundle).items()}
    torch = _pytorch(bundle) if _has_torch(bundle) else {}
    return {"model.onnx": merged, **_python(bundle, "onnx"), **torch, **bundled}


def _has_torch(bundle: Bundle) -> bool:
    """Whether `model.py` builds the network: one network of pictures, and none of integers, whose weights are those of
    float32 and whose features are others.
    """
    return not (bundle.of_sounds or bundle.row.members or bundle.model.backbone.precision == BACKBONE_PRECISION_INT8)


def _halved(bundle: Bundle, merged: bytes) -> dict[str, bytes]:
    return {"model.onnx": halve(merged), **_python(bundle, "onnx")}


def _integers(bundle: Bundle, merged: bytes) -> dict[str, bytes]:
    return {"model.onnx": to_integers(bundle, merged), **_python(bundle, "onnx")}


def _openvino(bundle: Bundle, merged: bytes) -> dict[str, bytes]:
    return {**intermediate.convert(merged), **_python(bundle, "openvino")}


# What each format has beyond `_described`: of a bundle and its merged graph.
_NETWORKS: dict[str, Callable[[Bundle, bytes], dict[str, bytes]]] = {
    "onnx": _onnx,
    "onnx-fp16": _halved,
    "onnx-int8": _integers,
    "openvino": _openvino,
    "browser": page,
}


def _python(bundle: Bundle, runner: str) -> dict[str, bytes]:
    """Ready code, with what runs the network."""
    modules = (error_control, *((sounds, recordings) if bundle.of_sounds else (images,)))
    folder = SHIPPED / "sound" if bundle.of_sounds else SHIPPED
    return {
        **{Path(str(one.__file__)).name: Path(str(one.__file__)).read_bytes() for one in modules},
        "predict.py": (folder / "predict.py").read_bytes(),
        "promise.py": (SHIPPED / "promise.py").read_bytes(),
        "golden.npz": _npz(load(bundle.files["golden.safetensors"])),
        **_neighbours(bundle),
        "runner.py": (SHIPPED / runner / "runner.py").read_bytes(),
        "requirements.txt": (folder / "requirements.txt").read_bytes()
        + (SHIPPED / runner / "requirements.txt").read_bytes(),
    }


def _pytorch(bundle: Bundle) -> dict[str, bytes]:
    model, row = bundle.model, bundle.row
    network = {
        "library": row.network.library,
        "name": row.network.name,
        "options": dict(row.network.options),
        "feature_width": row.feature_width,
        "normalization": Head.Normalization.Name(model.head.normalization).removeprefix("NORMALIZATION_").lower(),
    }
    return {"network.json": _json(network), "model.py": (SHIPPED / "model.py").read_bytes()}


def _bundled(bundle: Bundle) -> dict[str, bytes]:
    return {
        "manifest.json": bundle.described,
        manifest.BACKBONE_GRAPH: bundle.graph,
        manifest.BACKBONE_WEIGHTS: bundle.weights,
        **bundle.files,
    }


def _neighbours(bundle: Bundle) -> dict[str, bytes]:
    if not bundle.model.HasField("neighbours"):
        return {}
    known = Neighbours.from_bytes(bundle.model.neighbours, bundle.files[neighbours.FILE])
    numbers = {"nearest": np.array(known.nearest), "max_distance": np.array(known.max_distance)}
    return {"neighbours.npz": _npz({"rows": known.rows.plain(), **vars(known.named), **numbers})}


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
