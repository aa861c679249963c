"""Services in the test's own process, put together as their `__main__` does, on free ports."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import psycopg
from grpc import aio

from handful.errors import from_rpc_error
from handful.v1 import dataset_pb2_grpc, inference_pb2_grpc, model_pb2_grpc, trainer_pb2_grpc, worker_pb2_grpc
from services.dataset.catalog import Catalog
from services.inference.batching import Batcher
from services.inference.examples import Examples
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Loader
from services.inference.oip.v2 import open_inference_pb2_grpc
from services.inference.oip_servicer import GUARDS, NAME, OipServicer
from services.inference.pointers import Pointers as InferencePointers
from services.inference.servicer import InferenceServicer
from services.inference.switching import Models
from services.shared.database import Database, open_database
from services.shared.objects import ObjectStore
from services.shared.server import MEBIBYTE, Limits, Server
from services.shared.streams import Streams
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.board import Board
from services.trainer.continuing import Continuing
from services.trainer.datasets import Datasets
from services.trainer.evaluations import Evaluations
from services.trainer.exports.sending import Exports
from services.trainer.fleet import Fleet
from services.trainer.imports.receiving import Imports
from services.trainer.limited import Limited
from services.trainer.model_servicer import ModelServicer
from services.trainer.pointers import Pointers
from services.trainer.servicer import TrainerServicer
from services.trainer.watching import Watches
from services.trainer.worker_servicer import LEASE_SECONDS, WorkerServicer

MIGRATIONS = Path(__file__).parents[1] / "services" / "trainer" / "migrations"


@dataclass(frozen=True)
class Databases:
    """Where the services keep their tables, as their settings have it: files or URLs."""

    dataset: str
    trainer: str

    @classmethod
    def in_files(cls, folder: Path) -> Databases:
        return cls(str(folder / "dataset.sqlite"), str(folder / "trainer.sqlite"))


@dataclass(frozen=True)
class DatasetService:
    """A dataset service in this process."""

    stub: dataset_pb2_grpc.DatasetServiceAsyncStub
    address: str
    catalog: Catalog


@dataclass(frozen=True)
class TrainerService:
    """A trainer in this process, without workers: the test is the worker."""

    trainer: trainer_pb2_grpc.TrainerServiceAsyncStub
    models: model_pb2_grpc.ModelServiceAsyncStub
    workers: worker_pb2_grpc.WorkerServiceAsyncStub
    address: str
    worker_address: str
    database: Database
    board: Board
    server: Server


@asynccontextmanager
async def running_trainer(
    where: str, store: ObjectStore, dataset_address: str, lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[TrainerService]:
    """A trainer over a database, a file or a URL; starting it again there is what a restart is."""
    database = await open_database(where, "trainer", MIGRATIONS)
    board, fleet, pointers = Board(), Fleet(database), Pointers(database, store)
    server, worker_server = Server(Limits(drain_seconds=0)), Server(Limits(drain_seconds=0))
    async with aio.insecure_channel(dataset_address) as to_dataset:
        watches = Watches(database, board, pointers, server.draining)
        datasets = Datasets(to_dataset)
        continuing = Continuing(database, store, datasets)
        trainer = TrainerServicer(database, store, board, fleet, watches, datasets, continuing, DEFAULT_ARCHITECTURE)
        limited = Limited(3072 * MEBIBYTE)
        evaluations = Evaluations(database, store, datasets)
        imports = Imports(database, store, pointers, limited)
        model = ModelServicer(database, board, pointers, evaluations, Exports(store, limited), imports)
        worker = WorkerServicer(database, board, store, pointers, server.draining, lease_seconds)
        port = await server.start(
            "127.0.0.1:0",
            {
                "handful.v1.TrainerService": partial(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, trainer),
                "handful.v1.ModelService": partial(model_pb2_grpc.add_ModelServiceServicer_to_server, model),
            },
        )
        register = partial(worker_pb2_grpc.add_WorkerServiceServicer_to_server, worker)
        worker_port = await worker_server.start("127.0.0.1:0", {"handful.v1.WorkerService": register})
        address, worker_address = f"127.0.0.1:{port}", f"127.0.0.1:{worker_port}"
        try:
            async with (
                aio.insecure_channel(address) as channel,
                aio.insecure_channel(worker_address) as work,
            ):
                yield TrainerService(
                    trainer_pb2_grpc.TrainerServiceStub(channel),
                    model_pb2_grpc.ModelServiceStub(channel),
                    worker_pb2_grpc.WorkerServiceStub(work),
                    address,
                    worker_address,
                    database,
                    board,
                    server,
                )
        finally:
            await server.stop()
            await worker_server.stop()
            limited.close()
            await database.close()


@asynccontextmanager
async def serving(
    store: ObjectStore, loader: Loader, queue: int = 64
) -> AsyncIterator[inference_pb2_grpc.InferenceServiceAsyncStub]:
    """An inference service with one thread, which follows its pointers."""
    batcher, explainer, pointers = Batcher(1, queue), Explainer(), InferencePointers(store)
    server = Server(Limits(drain_seconds=0))
    models, streams = Models(pointers, loader), Streams(100, server.draining)
    servicer = InferenceServicer(models, Examples(store), batcher, explainer, streams)
    register = partial(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)
    port = await server.start("127.0.0.1:0", {"handful.v1.InferenceService": register})
    following = asyncio.create_task(pointers.follow())
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)
    await server.stop()
    await batcher.close()
    explainer.close()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def open_inference(
    store: ObjectStore,
    queue: int = 64,
    loader: Loader | None = None,
    servicer: type[InferenceServicer] = InferenceServicer,
) -> AsyncIterator[str]:
    """The address of an inference service with both its protocols and one thread."""
    batcher, explainer, pointers = Batcher(1, queue), Explainer(), InferencePointers(store)
    models = Models(pointers, loader or Loader(store, 64 * MEBIBYTE))
    server = Server(Limits(message_bytes=33 * MEBIBYTE, drain_seconds=0, guards=GUARDS))
    streams = Streams(100, server.draining)
    ours = servicer(models, Examples(store), batcher, explainer, streams)
    oip = OipServicer(pointers, models, batcher, streams, server.draining)
    port = await server.start(
        "127.0.0.1:0",
        {
            "handful.v1.InferenceService": partial(inference_pb2_grpc.add_InferenceServiceServicer_to_server, ours),
            NAME: partial(open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, oip),
        },
    )
    yield f"127.0.0.1:{port}"
    await server.stop()
    await batcher.close()
    explainer.close()


def execute(where: str, service: str, statement: str) -> None:
    """Changes a service's rows behind its back."""
    if "://" in where:
        with psycopg.connect(where, options=f"-c search_path={service}") as connection:
            connection.execute(statement.encode())
    else:
        with closing(sqlite3.connect(where)) as database, database:
            database.execute(statement)


def reason(error: grpc.RpcError) -> str:
    """The reason in a failed call's ErrorInfo."""
    return from_rpc_error(error).reason
