"""GRPCInferenceService: the Open Inference Protocol v2, for clients that know nothing of Handful."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from grpc import aio

from handful import __version__, names
from handful.errors import DataLoss, FailedPrecondition, NotFound
from services.inference import promising
from services.inference.batching import Batcher
from services.inference.loading import Model
from services.inference.oip import describing, guarding, naming, reading, streaming, writing
from services.inference.oip.naming import Asked, asked
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2 import open_inference_pb2_grpc as oip_grpc
from services.inference.pointers import Pointers, VersionRef
from services.inference.switching import Models
from services.shared.deadlines import within
from services.shared.objects import ObjectCorrupt, ObjectMissing
from services.shared.streams import Streams

NAME = "inference.GRPCInferenceService"
GUARDS = {f"/{NAME}/{method}": guarding.check for method in ("ModelInfer", "ModelStreamInfer")}
EXTENSIONS = ("classification", "model_configuration", "model_repository(index)", "statistics")
# Of an answer: to write as many takes about a tenth of a millisecond.
LONG_NUMBERS = 1000
Context = aio.ServicerContext[object, object]
Result = TypeVar("Result")


class OipServicer(oip_grpc.GRPCInferenceServiceServicer):
    """`draining` is set when the server is about to stop."""

    def __init__(
        self, pointers: Pointers, models: Models, batcher: Batcher, streams: Streams, draining: asyncio.Event
    ) -> None:
        self._pointers = pointers
        self._models = models
        self._batcher = batcher
        self._statistics = batcher.statistics
        self._draining = draining
        self._streams = streams
        self._max_batch = min(describing.MAX_BATCH, max(1, batcher.queue // 2))

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=not self._draining.is_set())

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="handful", version=__version__, extensions=EXTENSIONS)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        try:
            await self._find(asked(request.name, request.version))
        except (NotFound, FailedPrecondition, DataLoss, ObjectMissing, ObjectCorrupt):
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        named = asked(request.name, request.version)
        ref, model = await self._find(named)
        versions = (await self._pointers.models(ref.project))[ref.model].versions
        return describing.metadata(named.name, versions, model.head, pixels=named.pixels)

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        named = asked(request.name, request.version)
        _, model = await self._find(named)
        config = describing.configuration(named.name, self._max_batch, model.head, pixels=named.pixels)
        return oip.ModelConfigResponse(config=config)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        return await self._infer(request)

    def ModelStreamInfer(
        self, request_iterator: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        return streaming.serve(request_iterator, self._infer, self._streams)

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        response = oip.ModelStatisticsResponse()
        for version in sorted(await self._asked_after(request), key=naming.order):
            model, number = naming.apart(version)
            response.model_stats.append(describing.statistics(model, number, self._statistics.of(version)))
        return response

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        project = names.match(names.PROJECT, request.repository_name or naming.PROJECT, "repository_name")["project"]
        response = oip.RepositoryIndexResponse()
        for model, pointer in sorted((await self._pointers.models(project)).items()):
            name = naming.short(f"projects/{project}/models/{model}")
            for number in sorted(pointer.versions):
                response.models.add(name=name, version=str(number), state="READY")
        return response

    async def _infer(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        named = asked(request.model_name, request.model_version, "model_name", "model_version")
        rate = reading.max_error_rate(request)
        async with within(reading.timeout(request)):
            ref, model = await self._find(named)
            confidence = promising.min_confidence(ref.name, model, rate, reading.ERROR_RATE_FIELD)
            given = describing.outputs_of(model.head, pixels=named.pixels)
            wanted = reading.outputs(request, given if rate is None else [*given, describing.UNSURE_TENSOR])
            expected = describing.input_of(model.head, pixels=named.pixels)
            files = await _long(
                partial(reading.files_or_pixels, request, expected, self._max_batch),
                is_long=named.pixels and reading.is_typed(request),
            )
            answers = await self._batcher.answer_all(files, model)
            response = oip.ModelInferResponse(
                model_name=named.name, model_version=naming.apart(ref.name)[1], id=request.id
            )
            labels, typed = model.head.labels, reading.is_typed(request)
            await _long(
                partial(writing.add_outputs, response, wanted, answers, labels, typed=typed, confidence=confidence),
                is_long=len(answers) * len(labels) > LONG_NUMBERS,
            )
        return response

    async def _asked_after(self, request: oip.ModelStatisticsRequest) -> list[str]:
        """The names of the versions whose statistics are wanted."""
        if not request.name:
            return [one for one in self._statistics.versions() if one.startswith(f"{naming.PROJECT}/")]
        named = asked(request.name, request.version)
        ref = await self._pointers.resolve(named.resource)
        if named.is_one:
            return [ref.name]
        numbers = (await self._pointers.models(ref.project))[ref.model].versions
        return [f"projects/{ref.project}/models/{ref.model}/versions/{number}" for number in numbers]

    async def _find(self, named: Asked) -> tuple[VersionRef, Model]:
        ref, model = await self._models.get(named.resource)
        if named.pixels and model.head.of_sounds:
            raise NotFound(f"{named.name.removesuffix(naming.PIXELS)} is a model of sounds, and takes no pixels.")
        return ref, model


async def _long(work: Callable[[], Result], *, is_long: bool) -> Result:
    """What work comes to; where it takes milliseconds, other calls go on meanwhile."""
    return await asyncio.to_thread(work) if is_long else work()
