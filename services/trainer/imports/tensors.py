"""Safetensors files that anyone may have sent. The library checks offsets and sizes; before it, the header is read for
what it would take as it comes, and after it, numbers must be numbers.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from handful.errors import InvalidArgument

MAX_HEADER = 1024 * 1024
DTYPES = {"F16", "F32", "I32", "I64", "U8"}

Tensors = dict[str, npt.NDArray[Any]]


def read(name: str, data: bytes) -> Tensors:
    """The tensors of a file. InvalidArgument CORRUPT_MODEL where it is none, or has a number that is not finite."""
    try:
        _check_header(data)
        tensors: Tensors = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as problem:
        raise InvalidArgument(f"{name} is no safetensors file of a model.", reason="CORRUPT_MODEL") from problem
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise InvalidArgument(f"{name} has numbers that are not finite.", reason="CORRUPT_MODEL")
    return tensors


def _check_header(data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(MAX_HEADER, len(data) - 8):
        raise ValueError("a header of this length")
    header = json.loads(data[8 : 8 + length], object_pairs_hook=_once)
    if not isinstance(header, dict) or not {one["dtype"] for one in header.values()} <= DTYPES:
        raise ValueError("a type that models do not have")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)
