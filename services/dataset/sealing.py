"""Sealing: what a dataset holds now, as an immutable manifest. Equal content seals equally."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from handful.bundle import manifest
from handful.v1 import bundle_pb2
from services.dataset import report, splits
from services.dataset.catalog import Catalog
from services.dataset.records import ClassCount, DatasetKey, ExampleRecord, Notice, VersionRecord
from services.shared.identifiers import now_us
from services.shared.objects import ObjectStore


@dataclass(frozen=True)
class Sealed:
    """What a version will hold; its manifest is stored already."""

    manifest_sha256: str
    modality: "bundle_pb2.Modality.ValueType"
    classes: tuple[ClassCount, ...]
    notices: tuple[Notice, ...]

    def record(self) -> VersionRecord:
        """Without a number yet: the catalog gives it one, or finds the version that has this manifest."""
        return VersionRecord(0, self.manifest_sha256, self.modality, self.classes, self.notices, now_us())


async def seal(catalog: Catalog, store: ObjectStore, key: DatasetKey) -> Sealed:
    """Stores the manifest of what the dataset holds now; FailedPrecondition where nothing could be learnt from it."""
    async with catalog.reading() as reader:
        dataset = await reader.dataset(key)
        examples = await reader.examples(key)
    return await asyncio.to_thread(_seal, store, key, dataset.modality, examples)


def _seal(
    store: ObjectStore, key: DatasetKey, modality: "bundle_pb2.Modality.ValueType", examples: Sequence[ExampleRecord]
) -> Sealed:
    split = splits.assign(examples)
    classes = report.count(examples, split)
    report.check(classes)
    data = manifest.to_bytes(_manifest(modality, examples, split))
    digest = manifest.sha256(data)
    store.put(manifest.dataset_manifest_key(key.project, digest), data)
    return Sealed(digest, modality, classes, report.notices(examples, split, classes, modality))


def _manifest(
    modality: "bundle_pb2.Modality.ValueType",
    examples: Sequence[ExampleRecord],
    split: dict[str, "bundle_pb2.Split.ValueType"],
) -> bundle_pb2.DatasetManifest:
    group = splits.groups(examples)
    return bundle_pb2.DatasetManifest(
        format=manifest.DATASET_FORMAT,
        modality=modality,
        labels=sorted({example.label for example in examples}),
        examples=[
            bundle_pb2.DatasetManifestExample(
                content_sha256=example.content_sha256,
                label=example.label,
                split=split[example.content_sha256],
                group=group[example.content_sha256],
            )
            for example in sorted(examples, key=lambda example: (example.content_sha256, example.label))
        ],
    )
