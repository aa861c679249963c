"""`python -m services.trainer`: wires the trainer and serves it."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from grpc import aio

from handful.channel import OPTIONS
from handful.errors import InvalidArgument
from handful.v1 import model_pb2_grpc, trainer_pb2_grpc, worker_pb2_grpc
from services.shared import start
from services.shared.database import Database, open_database
from services.shared.metrics import Metrics
from services.shared.objects import ObjectStore, open_store
from services.shared.server import MEBIBYTE, Limits, Server
from services.shared.settings import CannotStart, child_environment
from services.trainer import architectures
from services.trainer.board import Board
from services.trainer.continuing import Continuing
from services.trainer.datasets import Datasets
from services.trainer.evaluations import Evaluations
from services.trainer.exports.sending import Exports
from services.trainer.fleet import Fleet
from services.trainer.imports.receiving import Imports
from services.trainer.limited import Limited
from services.trainer.local_workers import LocalWorkers
from services.trainer.model_servicer import ModelServicer
from services.trainer.pointers import Pointers
from services.trainer.servicer import TrainerServicer
from services.trainer.settings import TrainerSettings
from services.trainer.sweeper import sweep
from services.trainer.watching import Watches
from services.trainer.worker_servicer import WorkerServicer

MIGRATIONS = Path(__file__).parent / "migrations"


async def serve(settings: TrainerSettings) -> None:
    _check(settings)
    store = open_store(settings.store)
    database = await open_database(settings.database, "trainer", MIGRATIONS)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        channel = await stack.enter_async_context(aio.insecure_channel(settings.dataset, options=OPTIONS))
        await _serve(settings, store, database, Datasets(channel))


async def _serve(settings: TrainerSettings, store: ObjectStore, database: Database, datasets: Datasets) -> None:
    metrics = Metrics()
    metrics.serve(settings.trainer_metrics_address)
    products = Server(Limits(reflection=settings.reflection), metrics.called)
    workers = Server(observe=metrics.called)
    board, fleet, pointers = Board(), Fleet(database), Pointers(database, store)
    watches = Watches(database, board, pointers, products.draining)
    continuing = Continuing(database, store, datasets)
    trainer = TrainerServicer(
        database, store, board, fleet, watches, datasets, continuing, settings.default_architecture
    )
    limited = Limited(settings.model_memory_mib * MEBIBYTE)
    model = ModelServicer(
        database,
        board,
        pointers,
        Evaluations(database, store, datasets),
        Exports(store, limited),
        Imports(database, store, pointers, limited),
    )
    worker = WorkerServicer(database, board, store, pointers, products.draining)
    host, _, _ = settings.worker_address.rpartition(":")
    register_worker = partial(worker_pb2_grpc.add_WorkerServiceServicer_to_server, worker)
    port = await workers.start(settings.worker_address, {"handful.v1.WorkerService": register_worker})
    local = LocalWorkers(database, settings.workers, f"{host}:{port}", child_environment())
    try:
        await products.start(
            settings.trainer_address,
            {
                "handful.v1.TrainerService": partial(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, trainer),
                "handful.v1.ModelService": partial(model_pb2_grpc.add_ModelServiceServicer_to_server, model),
            },
        )
        beside = (sweep(database, board), pointers.reconcile(), local.run())
        await products.run(beside, parent_pipe=settings.parent_pipe)
    finally:
        await local.stop()
        await workers.stop()
        limited.close()


def _check(settings: TrainerSettings) -> None:
    try:
        architectures.find(settings.default_architecture, "HANDFUL_DEFAULT_ARCHITECTURE")
    except InvalidArgument as problem:
        raise CannotStart(problem.message) from None


if __name__ == "__main__":
    start.run("trainer", TrainerSettings, lambda settings: asyncio.run(serve(settings)))
