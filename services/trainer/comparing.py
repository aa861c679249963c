"""Training runs side by side: what their recipes differ in, their figures, their curves in few points. It knows no
SQL and no gRPC.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from handful import names
from handful.bundle.manifest import dataset_manifest_key, from_bytes
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import SPLIT_VAL, DatasetManifest, EpochMetrics, Recipe
from handful.v1.trainer_pb2 import ComparedTrainingRun, TrainingRun
from services.shared.objects import ObjectStore
from services.trainer.architectures import ARCHITECTURES
from services.trainer.intervals import independent, wilson
from services.trainer.messages import run_message
from services.trainer.records import RunKey, RunRecord
from services.trainer.sound_architectures import SOUND_ARCHITECTURES

MAX_RUNS = 100
# Of a curve; 100 runs of so many stay far below the 4 MiB of a message.
MAX_POINTS = 100
_CURVES = ("train/loss", "val/loss", "val/accuracy")


@dataclass(frozen=True)
class Validation:
    """How many examples of a dataset version are to validate on, and how many independent ones they are worth."""

    num_examples: int
    num_independent: float

    @classmethod
    def read(cls, store: ObjectStore, project: str, manifest_sha256: str) -> "Validation":
        data = store.get(dataset_manifest_key(project, manifest_sha256), manifest_sha256)
        groups = [one.group for one in from_bytes(DatasetManifest, data).examples if one.split == SPLIT_VAL]
        return cls(len(groups), independent(groups))


def keys(project: str, asked: Sequence[str]) -> list[RunKey]:
    """The runs that a request names; InvalidArgument naming every field that is not right."""
    if not 1 <= len(asked) <= MAX_RUNS:
        raise InvalidArgument.fields([("training_runs", f"must name 1 to {MAX_RUNS} runs, not {len(asked)}")])
    found = [
        RunKey(**names.match(names.TRAINING_RUN, name, f"training_runs[{place}]")) for place, name in enumerate(asked)
    ]
    problems = []
    for place, key in enumerate(found):
        if key.project != project:
            problems.append((f"training_runs[{place}]", f"must be a run of projects/{project}"))
        elif key in found[:place]:
            problems.append((f"training_runs[{place}]", "is named twice"))
    if problems:
        raise InvalidArgument.fields(problems)
    return found


def check_trained(runs: Sequence[RunRecord]) -> None:
    """InvalidArgument where a run is an evaluation."""
    problems = [
        (f"training_runs[{place}]", "measures a model and trains none; compare training runs")
        for place, run in enumerate(runs)
        if run.evaluated_version
    ]
    if problems:
        raise InvalidArgument.fields(problems)


def compared(run: RunRecord, history: Sequence[EpochMetrics], validation: Validation) -> ComparedTrainingRun:
    """A run as the comparison shows it."""
    message = run_message(run)
    if run.continued and run.continued.earlier_manifests:
        validation = Validation(0, 0)  # some of them were left out; how many, only the worker knows
    accuracy, worth = dict(run.metrics).get("val/accuracy"), validation.num_independent
    peaks = [one.value for epoch in history for one in epoch.metrics if one.name == "peak_memory_bytes"]
    named = run.recipe.architecture
    row = ARCHITECTURES.get(named) or SOUND_ARCHITECTURES.get(named)
    succeeded = run.state == TrainingRun.STATE_SUCCEEDED and run.start_time_us and run.finish_time_us
    return ComparedTrainingRun(
        training_run=message,
        num_val_examples=validation.num_examples,
        accuracy_interval=wilson(accuracy, worth) if accuracy is not None and worth else None,
        seconds=((run.finish_time_us or 0) - (run.start_time_us or 0)) / 1e6 if succeeded else None,
        peak_memory_bytes=max(peaks, default=None),
        num_parameters=row.num_parameters if row else 0,
        history=curve(history),
    )


def curve(history: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    """The figures that are drawn, of at most MAX_POINTS epochs, evenly chosen, the first and the last among them."""
    last = len(history) - 1
    places = range(last + 1)
    chosen = places if last < MAX_POINTS else [round(step * last / (MAX_POINTS - 1)) for step in range(MAX_POINTS)]
    return [
        EpochMetrics(epoch=history[place].epoch, metrics=[one for one in history[place].metrics if one.name in _CURVES])
        for place in chosen
    ]


def differing_fields(recipes: Sequence[Recipe]) -> list[str]:
    """Fields of Recipe that are not set to the same in all, in the order of the message."""
    given = [{descriptor.name: value for descriptor, value in recipe.ListFields()} for recipe in recipes]
    return [name for name in Recipe.DESCRIPTOR.fields_by_name if len({one.get(name) for one in given}) > 1]
