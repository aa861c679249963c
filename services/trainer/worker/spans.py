"""Rows in as few coordinates as they need. Fewer rows than features lie in a space no wider than they are many: rotated
into it, distances, angles and means are what they were, and whatever is fitted there costs a fraction. Exact.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats, LinearHead


@dataclass(frozen=True)
class Span:
    """`rows` float32[n, min(n, width)] are the features, float32[n, width], in the directions of `basis`
    float64[width, min(n, width)]; as they are, and without a basis, where there are no fewer rows than features. `mean`
    float32[width] is that of the features. Of examples with augmented views, features are float32[n, 1 + views, width],
    the plain ones first, and so are rows, as wide as there are of all of them.
    """

    rows: Floats
    mean: Floats
    basis: npt.NDArray[np.float64] | None
    width: int

    @classmethod
    def of(cls, features: Floats) -> "Span":
        width = features.shape[-1]
        every = features.reshape(-1, width)
        mean: Floats = every.mean(axis=0)
        if len(every) >= width:
            return cls(features, mean, None, width)
        basis, rows = np.linalg.qr(every.T.astype(np.float64))
        narrow = np.ascontiguousarray(rows.T, dtype=np.float32)
        return cls(narrow.reshape(*features.shape[:-1], len(every)), mean, basis, width)

    @property
    def plain(self) -> Floats:
        """float32[n, m]: the rows without augmented views."""
        return plain(self.rows)

    @property
    def per_example(self) -> int:
        """How many rows an example has."""
        return 1 if self.rows.ndim == 2 else self.rows.shape[1]  # noqa: PLR2004

    @property
    def scale(self) -> float:
        """How much longer a head makes its rows at the features' width than at the rows' own."""
        return float(np.sqrt(self.width / self.rows.shape[-1]))

    def back(self, head: LinearHead) -> LinearHead:
        """A head that was fitted on all of the rows, as one on features."""
        if self.basis is None:
            return head
        weight = (head.weight / self.scale) @ self.basis.T
        return LinearHead(head.normalization, weight.astype(np.float32), head.bias, self.mean)


def plain(rows: Floats) -> Floats:
    """float32[n, m] of rows with or without augmented views."""
    return rows if rows.ndim == 2 else rows[:, 0]  # noqa: PLR2004


def flat(rows: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Every view as a row of its own, float32[n (1 + views), m], and the class of each."""
    return (rows, labels) if rows.ndim == 2 else (rows.reshape(-1, rows.shape[-1]), np.repeat(labels, rows.shape[1]))  # noqa: PLR2004
