"""Rows of the dataset service as Python values. They know no SQL and no gRPC."""

from dataclasses import dataclass, field

from handful.v1 import bundle_pb2


@dataclass(frozen=True)
class DatasetKey:
    """Which dataset, in which project."""

    project: str
    dataset: str

    @property
    def name(self) -> str:
        return f"projects/{self.project}/datasets/{self.dataset}"


@dataclass(frozen=True)
class DatasetRecord:
    key: DatasetKey
    modality: "bundle_pb2.Modality.ValueType"
    create_time_us: int
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExampleRecord:
    """One stored file with its label."""

    example: str
    label: str
    split: "bundle_pb2.Split.ValueType"
    filename: str
    upload_sha256: str
    content_sha256: str
    media_type: str
    width: int
    height: int
    create_time_us: int
    sample_rate: int = 0
    duration_us: int = 0
    # What it belongs to; empty: to nothing else.
    group: str = ""
    # What the same content under the same label was uploaded for later: the `split_bit` of each split.
    also_split: int = 0

    @property
    def uploaded_for(self) -> "frozenset[bundle_pb2.Split.ValueType]":
        """Every split that it was uploaded for, whichever came first; empty: none was ever named."""
        named = (bundle_pb2.SPLIT_TRAIN, bundle_pb2.SPLIT_VAL)
        return frozenset(one for one in named if one == self.split or self.also_split & split_bit(one))


def split_bit(split: "bundle_pb2.Split.ValueType") -> int:
    """A split as a member of a set of them; unspecified is none."""
    return 1 << split - 1 if split else 0


@dataclass(frozen=True)
class ClassCount:
    label: str
    num_train: int
    num_val: int


@dataclass(frozen=True)
class Notice:
    """Something odd about the data, in plain words."""

    reason: str
    message: str


@dataclass(frozen=True)
class VersionRecord:
    number: int
    manifest_sha256: str
    modality: "bundle_pb2.Modality.ValueType"
    classes: tuple[ClassCount, ...]
    notices: tuple[Notice, ...]
    create_time_us: int


@dataclass(frozen=True)
class Stored:
    """A file as it is kept, without metadata: a picture upright and RGB, a sound, or a piece of one, in one channel."""

    data: bytes
    sha256: str
    media_type: str
    width: int = 0
    height: int = 0
    sample_rate: int = 0
    duration_us: int = 0
