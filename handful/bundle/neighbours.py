"""How far an input is from everything that a model was fitted on, and beyond which distance it is like none of it.

The distance is one minus the mean cosine between the input's features and those of its `NEAREST` nearest training
examples. Features are taken as the backbone gives them, not as the head centres them: what all of the classes have in
common tells something else entirely from them (measured: docs/why.md). A cosine of features says little about things
that look alike, so a strange breed of dog may well be near a model of dogs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats
from handful.bundle.rows import CoarseRows, Rows, read
from handful.bundle.tensors import Tensors, load, save
from handful.v1 import bundle_pb2

FILE = "neighbours.safetensors"
NEAREST = 3
# Of inputs like the training examples, the share that shall be known (before rounding to their number).
KNOWN = 0.95
# More training examples than these tell little more, and all of them are compared with at each prediction.
MAX_ROWS = 500
# What an example's features may be off by on another processor or runtime; a model of copies knows one more of them.
MIN_DISTANCE = 1e-5
# The farthest of m held-out examples is nearer than one new one in m + 1, whatever the features: one in 6 at worst.
MIN_HELD_OUT = 5


@dataclass(frozen=True)
class Near:
    """A training example near an input: the SHA-256 of its content, the index of its class, and one minus the cosine of
    the features, in [0, 2].
    """

    content_sha256: str
    label: int
    distance: float


@dataclass(frozen=True)
class Named:
    """Which examples rows are of: `contents` uint8[n, 32], SHA-256 of what is stored; `labels` int32[n], their
    classes' indices. Models of earlier releases do not say: then n is 0.
    """

    contents: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def of(cls, contents: Sequence[str], labels: npt.NDArray[np.int64]) -> "Named":
        """Of hashes in hex."""
        digests = np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, 32)
        return cls(digests, labels.astype(np.int32))

    def taken(self, places: npt.NDArray[np.intp]) -> "Named":
        """Some of them."""
        return Named(self.contents[places], self.labels[places]) if len(self.labels) else self


@dataclass(frozen=True)
class Neighbours:
    """`rows`: features of training examples scaled to length 1; `nearest`, how many of them count; `max_distance`, in
    [0, 2]: what is farther away is unknown.
    """

    rows: Rows
    nearest: int
    max_distance: float
    named: Named = field(default_factory=Named)

    def distances(self, features: Floats) -> Floats:
        """float32[n], in [0, 2], of float32[n, feature_width]."""
        return _distances(self._cosines(features), self.nearest)

    def nearest_to(self, features: Floats, count: int) -> tuple[Near, ...]:
        """The nearest examples to float32[feature_width], nearest first; none where the model does not name them."""
        if not len(self.named.labels):
            return ()
        distances = 1 - self._cosines(features[None])[0]
        return tuple(
            Near(self.named.contents[place].tobytes().hex(), int(self.named.labels[place]), float(distances[place]))
            for place in np.argsort(distances, kind="stable")[:count]
        )

    def _cosines(self, features: Floats) -> Floats:
        """float32[n, rows] of float32[n, feature_width]."""
        return self.rows.cosines(_unit(features))

    @property
    def num_bytes(self) -> int:
        return self.rows.num_bytes + self.named.contents.nbytes + self.named.labels.nbytes

    def to_bytes(self) -> bytes:
        """The rows, and which examples they are of, as a safetensors file."""
        tensors = self.rows.tensors()
        if len(self.named.labels):
            tensors |= {"contents": self.named.contents, "labels": self.named.labels}
        return save(tensors)

    @classmethod
    def from_bytes(cls, described: bundle_pb2.Neighbours, data: bytes) -> "Neighbours":
        """ValueError where the file is none of ours."""
        try:
            tensors = load(data)
            rows = read(tensors)
        except Exception as problem:
            raise ValueError("not neighbours") from problem
        if not 0 < described.nearest <= len(rows):
            raise ValueError("not neighbours")
        return cls(rows, described.nearest, described.max_distance, _named(tensors, len(rows)))


def fit(features: Floats, groups: Sequence[str], named: Named | None = None) -> Neighbours | None:
    """The neighbours among float32[n, feature_width], with the distance that ceil(0.95 (n + 1)) of them keep from the
    others (split conformal prediction, https://arxiv.org/abs/2107.07511, with leave-one-out distances), at most the
    largest. An example is not compared with those of its own group. None where there are fewer than `NEAREST` groups
    besides an example's own.
    """
    if len(set(groups)) <= NEAREST:
        return None
    kept = _thinned(len(features))
    unit = _unit(features[kept])
    rows, same = CoarseRows.of(unit), np.array(groups)[kept]
    cosines = rows.cosines(unit)
    cosines[same[:, None] == same] = -1
    return Neighbours(rows, NEAREST, _limit(_distances(cosines, NEAREST)), (named or Named()).taken(kept))


def widened(known: Neighbours, held_out: Floats) -> Neighbours | None:
    """The neighbours in features of a body that was trained on them, and so may have drawn them together: the limit is
    at least what ceil(0.95 (m + 1)) of m others, float32[m, feature_width], keep, at most the largest. None where there
    are fewer than `MIN_HELD_OUT` of these.
    """
    if len(held_out) < MIN_HELD_OUT:
        return None
    return replace(known, max_distance=max(known.max_distance, _limit(known.distances(held_out))))


def _thinned(count: int) -> npt.NDArray[np.intp]:
    """Places of at most `MAX_ROWS` of so many rows, evenly chosen."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_ROWS)).round().astype(np.intp))


def _limit(distances: Floats) -> float:
    """What ceil(0.95 (n + 1)) of them keep, at most the largest; at least `MIN_DISTANCE`."""
    place = min(math.ceil(KNOWN * (len(distances) + 1)), len(distances))
    return max(float(np.sort(distances)[place - 1]), MIN_DISTANCE)


def _named(tensors: Tensors, count: int) -> Named:
    """Which examples rows are of; ValueError where that is not what a file of ours says."""
    if "contents" not in tensors:
        return Named()
    contents, labels = tensors["contents"], tensors["labels"]
    if (
        contents.dtype != np.uint8
        or labels.dtype != np.int32
        or (contents.shape, labels.shape) != ((count, 32), (count,))
    ):
        raise ValueError("not neighbours")
    return Named(contents, labels)


def _distances(cosines: Floats, nearest: int) -> Floats:
    best = -np.partition(-cosines, nearest - 1, axis=1)[:, :nearest]
    distances: Floats = (1 - best.mean(axis=1)).astype(np.float32)
    return distances


def _unit(features: Floats) -> Floats:
    scaled: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return scaled
