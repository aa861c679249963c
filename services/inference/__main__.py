"""`python -m services.inference`: wires the inference service and serves it."""

import asyncio
from functools import partial

from handful.bundle.images import MAX_BYTES
from handful.v1 import inference_pb2_grpc
from services.inference.batching import Batcher
from services.inference.examples import Examples
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Loader
from services.inference.metrics import Figures
from services.inference.oip.v2 import open_inference_pb2_grpc
from services.inference.oip_servicer import GUARDS, NAME, OipServicer
from services.inference.pointers import Pointers
from services.inference.runtimes.choosing import Chooser, allowed
from services.inference.servicer import InferenceServicer
from services.inference.settings import InferenceSettings
from services.inference.switching import Models
from services.shared import allocating, cores, start
from services.shared.metrics import Metrics
from services.shared.objects import open_store
from services.shared.server import MEBIBYTE, Limits, Server
from services.shared.streams import Streams

# A picture of the largest size and the few fields around it.
MESSAGE_BYTES = MAX_BYTES + MEBIBYTE
# Calls are short, so a connection can be moved; without it a server that was added would get no call.
CONNECTION_SECONDS = 300
# Of both protocols together.
MAX_STREAMS = 1000


async def serve(settings: InferenceSettings) -> None:
    allocating.give_back(settings.threads)
    store = open_store(settings.store)
    pointers = Pointers(store)
    free = min(settings.threads, cores.usable())
    chooser = Chooser(allowed(settings.inference_runtime), settings.inference_batch, free)
    budgets = settings.inference_memory_mib * MEBIBYTE, settings.inference_private_memory_mib * MEBIBYTE
    loader = Loader(store, *budgets, chooser, settings.threads)
    batcher = Batcher(settings.threads, settings.threads * settings.inference_queue)
    explainer = Explainer()
    limits = Limits(
        MESSAGE_BYTES, connection_age_seconds=CONNECTION_SECONDS, reflection=settings.reflection, guards=GUARDS
    )
    metrics = Metrics()
    metrics.add(Figures(batcher, explainer, loader, chooser))
    server = Server(limits, metrics.called)
    models = Models(pointers, loader)
    streams = Streams(MAX_STREAMS, server.draining)
    servicer = InferenceServicer(models, Examples(store), batcher, explainer, streams)
    oip = OipServicer(pointers, models, batcher, streams, server.draining)
    try:
        metrics.serve(settings.inference_metrics_address)
        ours = partial(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)
        theirs = partial(open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, oip)
        await server.start(settings.inference_address, {"handful.v1.InferenceService": ours, NAME: theirs})
        await server.run([pointers.follow(), allocating.keep_giving_back()], parent_pipe=settings.parent_pipe)
    finally:
        await batcher.close()
        explainer.close()


if __name__ == "__main__":
    start.run("inference", InferenceSettings, lambda settings: asyncio.run(serve(settings)))
