"""A merged graph with a page for browsers and a script for Node, and what these read. They run it by ONNX Runtime Web,
which is not carried: `runtime.json` says its version, where it is had, and the hashes it must have.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from handful.bundle import golden, neighbours
from handful.bundle.neighbours import Neighbours
from services.trainer.exports.bundle import Bundle

SHIPPED = Path(__file__).parent / "shipped" / "browser"
_ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png", b"RIF": "webp"}


def page(bundle: Bundle, graph: bytes) -> dict[str, bytes]:
    """The files of the page and the script."""
    return {
        "model.onnx": graph,
        **{path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()},
        **_golden(bundle),
        **_neighbours(bundle),
    }


def _golden(bundle: Bundle) -> dict[str, bytes]:
    tensors = load(bundle.files[golden.FILE])
    picture = tensors["picture"].tobytes()
    name = f"golden.{_ENDINGS[picture[:3]]}"
    told = {"picture": name, "probabilities": tensors["probabilities"].tolist()}
    return {"golden.json": json.dumps(told).encode(), "golden.bin": tensors["pixels"].tobytes(), name: picture}


def _neighbours(bundle: Bundle) -> dict[str, bytes]:
    """Without any, where the model cannot tell what is unknown."""
    described = bundle.model.neighbours
    there = bundle.model.HasField("neighbours")
    rows = Neighbours.from_bytes(described, bundle.files[neighbours.FILE]).rows.plain() if there else np.zeros(0)
    told = {"nearest": described.nearest, "max_distance": described.max_distance}
    return {"neighbours.json": json.dumps(told).encode(), "neighbours.bin": rows.astype("<f4").tobytes()}
