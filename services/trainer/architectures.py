"""The catalogue of architectures, without torch: `architectures.json` has a row each, and `weights.lock.json` how
pictures come to it and, where their whole SHA-256 is known, its pretrained weights. What builds a row lives in
`worker/architectures`.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping, Sequence
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
# What stands in a library's place where a row is several networks of the catalogue.
SIDE_BY_SIDE = "side by side"
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
    # The smallest and the largest side that `Recipe.input_size` may ask for, both its own where it takes no other. One
    # picture leaves more than one cell to normalise in the last map of the smallest; the largest has few more pixels
    # than the largest network's own, for which there has to be memory anyway.
    min_input_size: int
    max_input_size: int
    # The graph computes (pixel / 255 - mean) / std, per channel.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # None where no pretrained weights are offered, or its members have them.
    weights: PinnedWeights | None
    # The networks that it is, side by side; none where it is one.
    members: "tuple[ArchitectureRow, ...]" = ()

    @property
    def networks(self) -> "tuple[ArchitectureRow, ...]":
        """Its members, or itself."""
        return self.members or (self,)

    @property
    def pinned(self) -> tuple[PinnedWeights, ...]:
        """The files of its pretrained weights; none where not all are offered."""
        found = [one.weights for one in self.networks]
        return tuple(one for one in found if one is not None) if all(found) else ()

    @property
    def extra(self) -> str:
        """The extra that a worker needs for it; empty for what all have."""
        return "yolo" if self.network.library == ULTRALYTICS else ""

    @property
    def precisions(self) -> "list[bundle_pb2.BackbonePrecision.ValueType]":
        """What `Recipe.backbone_precision` may be with it."""
        return [bundle_pb2.BACKBONE_PRECISION_FLOAT32, *([bundle_pb2.BACKBONE_PRECISION_INT8] if self.int8 else [])]


def _rows() -> dict[str, ArchitectureRow]:
    rows: dict[str, ArchitectureRow] = {}
    for row in _read("architectures.json"):
        members = [rows[member] for member in row.get("members", ())]
        rows[row["id"]] = _side_by_side(row, members) if members else _network(row)
    return rows


def _network(row: dict[str, Any]) -> ArchitectureRow:
    pinned = LOCK[row["id"]]
    preprocessing = json_format.ParseDict(pinned["preprocessing"], bundle_pb2.ImagePreprocessing())
    least, most = row.get("input_sizes", (preprocessing.size, preprocessing.size))
    return ArchitectureRow(
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
        preprocessing=preprocessing,
        min_input_size=least,
        max_input_size=most,
        mean=tuple(pinned["mean"]),
        std=tuple(pinned["std"]),
        weights=PinnedWeights(**pinned["file"]) if "file" in pinned else None,
    )


def _side_by_side(row: dict[str, Any], members: Sequence[ArchitectureRow]) -> ArchitectureRow:
    """Networks that look at one picture, as large as the largest that one of them takes; they cost their sum. They are
    not trained, so there are no blocks.
    """
    largest = max(members, key=lambda member: member.preprocessing.size)
    preprocessing = LOCK[row["id"]]["preprocessing"]
    return ArchitectureRow(
        id=row["id"],
        network=TorchNetwork(SIDE_BY_SIDE, ", ".join(member.id for member in members)),
        description=row["description"],
        modality=largest.modality,
        num_parameters=sum(member.num_parameters for member in members),
        gflops=round(sum(member.gflops for member in members), 4),
        feature_width=sum(member.feature_width for member in members),
        training_memory_bytes=0,
        num_blocks=0,
        int8=False,
        code_license="",
        preprocessing=json_format.ParseDict(preprocessing, bundle_pb2.ImagePreprocessing()),
        min_input_size=largest.preprocessing.size,
        max_input_size=largest.preprocessing.size,
        mean=largest.mean,
        std=largest.std,
        weights=None,
        members=tuple(members),
    )


WeightsState = trainer_pb2.Architecture.WeightsState
ARCHITECTURES: dict[str, ArchitectureRow] = _rows()
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


def with_members(had: Collection[str]) -> set[str]:
    """The architectures that are had, and those of several networks all of which are."""
    members = {row.id: {one.id for one in row.members} for row in ARCHITECTURES.values() if row.members}
    return {*had, *(id_ for id_, needed in members.items() if needed <= set(had))}


def weights_sha256(pinned: Sequence[PinnedWeights]) -> str:
    """What identifies pretrained weights: the SHA-256 of the file, or that of several files' one after the other."""
    digests = [one.sha256 for one in pinned]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


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
        min_input_size=row.min_input_size,
        max_input_size=row.max_input_size,
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
        members=[member.id for member in row.members],
    )
    describe_weights(shown, row.pinned)
    return shown


def describe_weights(shown: trainer_pb2.Architecture, pinned: Sequence[PinnedWeights]) -> None:
    """Says of which files the pretrained weights are."""
    shown.weights_source = ", ".join(one.source for one in pinned)
    shown.weights_license = " AND ".join(sorted({one.license for one in pinned}))
    shown.weights_license_note = " ".join(one.license_note for one in pinned if one.license_note)
    shown.weights_sha256 = pinned[0].sha256 if len(pinned) == 1 else ""
    shown.weights_max_bytes = sum(one.max_bytes for one in pinned)
