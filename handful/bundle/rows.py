"""Features of training examples as a model keeps them, and their cosines to others. It does not know what they tell.

A server has thousands of models in memory, and these rows would be most of it, so a number takes two bits. What rows
have in common, their centre, is kept apart; the rest of each is rotated, so that no number in it stands out, and
rounded to one of four levels. Each row has two factors, of the centre and of its levels, by which its cosines to itself
and to the centre are exact; those to others then err by what these have in common with neither (docs/why.md).
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.bundle.tensors import Tensors

# So many numbers are multiplied at once. Of 460,800 and more OpenBLAS gives some to threads of its own, which cost a
# server many times what the product does (`benchmarks/distances.py`).
PRODUCT = 2**18
# Levels lie at -1.5, -0.5, 0.5 and 1.5 steps; of normal numbers whose deviation is 1 this step loses least (J. Max,
# Quantizing for minimum distortion, 1960).
STEP, MIDDLE, HIGHEST = 0.9957, 1.5, 3
# A byte has the levels of so many numbers, each two bits; they lie a quarter of the row apart.
QUARTERS, BITS = 4, 2
# Numbers are rotated in blocks of SIDE x SIDE; the last is filled up with zeros.
SIDE = 16
_TINY = 1e-12


class Rows(Protocol):
    """Rows of length 1, as near as they are kept."""

    @property
    def width(self) -> int:
        """Numbers in a row."""

    @property
    def num_bytes(self) -> int: ...

    def __len__(self) -> int: ...

    def cosines(self, unit: Floats) -> Floats:
        """float32[n, rows] of float32[n, width], rows of length 1."""

    def plain(self) -> Floats:
        """float32[rows, width], whose products are the cosines."""

    def tensors(self) -> Tensors:
        """What is written of them, by name."""


@dataclass(frozen=True)
class HalfRows:
    """float16[n, width], as earlier releases kept them."""

    values: npt.NDArray[np.float16]

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def num_bytes(self) -> int:
        return self.values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def cosines(self, unit: Floats) -> Floats:
        step = max(1, PRODUCT // self.width)
        parts = [self.values[first : first + step] for first in range(0, len(self), step)]
        return np.concatenate([unit @ _widened(part).T for part in parts], axis=1)

    def plain(self) -> Floats:
        return self.values.astype(np.float32)

    def tensors(self) -> Tensors:
        return {"rows": self.values}


@dataclass(frozen=True)
class CoarseRows:
    """A row is `along` x `centre` + `scales` x its levels, rotated back: `codes` uint8[n, quarter], of four numbers
    each; `centre` float16[width]; `along` and `scales` float32[n].
    """

    codes: npt.NDArray[np.uint8]
    centre: npt.NDArray[np.float16]
    along: Floats
    scales: Floats

    @classmethod
    def of(cls, unit: Floats) -> "CoarseRows":
        """Of float32[n, width], rows of length 1."""
        mean = unit.mean(axis=0)
        centre = (mean / max(float(np.linalg.norm(mean)), _TINY)).astype(np.float16)
        wide = centre.astype(np.float32)
        shares = unit @ wide / max(float(wide @ wide), _TINY)
        rest = unit - shares[:, None] * wide
        turned = _rotated(rest)
        steps = STEP * np.sqrt((turned**2).mean(axis=1, keepdims=True))
        places = np.clip(np.floor(turned / np.maximum(steps, _TINY)) + HIGHEST - 1, 0, HIGHEST).astype(np.uint8)
        quarters = np.split(places, QUARTERS, axis=1)
        codes = np.bitwise_or.reduce([one << BITS * place for place, one in enumerate(quarters)])
        levels = places.astype(np.float32) - MIDDLE
        scales = (rest**2).sum(axis=1) / np.maximum((turned * levels).sum(axis=1), _TINY)
        along = shares - scales * (levels @ _rotated(wide[None])[0]) / max(float(wide @ wide), _TINY)
        return cls(codes, centre, along.astype(np.float32), scales.astype(np.float32))

    @property
    def width(self) -> int:
        return len(self.centre)

    @property
    def num_bytes(self) -> int:
        return sum(one.nbytes for one in (self.codes, self.centre, self.along, self.scales))

    def __len__(self) -> int:
        return len(self.codes)

    def cosines(self, unit: Floats) -> Floats:
        centred = (unit @ self.centre.astype(np.float32))[:, None]
        turned, step = _rotated(unit), max(1, PRODUCT // self.codes.shape[1])
        parts = [self.codes[first : first + step] for first in range(0, len(self), step)]
        levels = np.concatenate([_products(turned, part) for part in parts], axis=1)
        found: Floats = np.clip(self.along * centred + self.scales * levels, -1, 1)
        return found

    def plain(self) -> Floats:
        places = [(self.codes >> BITS * place) & HIGHEST for place in range(QUARTERS)]
        levels = np.concatenate(places, axis=1).astype(np.float32) - MIDDLE
        rest = _rotated_back(levels, self.width)
        rows: Floats = self.along[:, None] * self.centre.astype(np.float32) + self.scales[:, None] * rest
        return rows

    def tensors(self) -> Tensors:
        return {"codes": self.codes, "centre": self.centre, "along": self.along, "scales": self.scales}


def read(tensors: Tensors) -> Rows:
    """ValueError or KeyError where the tensors are none of ours."""
    if "rows" in tensors:
        rows = tensors["rows"]
        _must(rows.ndim == 2 and rows.dtype == np.float16)  # noqa: PLR2004 - rows and columns
        return HalfRows(rows)
    codes, centre, along, scales = (tensors[name] for name in ("codes", "centre", "along", "scales"))
    _must([one.dtype.name for one in (codes, centre, along, scales)] == ["uint8", "float16", "float32", "float32"])
    _must(centre.ndim == 1 and codes.ndim == 2 and along.shape == scales.shape == codes.shape[:1])  # noqa: PLR2004
    _must(codes.shape[1] == _filled(len(centre)) // QUARTERS)
    return CoarseRows(codes, centre, along, scales)


def _products(turned: Floats, codes: npt.NDArray[np.uint8]) -> Floats:
    """float32[n, rows] of float32[n, 4 x quarter] and the levels in uint8[rows, quarter]. They stay where they lie in
    their bytes: what they are multiplied with is made as much smaller.
    """
    products = np.repeat(turned.sum(axis=1, keepdims=True) * -np.float32(MIDDLE), len(codes), axis=1)
    for place, part in enumerate(np.split(turned, QUARTERS, axis=1)):
        shift = BITS * place
        products += (part * 0.5**shift) @ (codes & np.uint8(HIGHEST << shift)).astype(np.float32).T
    return products


def _filled(width: int) -> int:
    """With the zeros."""
    return -(-width // SIDE**2) * SIDE**2


def _hadamard(side: int) -> Floats:
    """float32[side, side], a rotation that is its own inverse: J. J. Sylvester's matrix."""
    if side == 1:
        return np.ones((1, 1), np.float32)
    half = _hadamard(side // 2)
    return (np.block([[half, half], [half, -half]]) / 2**0.5).astype(np.float32)


_HADAMARD = _hadamard(SIDE)


@cache
def _signs(width: int) -> Floats:
    """float32[width] of 1 and -1 without a pattern, the same for ever: what is stored was turned by them."""
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"handful").digest(width // 8), np.uint8))
    return 1 - 2 * bits.astype(np.float32)


def _rotated(rows: Floats) -> Floats:
    """float32[n, filled] of float32[n, width]; lengths and products stay. Small products, all below what OpenBLAS gives
    to threads.
    """
    filled = np.zeros((len(rows), _filled(rows.shape[1])), np.float32)
    filled[:, : rows.shape[1]] = rows
    blocks = (filled * _signs(filled.shape[1])).reshape(-1, SIDE, SIDE)
    return (_HADAMARD @ blocks @ _HADAMARD).reshape(filled.shape)


def _rotated_back(rows: Floats, width: int) -> Floats:
    """float32[n, width] of float32[n, filled]."""
    blocks = _HADAMARD @ rows.reshape(-1, SIDE, SIDE) @ _HADAMARD
    return (blocks.reshape(rows.shape) * _signs(rows.shape[1]))[:, :width].astype(np.float32)


def _widened(rows: npt.NDArray[np.float16]) -> Floats:
    """The same numbers as float32, for all that are finite: every prediction needs them, and numpy takes several times
    as long. The bits of the sign, of the exponent and of the fraction move to where float32 has them, and the product
    makes up for the exponents' biases, 127 and 15 (IEEE 754-2019, 3.4).
    """
    bits = rows.view(np.int16).astype(np.int32) << 13
    bits &= ~np.int32(0b111 << 28)  # copies of the sign
    wide: Floats = bits.view(np.float32)
    wide *= np.float32(2.0 ** (127 - 15))
    return wide


def _must(right: bool) -> None:  # noqa: FBT001 - as in a sentence
    if not right:
        raise ValueError("not rows")
