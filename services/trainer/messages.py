"""Records as the messages of the contract."""

from collections.abc import Sequence

from handful.v1 import bundle_pb2, model_pb2, trainer_pb2, worker_pb2
from services.shared.identifiers import timestamp
from services.trainer.records import ModelRecord, ModelVersionRecord, NewRun, RunKey, RunRecord


def run_message(run: RunRecord) -> trainer_pb2.TrainingRun:
    model = f"projects/{run.key.project}/models/{run.model}"
    return trainer_pb2.TrainingRun(
        name=run.key.name,
        model=model,
        dataset_version=run.dataset_version,
        dataset_manifest_sha256=run.dataset_manifest_sha256,
        recipe=run.recipe,
        promote=run.promote,
        state=run.state,
        failure=run.failure,
        num_ahead=run.num_ahead,
        attempt=run.attempt,
        epoch=run.epoch,
        metrics=metric_messages(run.metrics),
        latest_sequence=run.latest_sequence,
        model_version=f"{model}/versions/{run.version}" if run.version else "",
        create_time=timestamp(run.create_time_us),
        start_time=timestamp(run.start_time_us),
        finish_time=timestamp(run.finish_time_us),
        evaluated_model_version=f"{model}/versions/{run.evaluated_version}" if run.evaluated_version else "",
        continued_training_run=RunKey(run.key.project, run.continued.run).name if run.continued else "",
        continued_after_epoch=run.continued.epoch if run.continued else 0,
        estimated_seconds=run.estimated_seconds,
        waits_for=run.waits_for,
    )


def would_be(new: NewRun) -> trainer_pb2.TrainingRun:
    """A run that is checked and not queued: it has no name and no state."""
    return trainer_pb2.TrainingRun(
        model=f"projects/{new.key.project}/models/{new.model}",
        dataset_version=new.dataset_version,
        dataset_manifest_sha256=new.dataset_manifest_sha256,
        recipe=new.recipe,
        promote=new.promote,
        continued_training_run=RunKey(new.key.project, new.continued.run).name if new.continued else "",
        continued_after_epoch=new.continued.epoch if new.continued else 0,
    )


def claim_message(
    run: RunRecord,
    lease_seconds: float,
    history: Sequence[bundle_pb2.EpochMetrics],
    notices: Sequence[bundle_pb2.Notice],
) -> worker_pb2.Claim:
    return worker_pb2.Claim(
        training_run=run.key.name,
        attempt=run.attempt,
        token=run.token or "",
        lease_seconds=lease_seconds,
        recipe=run.recipe,
        dataset_manifest_sha256=run.dataset_manifest_sha256,
        checkpoint=run.checkpoint,
        history=history,
        notices=notices,
        request_id=run.request_id,
        evaluated_manifest_sha256=run.evaluated_manifest_sha256 or "",
        earlier_dataset_manifest_sha256s=run.continued.earlier_manifests if run.continued else (),
    )


def model_message(model: ModelRecord) -> model_pb2.Model:
    return model_pb2.Model(
        name=model.key.name,
        aliases=[model_pb2.Alias(alias=alias, version=number) for alias, number in model.aliases.items()],
        latest_version=model.latest_version,
        create_time=timestamp(model.create_time_us),
    )


def model_version_message(version: ModelVersionRecord) -> model_pb2.ModelVersion:
    return model_pb2.ModelVersion(
        name=version.name,
        manifest_sha256=version.manifest_sha256,
        training_run=RunKey(version.key.project, version.run).name if version.run else "",
        dataset_version=version.dataset_version or "",
        recipe=version.recipe,
        labels=version.labels,
        metrics=metric_messages(version.metrics),
        create_time=timestamp(version.create_time_us),
        imported_from_sha256=version.imported_from_sha256 or "",
    )


def metric_messages(metrics: Sequence[tuple[str, float]]) -> list[bundle_pb2.Metric]:
    return [bundle_pb2.Metric(name=name, value=value) for name, value in metrics]
