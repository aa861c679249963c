"""DatasetService: decodes requests, asks the catalog, encodes answers. Knows no SQL and opens no picture."""

import asyncio
from collections.abc import AsyncIterator

from grpc import aio

from handful import names
from handful.bundle import manifest
from handful.errors import InvalidArgument
from handful.v1 import bundle_pb2, dataset_pb2, dataset_pb2_grpc
from services.dataset import thumbnails
from services.dataset.catalog import Catalog, CatalogWriter
from services.dataset.ingest import Decoders
from services.dataset.messages import dataset_message, example_message, version_message
from services.dataset.records import DatasetKey
from services.dataset.sealing import seal
from services.dataset.uploads import Uploads
from services.shared import pages
from services.shared.objects import ObjectStore

Context = aio.ServicerContext[object, object]


class DatasetServicer(dataset_pb2_grpc.DatasetServiceServicer):
    def __init__(self, catalog: Catalog, store: ObjectStore, uploads: Uploads, decoders: Decoders) -> None:
        self._catalog = catalog
        self._store = store
        self._uploads = uploads
        self._decoders = decoders

    async def CreateDataset(
        self, request: dataset_pb2.CreateDatasetRequest, context: Context
    ) -> dataset_pb2.CreateDatasetResponse:
        project = names.match(names.PROJECT, request.parent, "parent")["project"]
        key = DatasetKey(project, names.check_id(request.dataset_id, "dataset_id"))
        modality = request.modality or bundle_pb2.MODALITY_IMAGE
        if modality not in (bundle_pb2.MODALITY_IMAGE, bundle_pb2.MODALITY_SOUND):
            raise InvalidArgument.fields([("modality", "must be MODALITY_IMAGE or MODALITY_SOUND")])

        async def create(catalog: CatalogWriter) -> dataset_pb2.CreateDatasetResponse:
            record = await catalog.add_dataset(key, modality)
            return dataset_pb2.CreateDatasetResponse(dataset=dataset_message(record))

        return await self._catalog.once(request, dataset_pb2.CreateDatasetResponse, create)

    async def GetDataset(
        self, request: dataset_pb2.GetDatasetRequest, context: Context
    ) -> dataset_pb2.GetDatasetResponse:
        key = DatasetKey(**names.match(names.DATASET, request.name, "name"))
        async with self._catalog.reading() as catalog:
            return dataset_pb2.GetDatasetResponse(dataset=dataset_message(await catalog.dataset(key)))

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context: Context
    ) -> dataset_pb2.ListDatasetsResponse:
        project = names.match(names.PROJECT, request.parent, "parent")["project"]
        page = pages.Page.of(request, [int, str])
        async with self._catalog.reading() as catalog:
            found = await catalog.datasets(project, page.limit, page.before)
        records, token = page.cut(found, lambda record: [record.create_time_us, record.key.dataset])
        return dataset_pb2.ListDatasetsResponse(datasets=map(dataset_message, records), next_page_token=token)

    def UploadExamples(
        self, request_iterator: AsyncIterator[dataset_pb2.UploadExamplesRequest], context: Context
    ) -> AsyncIterator[dataset_pb2.UploadExamplesResponse]:
        return self._uploads.run(request_iterator)

    async def ListExamples(
        self, request: dataset_pb2.ListExamplesRequest, context: Context
    ) -> dataset_pb2.ListExamplesResponse:
        key = DatasetKey(**names.match(names.DATASET, request.parent, "parent"))
        page = pages.Page.of(request, [int, str])
        async with self._catalog.reading() as catalog:
            await catalog.dataset(key)
            found = await catalog.examples(key, page.limit, page.before)
        records, token = page.cut(found, lambda record: [record.create_time_us, record.example])
        return dataset_pb2.ListExamplesResponse(
            examples=[example_message(key, record) for record in records], next_page_token=token
        )

    async def GetThumbnails(
        self, request: dataset_pb2.GetThumbnailsRequest, context: Context
    ) -> dataset_pb2.GetThumbnailsResponse:
        key = DatasetKey(**names.match(names.DATASET, request.parent, "parent"))
        side = thumbnails.check(request)
        async with self._catalog.reading() as catalog:
            await catalog.dataset(key)
            found = await catalog.examples_by_content(key, request.content_sha256s)
        return await thumbnails.make(self._store, self._decoders, key.project, found, side)

    async def CreateDatasetVersion(
        self, request: dataset_pb2.CreateDatasetVersionRequest, context: Context
    ) -> dataset_pb2.CreateDatasetVersionResponse:
        key = DatasetKey(**names.match(names.DATASET, request.parent, "parent"))
        known = await self._catalog.kept(request, dataset_pb2.CreateDatasetVersionResponse)
        if known is not None:
            return known
        sealed = await seal(self._catalog, self._store, key)

        async def create(catalog: CatalogWriter) -> dataset_pb2.CreateDatasetVersionResponse:
            record = await catalog.add_version(key, sealed.record())
            return dataset_pb2.CreateDatasetVersionResponse(dataset_version=version_message(key, record))

        return await self._catalog.once(request, dataset_pb2.CreateDatasetVersionResponse, create)

    async def GetDatasetVersion(
        self, request: dataset_pb2.GetDatasetVersionRequest, context: Context
    ) -> dataset_pb2.GetDatasetVersionResponse:
        key, number = _version_key(request.name, "name")
        async with self._catalog.reading() as catalog:
            record = await catalog.version(key, number)
        return dataset_pb2.GetDatasetVersionResponse(dataset_version=version_message(key, record))

    async def ListDatasetVersions(
        self, request: dataset_pb2.ListDatasetVersionsRequest, context: Context
    ) -> dataset_pb2.ListDatasetVersionsResponse:
        key = DatasetKey(**names.match(names.DATASET, request.parent, "parent"))
        page = pages.Page.of(request, [int])
        async with self._catalog.reading() as catalog:
            await catalog.dataset(key)
            found = await catalog.versions(key, page.limit, page.before)
        records, token = page.cut(found, lambda record: [record.number])
        return dataset_pb2.ListDatasetVersionsResponse(
            dataset_versions=[version_message(key, record) for record in records], next_page_token=token
        )

    async def ListDatasetVersionExamples(
        self, request: dataset_pb2.ListDatasetVersionExamplesRequest, context: Context
    ) -> dataset_pb2.ListDatasetVersionExamplesResponse:
        key, number = _version_key(request.parent, "parent")
        page = pages.Page.of(request, [int])
        async with self._catalog.reading() as catalog:
            version = await catalog.version(key, number)
        stored = manifest.dataset_manifest_key(key.project, version.manifest_sha256)
        sealed = await asyncio.to_thread(self._manifest, stored, version.manifest_sha256)
        start = page.before[0] if page.before else 0
        rows = list(enumerate(sealed.examples, start=1))[start : start + page.limit]
        numbered, token = page.cut(rows, lambda row: [row[0]])
        return dataset_pb2.ListDatasetVersionExamplesResponse(
            examples=[example for _, example in numbered], next_page_token=token
        )

    def _manifest(self, key: str, sha256: str) -> bundle_pb2.DatasetManifest:
        return manifest.from_bytes(bundle_pb2.DatasetManifest, self._store.get(key, sha256))


def _version_key(name: str, field: str) -> tuple[DatasetKey, int]:
    parts = names.match(names.DATASET_VERSION, name, field)
    return DatasetKey(parts["project"], parts["dataset"]), int(parts["number"])
