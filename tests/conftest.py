"""Real services on free ports, real stores, real pictures. Nothing is mocked: a server starts in milliseconds."""

from __future__ import annotations

import io
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from grpc import aio
from PIL import Image

from handful.cli.stack import Stack
from handful.v1 import dataset_pb2_grpc, inference_pb2_grpc
from services.dataset.catalog import Catalog
from services.dataset.ingest import Decoders
from services.dataset.servicer import DatasetServicer
from services.dataset.uploads import Uploads
from services.inference.batching import Batcher
from services.inference.examples import Examples
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Loader
from services.inference.pointers import Pointers as InferencePointers
from services.inference.servicer import InferenceServicer
from services.inference.switching import Models
from services.shared import cores
from services.shared.logs import configure
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE, Limits, Server
from services.shared.streams import Streams
from tests.minio_server import MinioServer
from tests.postgres_server import PostgresServer
from tests.processes import stack_in, until
from tests.servers import Databases, DatasetService, TrainerService, running_trainer

# Of processes that run tests at a time; each starts its own services, and holds some 2 GB with them.
MOST_PROCESSES = 8
SHARED = Path(__file__).parents[2] / "shared"
MIGRATIONS = Path(__file__).parents[1] / "services" / "trainer" / "migrations"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since some tests wait for a lease or a second to pass."""
    return min(cores.usable() + 1, MOST_PROCESSES)


@pytest.fixture(scope="session", autouse=True)
def logs() -> None:
    """Warnings only, and tracebacks without the variables, which take seconds to render."""
    configure("tests", "warning")


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Real cats and dogs: train/ and val/ folders of class folders."""
    folder = SHARED / "data" / "catsdogs"
    if not folder.is_dir():
        pytest.skip("the photographs are not on this machine")
    return folder


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Makes a picture file: noise around a colour, different for every seed."""

    def make(
        seed: int = 0,
        colour: tuple[int, int, int] = (128, 128, 128),
        size: tuple[int, int] = (64, 48),
        kind: str = "JPEG",
    ) -> bytes:
        noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "store")


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A MinIO server with its bucket and identities, shared by the tests that only add to it."""
    with MinioServer(tmp_path_factory.mktemp("minio")) as server:
        server.provision()
        yield server


@pytest.fixture
def own_minio(tmp_path: Path) -> Iterator[MinioServer]:
    """A MinIO server that the test may stop and damage."""
    with MinioServer(tmp_path / "minio") as server:
        server.provision()
        yield server


@pytest.fixture(scope="session")
def decoders() -> Iterator[Decoders]:
    pool = Decoders(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that the tests share; each makes its own databases there."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Databases]:
    """The databases of one test, which runs once on each kind."""
    if request.param == "sqlite":
        yield Databases.in_files(tmp_path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.database()
        yield Databases(url, url)
        server.drop(url)


@pytest.fixture
async def dataset_service(
    databases: Databases, store: FilesystemStore, decoders: Decoders
) -> AsyncIterator[DatasetService]:
    catalog = await Catalog.open(databases.dataset)
    servicer = DatasetServicer(catalog, store, Uploads(catalog, store, decoders), decoders)
    register = partial(dataset_pb2_grpc.add_DatasetServiceServicer_to_server, servicer)
    server = Server(Limits(drain_seconds=0))
    port = await server.start("127.0.0.1:0", {"handful.v1.DatasetService": register})
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield DatasetService(dataset_pb2_grpc.DatasetServiceStub(channel), f"127.0.0.1:{port}", catalog)
    await server.stop()
    await catalog.close()


@pytest.fixture
async def trainer_service(
    databases: Databases, store: FilesystemStore, dataset_service: DatasetService
) -> AsyncIterator[TrainerService]:
    async with running_trainer(databases.trainer, store, dataset_service.address) as service:
        yield service


@pytest.fixture
async def inference_stub(store: FilesystemStore) -> AsyncIterator[inference_pb2_grpc.InferenceServiceAsyncStub]:
    """An inference service in this process, over the test's store; its pointers are read once per project."""
    batcher = Batcher(threads=2, queue=64)
    explainer = Explainer()
    models = Models(InferencePointers(store), Loader(store, 256 * MEBIBYTE))
    server = Server(Limits(message_bytes=33 * MEBIBYTE, drain_seconds=0))
    streams = Streams(100, server.draining)
    servicer = InferenceServicer(models, Examples(store), batcher, explainer, streams)
    register = partial(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)
    port = await server.start("127.0.0.1:0", {"handful.v1.InferenceService": register})
    options = [("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)
    await server.stop()
    await batcher.close()
    explainer.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services and a worker as processes, shared by the tests that only add to them."""
    with stack_in(tmp_path_factory.mktemp("home")) as stack, stack:
        yield stack


@pytest.fixture(scope="session")
def backbones(stack: Stack) -> Path:
    """The default backbone, as the worker of the shared stack built it: once."""
    folder = stack.home / "store" / "backbones"
    until(lambda: any(folder.rglob("*.onnx")), "a worker builds the default backbone", seconds=150)
    return folder


@pytest.fixture
def own_stack(tmp_path: Path, backbones: Path) -> Iterator[Stack]:
    """A stack of the test's own, to be started and killed by it. Its store has the default backbone."""
    with stack_in(tmp_path / "home") as own:
        shutil.copytree(backbones, own.home / "store" / "backbones")
        yield own
