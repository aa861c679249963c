"""The examples of a run: which there are, and their pixels, straight from the object store, hash-checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handful.bundle.manifest import blob_key, dataset_manifest_key, from_bytes
from handful.bundle.predictor import Pixels, to_pixels
from handful.v1.bundle_pb2 import SPLIT_TRAIN, SPLIT_VAL, DatasetManifest, ImagePreprocessing, Modality
from services.shared.objects import ObjectStore


@dataclass(frozen=True)
class Example:
    """One picture: its content, the index of its class, and the group that splits and folds never divide."""

    content_sha256: str
    label: int
    group: str


@dataclass(frozen=True)
class Examples:
    """A sealed dataset version, as training sees it."""

    project: str
    modality: "Modality.ValueType"
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    val: tuple[Example, ...]

    @classmethod
    def load(cls, store: ObjectStore, project: str, manifest_sha256: str) -> "Examples":
        data = store.get(dataset_manifest_key(project, manifest_sha256), manifest_sha256)
        manifest = from_bytes(DatasetManifest, data)
        index = {label: position for position, label in enumerate(manifest.labels)}
        split: dict[int, list[Example]] = {SPLIT_TRAIN: [], SPLIT_VAL: []}
        for one in manifest.examples:
            split[one.split].append(Example(one.content_sha256, index[one.label], one.group))
        return cls(
            project, manifest.modality, tuple(manifest.labels), tuple(split[SPLIT_TRAIN]), tuple(split[SPLIT_VAL])
        )

    def pixels(self, store: ObjectStore, example: Example, preprocessing: ImagePreprocessing) -> Pixels:
        """uint8[size, size, 3]."""
        return to_pixels(self.data(store, example), preprocessing)

    def data(self, store: ObjectStore, example: Example) -> bytes:
        """The picture as it is stored: JPEG or PNG."""
        return store.get(blob_key(self.project, example.content_sha256), example.content_sha256)


def targets(examples: Sequence[Example]) -> npt.NDArray[np.int64]:
    """The class indices, int64[n]."""
    return np.array([example.label for example in examples], dtype=np.int64)
