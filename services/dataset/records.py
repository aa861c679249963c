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
    # What the same content under the same label was uploaded for as well, later; unspecified: for nothing else.
    also_split: "bundle_pb2.Split.ValueType" = bundle_pb2.SPLIT_UNSPECIFIED


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
