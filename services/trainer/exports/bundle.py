"""A bundle as bytes: what of the store makes a model, hash-checked."""

from dataclasses import dataclass
from functools import cached_property

from handful.bundle import manifest
from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import Evaluation, ModelManifest
from services.shared.objects import ObjectStore, get_first
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.sound_architectures import SOUND_ARCHITECTURES, SoundArchitectureRow


class Unreadable(Exception):
    """A bundle is whole, and what it holds is none of ours, or not of this version."""


@dataclass(frozen=True)
class Bundle:
    """A model's manifest, the files that it lists, and its backbone's graph and weights."""

    described: bytes
    files: dict[str, bytes]
    graph: bytes
    weights: bytes

    @classmethod
    def read(cls, store: ObjectStore, project: str, digest: str) -> "Bundle":
        """The bundle of a manifest. ObjectMissing or ObjectCorrupt where it is not whole, Unreadable."""
        described = store.get(manifest.bundle_key(project, digest, "manifest.json"), digest)
        try:
            model = manifest.from_bytes(ModelManifest, described)
        except ValueError as problem:
            raise Unreadable(digest) from problem
        backbone = model.backbone
        keys = {file.path: manifest.bundle_key(project, digest, file.path) for file in model.files}
        return cls(
            described=described,
            files={file.path: store.get(keys[file.path], file.sha256) for file in model.files},
            graph=get_first(store, manifest.graph_keys(project, backbone, digest), backbone.graph_sha256),
            weights=get_first(store, manifest.weights_keys(project, backbone, digest), backbone.weights_file_sha256),
        )

    @cached_property
    def model(self) -> ModelManifest:
        return manifest.from_bytes(ModelManifest, self.described)

    @property
    def evaluation(self) -> Evaluation:
        return manifest.from_bytes(Evaluation, self.files["evaluation.json"])

    @property
    def of_sounds(self) -> bool:
        return self.model.backbone.HasField("sound_preprocessing")

    @property
    def sound_row(self) -> SoundArchitectureRow:
        """As `row`, of a model of sounds."""
        architecture = self.model.backbone.architecture
        if architecture not in SOUND_ARCHITECTURES:
            raise FailedPrecondition(
                f"This server does not know the architecture {architecture}.", reason="BUNDLE_UNKNOWN"
            )
        return SOUND_ARCHITECTURES[architecture]

    @property
    def row(self) -> ArchitectureRow:
        """Its architecture in the catalogue. FailedPrecondition where that has none of the name."""
        architecture = self.model.backbone.architecture
        if architecture not in ARCHITECTURES:
            raise FailedPrecondition(
                f"This server does not know the architecture {architecture}, so it cannot say how PyTorch builds it.",
                reason="BUNDLE_UNKNOWN",
            )
        return ARCHITECTURES[architecture]
