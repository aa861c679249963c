"""Tensors on disk, as arrays: torch is needed for a run's own checkpoints alone, the one pickle that is opened, with
`weights_only=True`, and only where its SHA-256 is in our own database.

Functions that take arrays take torch's tensors too, where they are on the CPU.
"""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from services.trainer.worker.pretrained.torch_files import Arrays, NotTensors, read


class NotWeights(Exception):
    """A file does not hold the weights that it should; the message says why, as the end of a sentence."""


def official(data: bytes, sha256: str, reading: Callable[[bytes], Arrays] = read) -> Arrays:
    """The tensors of the official weights file of that SHA-256, in its order; NotWeights. `reading` gets them out of
    its bytes, or raises NotTensors.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise NotWeights(f"its SHA-256 is {found}, not {sha256}")
    try:
        return reading(data)
    except NotTensors as problem:
        raise NotWeights(f"it holds something else than tensors: {problem}") from problem


def to_kept(tensors: Arrays, sha256: str) -> bytes:
    """The tensors of the official file of that SHA-256 as the safetensors file that we keep: it names that file, the
    order of its tensors, and their own hash.
    """
    metadata = {
        "format": "pt",
        "source_sha256": sha256,
        "tensors_sha256": tensors_sha256(tensors),
        "order": json.dumps(list(tensors)),
    }
    return save(_contiguous(tensors), metadata)


def kept(data: bytes, sha256: str) -> Arrays:
    """The tensors of a file that `to_kept` made from the official file of that SHA-256, in its order; NotWeights."""
    try:
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        source, stored, order = metadata["source_sha256"], metadata["tensors_sha256"], json.loads(metadata["order"])
        tensors = {name: tensors.pop(name) for name in order}
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise NotWeights("it is no weights file that Handful made") from problem
    if source != sha256:
        raise NotWeights(f"it was made from the file of SHA-256 {source}, not {sha256}")
    if stored != tensors_sha256(tensors):
        raise NotWeights("its tensors are not what their hash says")
    return tensors


def load_checkpoint(data: bytes) -> dict[str, Any]:
    """A checkpoint of ours, whose SHA-256 was checked against the trainer's database when it was read."""
    import torch

    loaded: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return loaded


def tensors_sha256(tensors: Arrays) -> str:
    """SHA-256 over names, shapes and bytes of tensors, sorted by name; lower-case hex."""
    digest = hashlib.sha256()
    for name, array in sorted(_contiguous(tensors).items()):
        digest.update(f"{name} {array.shape} torch.{array.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def to_safetensors(tensors: Arrays) -> bytes:
    """A state dict as a safetensors file; equal tensors give equal bytes."""
    return save(_contiguous(tensors))


def _contiguous(tensors: Arrays) -> Arrays:
    return {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
