"""Numbers by name, as safetensors files have them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import numpy as files

Tensors = dict[str, npt.NDArray[Any]]


def load(data: bytes) -> Tensors:
    """In memory of their own: the library gives views, each of which holds half a kilobyte beside its numbers."""
    return {name: view.copy() for name, view in files.load(data).items()}


def save(tensors: Tensors) -> bytes:
    """The library writes memory as it lies, and would write other numbers of a transposed array."""
    return files.save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
