"""`python -m services.dataset`: wires the dataset service and serves it."""

import asyncio
from functools import partial

from handful.v1 import dataset_pb2_grpc
from services.dataset.catalog import Catalog
from services.dataset.ingest import Decoders
from services.dataset.servicer import DatasetServicer
from services.dataset.settings import DatasetSettings
from services.dataset.uploads import Uploads
from services.shared import start
from services.shared.metrics import Metrics
from services.shared.objects import open_store
from services.shared.server import Limits, Server


async def serve(settings: DatasetSettings) -> None:
    store = open_store(settings.store)
    catalog = await Catalog.open(settings.database)
    decoders = Decoders(settings.decoders)
    servicer = DatasetServicer(catalog, store, Uploads(catalog, store, decoders), decoders)
    metrics = Metrics()
    server = Server(Limits(reflection=settings.reflection), metrics.called)
    try:
        metrics.serve(settings.dataset_metrics_address)
        register = partial(dataset_pb2_grpc.add_DatasetServiceServicer_to_server, servicer)
        await server.start(settings.dataset_address, {"handful.v1.DatasetService": register})
        await server.run(parent_pipe=settings.parent_pipe)
    finally:
        decoders.close()
        await catalog.close()


if __name__ == "__main__":
    start.run("dataset", DatasetSettings, lambda settings: asyncio.run(serve(settings)))
