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
    float32[width] is that of the features.
    """

    rows: Floats
    mean: Floats
    basis: npt.NDArray[np.float64] | None
    width: int

    @classmethod
    def of(cls, features: Floats) -> "Span":
        mean: Floats = features.mean(axis=0)
        num_rows, width = features.shape
        if num_rows >= width:
            return cls(features, mean, None, width)
        basis, rows = np.linalg.qr(features.T.astype(np.float64))
        return cls(np.ascontiguousarray(rows.T, dtype=np.float32), mean, basis, width)

    @property
    def scale(self) -> float:
        """How much longer a head makes its rows at the features' width than at the rows' own."""
        return float(np.sqrt(self.width / self.rows.shape[1]))

    def back(self, head: LinearHead) -> LinearHead:
        """A head that was fitted on all of the rows, as one on features."""
        if self.basis is None:
            return head
        weight = (head.weight / self.scale) @ self.basis.T
        return LinearHead(head.normalization, weight.astype(np.float32), head.bias, self.mean)
