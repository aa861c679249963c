"""ModelService: models, versions, aliases and how versions did."""

import asyncio

from grpc import aio

from handful import names
from handful.bundle import manifest
from handful.v1 import bundle_pb2, model_pb2, model_pb2_grpc
from services.shared import pages
from services.shared.database import Database
from services.shared.objects import ObjectStore
from services.trainer import models
from services.trainer.messages import model_message, model_version_message
from services.trainer.pointers import Pointers
from services.trainer.records import ModelKey, ModelVersionRecord

Context = aio.ServicerContext[object, object]


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, database: Database, store: ObjectStore, pointers: Pointers) -> None:
        self._database = database
        self._store = store
        self._pointers = pointers

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> model_pb2.GetModelResponse:
        key = ModelKey(**names.match(names.MODEL, request.name, "name"))
        async with self._database.read() as connection:
            return model_pb2.GetModelResponse(model=model_message(await models.get(connection, key)))

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Context) -> model_pb2.ListModelsResponse:
        project = names.match(names.PROJECT, request.parent, "parent")["project"]
        page = pages.Page.of(request, [int, str])
        async with self._database.read() as connection:
            found = await models.page(connection, project, page.limit, page.before)
        records, token = page.cut(found, lambda model: [model.create_time_us, model.key.model])
        return model_pb2.ListModelsResponse(models=map(model_message, records), next_page_token=token)

    async def GetModelVersion(
        self, request: model_pb2.GetModelVersionRequest, context: Context
    ) -> model_pb2.GetModelVersionResponse:
        version = await self._version(request.name)
        return model_pb2.GetModelVersionResponse(model_version=model_version_message(version))

    async def ListModelVersions(
        self, request: model_pb2.ListModelVersionsRequest, context: Context
    ) -> model_pb2.ListModelVersionsResponse:
        key = ModelKey(**names.match(names.MODEL, request.parent, "parent"))
        page = pages.Page.of(request, [int])
        async with self._database.read() as connection:
            await models.get(connection, key)
            found = await models.version_page(connection, key, page.limit, page.before)
        records, token = page.cut(found, lambda version: [version.number])
        return model_pb2.ListModelVersionsResponse(
            model_versions=map(model_version_message, records), next_page_token=token
        )

    async def SetModelAlias(
        self, request: model_pb2.SetModelAliasRequest, context: Context
    ) -> model_pb2.SetModelAliasResponse:
        key = ModelKey(**names.match(names.MODEL, request.name, "name"))
        alias = names.check_id(request.alias, "alias")
        async with self._database.write() as connection:
            model = await models.set_alias(connection, key, alias, request.version)
        await self._pointers.write(key.project)
        return model_pb2.SetModelAliasResponse(model=model_message(model))

    async def GetEvaluation(
        self, request: model_pb2.GetEvaluationRequest, context: Context
    ) -> model_pb2.GetEvaluationResponse:
        version = await self._version(request.name)
        files = await asyncio.to_thread(self._bundle_files, version)
        plots = [
            model_pb2.Plot(name=path.removeprefix("plots/").removesuffix(".png"), png=data)
            for path, data in files.items()
            if path.startswith("plots/")
        ]
        evaluation = manifest.from_bytes(bundle_pb2.Evaluation, files["evaluation.json"])
        return model_pb2.GetEvaluationResponse(evaluation=evaluation, plots=plots)

    async def _version(self, name: str) -> ModelVersionRecord:
        parts = names.match((names.MODEL_VERSION, names.MODEL_ALIAS), name, "name")
        key = ModelKey(parts["project"], parts["model"])
        async with self._database.read() as connection:
            if "alias" in parts:
                return await models.aliased(connection, key, parts["alias"])
            return await models.version(connection, key, int(parts["number"]))

    def _bundle_files(self, version: ModelVersionRecord) -> dict[str, bytes]:
        """The evaluation and the plots of a version's bundle."""
        project, digest = version.key.project, version.manifest_sha256
        data = self._store.get(manifest.bundle_key(project, digest, "manifest.json"), digest)
        model = manifest.from_bytes(bundle_pb2.ModelManifest, data)
        return {
            file.path: self._store.get(manifest.bundle_key(project, digest, file.path), file.sha256)
            for file in model.files
            if file.path == "evaluation.json" or file.path.startswith("plots/")
        }
