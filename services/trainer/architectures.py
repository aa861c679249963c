"""The catalogue of architectures: a row each, without torch. What builds a row lives in `worker/architectures`, and
`weights.lock.json` pins each row's pretrained weights with the preprocessing they were trained with.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from handful.errors import InvalidArgument
from handful.v1 import bundle_pb2, trainer_pb2

_LOCK: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("weights.lock.json").read_text())


@dataclass(frozen=True, kw_only=True)
class PinnedWeights:
    """Pretrained weights: which file is meant, by its SHA-256, and where it comes from: out of an installed Python
    package, or from an address.
    """

    sha256: str
    # Who says that this is the file's SHA-256.
    sha256_from: str
    # The file's size, or, where it is only known by rounding, the most it can be.
    max_bytes: int
    # SPDX id, and what else is known of the terms.
    license: str
    license_note: str = ""
    distribution: str = ""
    path: str = ""
    url: str = ""

    @property
    def source(self) -> str:
        return self.url or f"python package {self.distribution}"

    def locate(self) -> Path | None:
        """The file, where a package installed here carries it; its content is not looked at."""
        if not self.distribution:
            return None
        try:
            path = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.path)))
        except importlib.metadata.PackageNotFoundError:
            return None
        return path if path.is_file() else None


@dataclass(frozen=True)
class TorchNetwork:
    """Where PyTorch code gets the network from: a library, `timm` or `torchvision`, and its name there. An exported
    model's `model.py` builds it by these and loads the body's state dict into it.
    """

    library: str
    name: str


@dataclass(frozen=True, kw_only=True)
class ArchitectureRow:
    """An architecture: its body's size and cost, its input, and where its weights come from."""

    id: str
    network: TorchNetwork
    description: str
    modality: "bundle_pb2.Modality.ValueType"
    num_parameters: int
    # Multiply-adds of one forward pass of the body, in units of 1e9, as torch's FlopCounterMode counts them.
    gflops: float
    feature_width: int
    preprocessing: bundle_pb2.ImagePreprocessing
    # The graph computes (pixel / 255 - mean) / std, per channel.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: PinnedWeights


def _pinned(architecture: str) -> dict[str, Any]:
    """The fields of a row that the lock file has."""
    entry = _LOCK[architecture]
    return {
        "preprocessing": json_format.ParseDict(entry["preprocessing"], bundle_pb2.ImagePreprocessing()),
        "mean": tuple(entry["mean"]),
        "std": tuple(entry["std"]),
        "weights": PinnedWeights(**entry["file"]),
    }


ARCHITECTURES: dict[str, ArchitectureRow] = {
    row.id: row
    for row in (
        ArchitectureRow(
            id="efficientnet_lite0",
            network=TorchNetwork("timm", "tf_efficientnet_lite0"),
            description="EfficientNet-Lite0: small, quick on a CPU, good features.",
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=3_371_008,
            gflops=0.384,
            feature_width=1280,
            **_pinned("efficientnet_lite0"),
        ),
        ArchitectureRow(
            id="efficientnet_lite1",
            network=TorchNetwork("timm", "tf_efficientnet_lite1"),
            description="EfficientNet-Lite1: half as slow again as Lite0, better features.",
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=4_135_680,
            gflops=0.599,
            feature_width=1280,
            **_pinned("efficientnet_lite1"),
        ),
        ArchitectureRow(
            id="efficientnet_lite2",
            network=TorchNetwork("timm", "tf_efficientnet_lite2"),
            description="EfficientNet-Lite2: twice as slow as Lite0, better features still.",
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=4_811_072,
            gflops=0.858,
            feature_width=1280,
            **_pinned("efficientnet_lite2"),
        ),
        ArchitectureRow(
            id="efficientnet_b0",
            network=TorchNetwork("torchvision", "efficientnet_b0"),
            description="EfficientNet-B0: the textbook network; of Lite0's size, slower to serve.",
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=4_007_548,
            gflops=0.385,
            feature_width=1280,
            **_pinned("efficientnet_b0"),
        ),
        ArchitectureRow(
            id="efficientnet_b7",
            network=TorchNetwork("torchvision", "efficientnet_b7"),
            description="EfficientNet-B7: a hundred times the work of B0, on large pictures; for an accelerator.",
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=63_786_960,
            gflops=37.7,
            feature_width=2560,
            **_pinned("efficientnet_b7"),
        ),
    )
}
DEFAULT_ARCHITECTURE = "efficientnet_lite0"


def find(architecture: str, field: str) -> ArchitectureRow:
    """The row; InvalidArgument that lists what there is."""
    row = ARCHITECTURES.get(architecture)
    if row is None:
        raise InvalidArgument.fields([(field, f"{architecture!r} is unknown; there are: {', '.join(ARCHITECTURES)}")])
    return row


def backbone_id(architecture: str, preprocessing: bundle_pb2.ImagePreprocessing, weights_sha256: str) -> str:
    """The id of a body with weights, as one kind of input comes to it; lower-case hex."""
    identity = {
        "architecture": architecture,
        "output": "features",
        "preprocessing": json_format.MessageToDict(preprocessing, preserving_proto_field_name=True),
        "weights_sha256": weights_sha256,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()


def message(
    row: ArchitectureRow, default: str, state: "trainer_pb2.Architecture.WeightsState.ValueType"
) -> trainer_pb2.Architecture:
    return trainer_pb2.Architecture(
        id=row.id,
        description=row.description,
        modality=row.modality,
        num_parameters=row.num_parameters,
        gflops=row.gflops,
        input_size=row.preprocessing.size,
        feature_width=row.feature_width,
        weights_source=row.weights.source,
        weights_license=row.weights.license,
        weights_license_note=row.weights.license_note,
        weights_sha256=row.weights.sha256,
        weights_max_bytes=row.weights.max_bytes,
        weights_state=state,
        is_default=row.id == default,
    )
