"""ModelService: models, versions, aliases, how versions did, and their way out and in."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from grpc import aio

from handful import names
from handful.v1 import model_pb2, model_pb2_grpc
from services.shared import pages
from services.shared.answers import kept, once
from services.shared.database import Database
from services.trainer import models, runs
from services.trainer.board import Board
from services.trainer.evaluations import Evaluations
from services.trainer.exports import formats
from services.trainer.exports.sending import Exports
from services.trainer.imports.receiving import Imports
from services.trainer.messages import model_message, model_version_message, run_message
from services.trainer.pointers import Pointers
from services.trainer.records import ModelKey, ModelVersionRecord
from services.trainer.tables import requests

Context = aio.ServicerContext[object, object]


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    def __init__(
        self,
        database: Database,
        board: Board,
        pointers: Pointers,
        evaluations: Evaluations,
        exports: Exports,
        imports: Imports,
    ) -> None:
        self._database = database
        self._board = board
        self._pointers = pointers
        self._evaluations = evaluations
        self._exports = exports
        self._imports = imports

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

    async def EvaluateModelVersion(
        self, request: model_pb2.EvaluateModelVersionRequest, context: Context
    ) -> model_pb2.EvaluateModelVersionResponse:
        response = model_pb2.EvaluateModelVersionResponse
        version = await self._version(request.name)
        async with self._database.read() as connection:
            known = await kept(connection, requests, request, response)
        if known is not None:
            return known
        new = await self._evaluations.new_run(version, request.dataset)
        async with self._database.write() as connection:

            async def create() -> model_pb2.EvaluateModelVersionResponse:
                run = await runs.add(connection, new)
                return model_pb2.EvaluateModelVersionResponse(training_run=run_message(run))

            answer = await once(connection, requests, request, response, create)
        self._board.queued()
        return answer

    async def GetEvaluation(
        self, request: model_pb2.GetEvaluationRequest, context: Context
    ) -> model_pb2.GetEvaluationResponse:
        version = await self._version(request.name)
        if request.dataset_version:
            names.match(names.DATASET_VERSION, request.dataset_version, "dataset_version")
            evaluation, drawn = await self._evaluations.on(version, request.dataset_version)
        else:
            evaluation, drawn = await self._evaluations.own(version)
        plots = [model_pb2.Plot(name=name, png=png) for name, png in drawn.items()]
        return model_pb2.GetEvaluationResponse(evaluation=evaluation, plots=plots)

    async def ListExportFormats(
        self, request: model_pb2.ListExportFormatsRequest, context: Context
    ) -> model_pb2.ListExportFormatsResponse:
        version = await self._version(request.name) if request.name else None
        listed = [one.message(version) for one in formats.FORMATS.values()]
        return model_pb2.ListExportFormatsResponse(export_formats=listed)

    async def ExportModelVersion(
        self, request: model_pb2.ExportModelVersionRequest, context: Context
    ) -> AsyncIterator[model_pb2.ExportModelVersionResponse]:
        wanted = formats.named(request.format)
        async with aclosing(self._exports.send(await self._version(request.name), wanted)) as messages:
            async for message in messages:
                yield message

    async def ImportModelVersion(
        self, request_iterator: AsyncIterator[model_pb2.ImportModelVersionRequest], context: Context
    ) -> model_pb2.ImportModelVersionResponse:
        return await self._imports.receive(request_iterator)

    async def _version(self, name: str) -> ModelVersionRecord:
        parts = names.match((names.MODEL_VERSION, names.MODEL_ALIAS), name, "name")
        key = ModelKey(parts["project"], parts["model"])
        async with self._database.read() as connection:
            if "alias" in parts:
                return await models.aliased(connection, key, parts["alias"])
            return await models.version(connection, key, int(parts["number"]))
