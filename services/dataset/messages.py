"""Records as the messages of the contract."""

from handful.v1 import bundle_pb2, dataset_pb2
from services.dataset.records import DatasetKey, DatasetRecord, ExampleRecord, VersionRecord
from services.shared.identifiers import timestamp


def dataset_message(record: DatasetRecord) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        name=record.key.name,
        modality=record.modality,
        labels=[dataset_pb2.LabelCount(label=label, num_examples=num) for label, num in record.labels.items()],
        create_time=timestamp(record.create_time_us),
    )


def example_message(key: DatasetKey, record: ExampleRecord) -> dataset_pb2.Example:
    return dataset_pb2.Example(
        name=f"{key.name}/examples/{record.example}",
        label=record.label,
        split=_split(record),
        filename=record.filename,
        upload_sha256=record.upload_sha256,
        content_sha256=record.content_sha256,
        media_type=record.media_type,
        width=record.width,
        height=record.height,
        sample_rate=record.sample_rate,
        duration_seconds=record.duration_us / 1e6,
        group=record.group,
        create_time=timestamp(record.create_time_us),
    )


def _split(record: ExampleRecord) -> "bundle_pb2.Split.ValueType":
    """What it was uploaded for; of what was uploaded for both all trains."""
    named = record.uploaded_for
    return bundle_pb2.SPLIT_TRAIN if len(named) > 1 else next(iter(named), bundle_pb2.SPLIT_UNSPECIFIED)


def version_message(key: DatasetKey, record: VersionRecord) -> dataset_pb2.DatasetVersion:
    return dataset_pb2.DatasetVersion(
        name=f"{key.name}/versions/{record.number}",
        manifest_sha256=record.manifest_sha256,
        modality=record.modality,
        classes=[
            dataset_pb2.ClassCount(label=one.label, num_train=one.num_train, num_val=one.num_val)
            for one in record.classes
        ],
        notices=[bundle_pb2.Notice(reason=one.reason, message=one.message) for one in record.notices],
        create_time=timestamp(record.create_time_us),
    )
