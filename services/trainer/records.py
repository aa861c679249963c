"""Rows of the trainer as Python values. They know no SQL and no gRPC."""

from dataclasses import dataclass

from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import Failure, Progress, TrainingRun, TrainingRunEvent
from handful.v1.worker_pb2 import Checkpoint

State = TrainingRun.State
WAITING = (TrainingRun.STATE_QUEUED, TrainingRun.STATE_RECOVERING)
CLAIMED = (TrainingRun.STATE_RUNNING, TrainingRun.STATE_CANCELLING)
TERMINAL = (TrainingRun.STATE_SUCCEEDED, TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)


@dataclass(frozen=True)
class RunKey:
    """Which run, in which project."""

    project: str
    run: str

    @property
    def name(self) -> str:
        return f"projects/{self.project}/trainingRuns/{self.run}"


@dataclass(frozen=True)
class Continued:
    """Where a run goes on from: another run, after which epoch; and the dataset manifests, other than its own, that the
    weights have learnt from by then.
    """

    run: str
    epoch: int
    earlier_manifests: tuple[str, ...]


@dataclass(frozen=True)
class NewRun:
    """What is asked for."""

    key: RunKey
    model: str
    dataset_version: str
    dataset_manifest_sha256: str
    recipe: Recipe
    promote: bool
    request_id: str
    # The version to measure, where nothing is to be trained.
    evaluated: "ModelVersionRecord | None" = None
    # Where it goes on from another run: from which checkpoint, and the epochs that led there.
    continued: Continued | None = None
    checkpoint: Checkpoint | None = None
    history: tuple[TrainingRunEvent, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands."""

    key: RunKey
    model: str
    dataset_version: str
    dataset_manifest_sha256: str
    recipe: Recipe
    promote: bool
    request_id: str
    create_time_us: int
    state: "TrainingRun.State.ValueType"
    failure: Failure | None
    epoch: int
    metrics: tuple[tuple[str, float], ...]
    progress: Progress | None
    latest_sequence: int
    version: int | None
    evaluated_version: int | None
    evaluated_manifest_sha256: str | None
    start_time_us: int | None
    finish_time_us: int | None
    attempt: int
    num_lost: int
    token: str | None
    worker_id: str | None
    checkpoint: Checkpoint | None
    continued: Continued | None
    num_ahead: int = 0
    estimated_seconds: float | None = None
    waits_for: str = ""


@dataclass(frozen=True)
class Grip:
    """What a worker holds a run by: the attempt and its token."""

    key: RunKey
    attempt: int
    token: str


@dataclass(frozen=True)
class ModelKey:
    """Which model, in which project."""

    project: str
    model: str

    @property
    def name(self) -> str:
        return f"projects/{self.project}/models/{self.model}"


@dataclass(frozen=True)
class ModelRecord:
    key: ModelKey
    latest_version: int
    aliases: dict[str, int]
    create_time_us: int


@dataclass(frozen=True)
class NewModelVersion:
    """What is published: by a run, on a dataset version; or imported."""

    key: ModelKey
    manifest_sha256: str
    recipe: Recipe
    labels: tuple[str, ...]
    metrics: tuple[tuple[str, float], ...]
    promote: bool
    run: str | None = None
    dataset_version: str | None = None
    imported_from_sha256: str | None = None


@dataclass(frozen=True)
class ModelVersionRecord:
    key: ModelKey
    number: int
    manifest_sha256: str
    run: str | None
    dataset_version: str | None
    recipe: Recipe
    labels: tuple[str, ...]
    metrics: tuple[tuple[str, float], ...]
    create_time_us: int
    imported_from_sha256: str | None

    @property
    def name(self) -> str:
        return f"{self.key.name}/versions/{self.number}"
