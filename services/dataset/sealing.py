"""Sealing: what a dataset holds now, as an immutable manifest. Equal content seals equally."""

import asyncio
from collections.abc import Sequence

from handful.bundle import manifest
from handful.v1 import bundle_pb2
from services.dataset import report, splits
from services.dataset.catalog import CatalogWriter
from services.dataset.records import DatasetKey, ExampleRecord, VersionRecord
from services.shared.identifiers import now_us
from services.shared.objects import ObjectStore


async def seal(catalog: CatalogWriter, store: ObjectStore, key: DatasetKey) -> VersionRecord:
    """The version of the dataset's content; FailedPrecondition where nothing could be learnt from it."""
    dataset = await catalog.dataset(key)
    examples = await catalog.examples(key)
    split = splits.assign(examples)
    classes = report.count(examples, split)
    report.check(classes)
    data = manifest.to_bytes(_manifest(dataset.modality, examples, split))
    digest = manifest.sha256(data)
    await asyncio.to_thread(store.put, manifest.dataset_manifest_key(key.project, digest), data)
    findings = report.findings(examples, classes)
    return await catalog.add_version(key, VersionRecord(0, digest, dataset.modality, classes, findings, now_us()))


def _manifest(
    modality: "bundle_pb2.Modality.ValueType",
    examples: Sequence[ExampleRecord],
    split: dict[str, "bundle_pb2.Split.ValueType"],
) -> bundle_pb2.DatasetManifest:
    return bundle_pb2.DatasetManifest(
        format=manifest.DATASET_FORMAT,
        modality=modality,
        labels=sorted({example.label for example in examples}),
        examples=[
            bundle_pb2.DatasetManifestExample(
                content_sha256=example.content_sha256,
                label=example.label,
                split=split[example.content_sha256],
                group=example.content_sha256,
            )
            for example in sorted(examples, key=lambda example: (example.content_sha256, example.label))
        ],
    )
