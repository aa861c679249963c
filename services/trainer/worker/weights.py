"""Tensors on disk. The one module that opens a pickle, and only with `weights_only=True` and only where its SHA-256 is
in the catalogue or in our own database.
"""

import hashlib
import io
import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save


class NotWeights(Exception):
    """A file does not hold the weights that it should; the message says why, as the end of a sentence."""


def official(data: bytes, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of the official weights file of that SHA-256, in its order; NotWeights."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise NotWeights(f"its SHA-256 is {found}, not {sha256}")
    try:
        loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as problem:
        raise NotWeights("it holds something else than tensors") from problem
    if not isinstance(loaded, dict) or not all(isinstance(one, torch.Tensor) for one in loaded.values()):
        raise NotWeights("it holds something else than tensors")
    return dict(loaded)


def to_kept(tensors: dict[str, torch.Tensor], sha256: str) -> bytes:
    """The tensors of the official file of that SHA-256 as the safetensors file that we keep: it names that file, the
    order of its tensors, and their own hash.
    """
    metadata = {
        "format": "pt",
        "source_sha256": sha256,
        "tensors_sha256": tensors_sha256(tensors),
        "order": json.dumps(list(tensors)),
    }
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def kept(data: bytes, sha256: str) -> dict[str, torch.Tensor]:
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
    loaded: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return loaded


def tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of tensors, sorted by name; lower-case hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def to_safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    """A state dict as a safetensors file; equal tensors give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
