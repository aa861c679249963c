"""The catalogue of architectures, without torch: `architectures.json` has a row each, and `weights.lock.json` how
pictures come to it and, where their whole SHA-256 is known, its pretrained weights. What builds a row lives in
`worker/architectures`.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from handful.errors import InvalidArgument
from handful.v1 import bundle_pb2, trainer_pb2
from services.trainer.choices import not_one_of


def _read(name: str) -> Any:
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


# The library that is an extra of its own, since its terms are.
ULTRALYTICS = "ultralytics"
_CODE_LICENSES = {ULTRALYTICS: "AGPL-3.0-only"}
LOCK: dict[str, dict[str, Any]] = _read("weights.lock.json")


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
    """Where PyTorch code gets the network from: a library, `timm`, `torchvision` or `ultralytics`, its name there, and
    what else it is built with. An exported model's `model.py` builds it by these and loads the body's state dict.
    """

    library: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


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
    # Of training all of it, estimated: `Architecture.training_memory_bytes` in trainer.proto says how.
    training_memory_bytes: int
    # Blocks of the body, as `worker/networks.py` counts them.
    num_blocks: int
    # Whether its graph is offered in integers too: where that was measured to be faster and as accurate
    # (`benchmarks/int8.py`).
    int8: bool
    # SPDX id of the code that builds it, where that asks more of what is made with it than ours does; else empty.
    code_license: str
    preprocessing: bundle_pb2.ImagePreprocessing
    # The graph computes (pixel / 255 - mean) / std, per channel.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # None where no pretrained weights are offered.
    weights: PinnedWeights | None

    @property
    def extra(self) -> str:
        """The extra that a worker needs for it; empty for what all have."""
        return "yolo" if self.network.library == ULTRALYTICS else ""

    @property
    def precisions(self) -> "list[bundle_pb2.BackbonePrecision.ValueType]":
        """What `Recipe.backbone_precision` may be with it."""
        return [bundle_pb2.BACKBONE_PRECISION_FLOAT32, *([bundle_pb2.BACKBONE_PRECISION_INT8] if self.int8 else [])]


def _rows() -> Iterator[ArchitectureRow]:
    for row in _read("architectures.json"):
        pinned = LOCK[row["id"]]
        yield ArchitectureRow(
            id=row["id"],
            network=TorchNetwork(row["library"], row["name"], row.get("options", {})),
            description=row["description"],
            modality=bundle_pb2.MODALITY_IMAGE,
            num_parameters=row["num_parameters"],
            gflops=row["gflops"],
            feature_width=row["feature_width"],
            training_memory_bytes=row["training_memory_bytes"],
            num_blocks=row["num_blocks"],
            int8=row.get("int8", False),
            code_license=_CODE_LICENSES.get(row["library"], ""),
            preprocessing=json_format.ParseDict(pinned["preprocessing"], bundle_pb2.ImagePreprocessing()),
            mean=tuple(pinned["mean"]),
            std=tuple(pinned["std"]),
            weights=PinnedWeights(**pinned["file"]) if "file" in pinned else None,
        )


WeightsState = trainer_pb2.Architecture.WeightsState
ARCHITECTURES: dict[str, ArchitectureRow] = {row.id: row for row in _rows()}
DEFAULT_ARCHITECTURE = "efficientnet_lite0"
NOT_OFFERED = (
    "No pretrained weights of {} are offered: no whole SHA-256 of an official file is known. Train with weights=AUTO, "
    "which trains the whole network from random numbers, or with weights=RANDOM; or take another architecture."
)


def find(architecture: str, field: str) -> ArchitectureRow:
    """The row; InvalidArgument that lists what there is."""
    row = ARCHITECTURES.get(architecture)
    if row is None:
        raise InvalidArgument.fields([(field, not_one_of(architecture, tuple(ARCHITECTURES)))])
    return row


def to_choose_from(had: Collection[str], max_gflops: float) -> list[ArchitectureRow]:
    """Of the architectures that are had, those that a choice may fall on, the cheapest first: not those that need more,
    and none whose code asks more of a model than ours does, which nobody said yes to.
    """
    rows = [row for row in ARCHITECTURES.values() if row.id in had and row.gflops <= max_gflops]
    return sorted((row for row in rows if not row.code_license), key=lambda row: row.gflops)


def preprocessing(recipe: bundle_pb2.Recipe, *, textbook: bool = False) -> bundle_pb2.ImagePreprocessing:
    """How pictures come to the network that a recipe names: as its weights were trained, or squashed where the recipe
    says so. A textbook squashes unless told otherwise, with a filter of its own.
    """
    own = ARCHITECTURES[recipe.architecture].preprocessing
    squash, cropped = bundle_pb2.ImagePreprocessing.FIT_SQUASH, bundle_pb2.ImagePreprocessing.FIT_CENTER_CROP
    if textbook and recipe.fit != cropped:
        return bundle_pb2.ImagePreprocessing(fit=squash, size=own.size, filter="bilinear")
    if textbook or recipe.fit != squash:
        return own
    return bundle_pb2.ImagePreprocessing(fit=squash, size=own.size, filter=own.filter, draft=own.draft)


def backbone_id(
    architecture: str,
    preprocessing: bundle_pb2.ImagePreprocessing | bundle_pb2.SoundPreprocessing,
    weights_sha256: str,
    quantizer: str = "",
) -> str:
    """The id of a body with weights, as one kind of input comes to it, and as a quantizer made integers of it, if one
    did; lower-case hex.
    """
    identity = {
        "architecture": architecture,
        "output": "features",
        "preprocessing": json_format.MessageToDict(preprocessing, preserving_proto_field_name=True),
        "weights_sha256": weights_sha256,
    }
    if quantizer:
        identity["quantizer"] = quantizer
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()


def message(
    row: ArchitectureRow,
    default: str,
    state: "trainer_pb2.Architecture.WeightsState.ValueType",
    *,
    lacks_extra: bool = False,
) -> trainer_pb2.Architecture:
    shown = trainer_pb2.Architecture(
        id=row.id,
        description=row.description,
        modality=row.modality,
        num_parameters=row.num_parameters,
        gflops=row.gflops,
        input_size=row.preprocessing.size,
        preprocessing=row.preprocessing,
        feature_width=row.feature_width,
        training_memory_bytes=row.training_memory_bytes,
        num_blocks=row.num_blocks,
        code_license=row.code_license,
        extra=row.extra,
        lacks_extra=lacks_extra,
        weights_state=state,
        is_default=row.id == default,
        backbone_precisions=row.precisions,
    )
    if row.weights is not None:
        shown.weights_source = row.weights.source
        shown.weights_license = row.weights.license
        shown.weights_license_note = row.weights.license_note
        shown.weights_sha256 = row.weights.sha256
        shown.weights_max_bytes = row.weights.max_bytes
    return shown
