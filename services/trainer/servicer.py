"""TrainerService: decodes requests, asks runs and catalogues, encodes answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from grpc import aio

from handful import names
from handful.errors import InvalidArgument
from handful.v1 import trainer_pb2, trainer_pb2_grpc
from services.shared import pages
from services.shared.answers import kept, once
from services.shared.database import Database
from services.shared.identifiers import new_id
from services.shared.interceptors import request_id
from services.shared.objects import ObjectStore
from services.trainer import architectures, attempts, comparing, folding, recipes, runs, sound_architectures
from services.trainer.board import Board
from services.trainer.continuing import Continuing
from services.trainer.datasets import Datasets
from services.trainer.fleet import Fleet
from services.trainer.messages import run_message, would_be
from services.trainer.presets import PRESETS
from services.trainer.records import NewRun, RunKey
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from services.trainer.tables import requests
from services.trainer.watching import Watches

Context = aio.ServicerContext[object, object]
Asked = trainer_pb2.CreateTrainingRunRequest | trainer_pb2.ContinueTrainingRunRequest
Answer = TypeVar("Answer", trainer_pb2.CreateTrainingRunResponse, trainer_pb2.ContinueTrainingRunResponse)


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        board: Board,
        fleet: Fleet,
        watches: Watches,
        datasets: Datasets,
        continuing: Continuing,
        default_architecture: str,
    ) -> None:
        self._database = database
        self._store = store
        self._fleet = fleet
        self._board = board
        self._watches = watches
        self._datasets = datasets
        self._continuing = continuing
        self._default_architecture = default_architecture

    async def CreateTrainingRun(
        self, request: trainer_pb2.CreateTrainingRunRequest, context: Context
    ) -> trainer_pb2.CreateTrainingRunResponse:
        project = names.match(names.PROJECT, request.parent, "parent")["project"]
        response = trainer_pb2.CreateTrainingRunResponse
        return await self._queue(request, response, lambda: self._new_run(project, request))

    async def ContinueTrainingRun(
        self, request: trainer_pb2.ContinueTrainingRunRequest, context: Context
    ) -> trainer_pb2.ContinueTrainingRunResponse:
        async def new_run() -> NewRun:
            new = await self._continuing.new_run(request)
            await self._fleet.check(new.recipe, continued=True)
            return new

        return await self._queue(request, trainer_pb2.ContinueTrainingRunResponse, new_run)

    async def _queue(self, request: Asked, response: type[Answer], make: Callable[[], Awaitable[NewRun]]) -> Answer:
        """The answer to a request for a run, which `make` checks; the same one again where it was asked for before."""
        if request.validate_only:
            return response(training_run=would_be(await make()))
        async with self._database.read() as connection:
            known = await kept(connection, requests, request, response)
        if known is not None:  # before anything is checked that may have changed since
            return known
        new = await make()
        async with self._database.write() as connection:

            async def create() -> Answer:
                return response(training_run=run_message(await runs.add(connection, new)))

            answer = await once(connection, requests, request, response, create)
        self._board.queued()
        return answer

    async def _new_run(self, project: str, request: trainer_pb2.CreateTrainingRunRequest) -> NewRun:
        recipes.resolve(request.recipe, self._default_architecture)  # what is wrong whatever the data are
        dataset = names.match((names.DATASET_VERSION, names.DATASET), request.dataset, "dataset")["dataset"]
        model = names.check_id(request.model_id or dataset, "model_id")
        version = await self._datasets.version(project, request.dataset)
        recipe = recipes.fit(request.recipe, self._default_architecture, version.modality)
        recipes.check_views(recipe, sum(one.num_train for one in version.classes))
        await asyncio.to_thread(folding.check, self._store, project, version.manifest_sha256, recipe)
        await self._fleet.check(recipe)
        return NewRun(
            key=RunKey(project, new_id()),
            model=model,
            dataset_version=version.name,
            dataset_manifest_sha256=version.manifest_sha256,
            recipe=recipe,
            promote=request.promote,
            request_id=request_id(),
        )

    async def GetTrainingRun(
        self, request: trainer_pb2.GetTrainingRunRequest, context: Context
    ) -> trainer_pb2.GetTrainingRunResponse:
        key = RunKey(**names.match(names.TRAINING_RUN, request.name, "name"))
        async with self._database.read() as connection:
            run = await runs.get(connection, key)
        return trainer_pb2.GetTrainingRunResponse(training_run=run_message(run))

    async def ListTrainingRuns(
        self, request: trainer_pb2.ListTrainingRunsRequest, context: Context
    ) -> trainer_pb2.ListTrainingRunsResponse:
        project = names.match(names.PROJECT, request.parent, "parent")["project"]
        page = pages.Page.of(request, [int, str])
        async with self._database.read() as connection:
            found = await runs.page(connection, project, page.limit, page.before)
        records, token = page.cut(found, lambda run: [run.create_time_us, run.key.run])
        return trainer_pb2.ListTrainingRunsResponse(training_runs=map(run_message, records), next_page_token=token)

    async def CompareTrainingRuns(
        self, request: trainer_pb2.CompareTrainingRunsRequest, context: Context
    ) -> trainer_pb2.CompareTrainingRunsResponse:
        project = names.match(names.PROJECT, request.parent, "parent")["project"]
        keys = comparing.keys(project, request.training_runs)
        async with self._database.read() as connection:
            found = [await runs.get(connection, key) for key in keys]
            comparing.check_trained(found)
            histories = [await attempts.history(connection, key) for key in keys]
        validations = {
            sha256: await asyncio.to_thread(comparing.Validation.read, self._store, project, sha256)
            for sha256 in {run.dataset_manifest_sha256 for run in found}
        }
        return trainer_pb2.CompareTrainingRunsResponse(
            training_runs=[
                comparing.compared(run, history, validations[run.dataset_manifest_sha256])
                for run, history in zip(found, histories, strict=True)
            ],
            differing_fields=comparing.differing_fields([run.recipe for run in found]),
        )

    async def CancelTrainingRun(
        self, request: trainer_pb2.CancelTrainingRunRequest, context: Context
    ) -> trainer_pb2.CancelTrainingRunResponse:
        key = RunKey(**names.match(names.TRAINING_RUN, request.name, "name"))
        async with self._database.write() as connection:
            run = await runs.cancel(connection, key)
        self._board.changed(key)
        return trainer_pb2.CancelTrainingRunResponse(training_run=run_message(run))

    async def WatchTrainingRun(
        self, request: trainer_pb2.WatchTrainingRunRequest, context: Context
    ) -> AsyncIterator[trainer_pb2.WatchTrainingRunResponse]:
        key = RunKey(**names.match(names.TRAINING_RUN, request.name, "name"))
        after = request.after_sequence if request.HasField("after_sequence") else None
        if after is not None and after < 0:
            raise InvalidArgument.fields([("after_sequence", "must not be negative")])
        async with aclosing(self._watches.follow(key, after)) as messages:
            async for message in messages:
                yield message

    async def ListArchitectures(
        self, request: trainer_pb2.ListArchitecturesRequest, context: Context
    ) -> trainer_pb2.ListArchitecturesResponse:
        states, lacks_yolo = await self._fleet.weights_states(), await self._fleet.lacks_yolo()
        listed = [
            *(
                architectures.message(
                    row, self._default_architecture, states[row.id], lacks_extra=bool(row.extra) and lacks_yolo
                )
                for row in architectures.ARCHITECTURES.values()
            ),
            *(sound_architectures.message(row, states[row.id]) for row in SOUND_ARCHITECTURES.values()),
        ]
        return trainer_pb2.ListArchitecturesResponse(architectures=listed)

    async def ListRecipes(
        self, request: trainer_pb2.ListRecipesRequest, context: Context
    ) -> trainer_pb2.ListRecipesResponse:
        return trainer_pb2.ListRecipesResponse(
            presets=[recipes.message(preset, self._default_architecture) for preset in PRESETS.values()]
        )
