"""What a caller hears where a service is away, hangs, or is another one: which, where, and what to do."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from handful import Client
from handful.channel import Addresses
from handful.errors import DeadlineExceeded, NotFound, Unavailable, Unimplemented
from handful.folders import LabelledFile
from handful.peers import UNREACHABLE, reach
from handful.v1.dataset_pb2 import ListDatasetsRequest
from handful.v1.dataset_pb2_grpc import DatasetServiceStub
from tests.servers import Databases, DatasetService

FILE = Path(__file__)


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """SQLite alone: what happens on the way to a service has nothing to do with SQL."""
    return Databases.in_files(tmp_path)


@pytest.fixture(scope="module")
def nowhere() -> Iterable[str]:
    """An address at which nobody listens, held so that nobody will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize(
    ("service", "ask"),
    [
        ("dataset", lambda client: client.dataset("flowers")),
        ("dataset", lambda client: next(client.upload("flowers", [LabelledFile(FILE, "rose")]))),
        ("trainer", lambda client: client.train("flowers")),
        ("trainer", lambda client: next(client.models())),
        ("trainer", lambda client: client.export("flowers")),
        ("trainer", lambda client: client.import_model(FILE, "flowers")),
        ("inference", lambda client: client.predict("flowers", b"no picture")),
    ],
)
def test_a_service_that_is_away_is_named(nowhere: str, service: str, ask: Callable[[Client], object]) -> None:
    """Whatever kind of call it is, the error says which service, where it should be, and how to start it."""
    addresses = Addresses(dataset=nowhere, trainer=nowhere, inference=nowhere)
    with Client(addresses) as client, pytest.raises(Unavailable) as away:
        ask(client)
    assert away.value.reason == UNREACHABLE
    assert (away.value.facts["service"], away.value.facts["address"]) == (service, nowhere)
    assert away.value.message == (
        f"The {service} service does not answer at {nowhere}. Start all services here with `handful up`; if they run "
        f"elsewhere, set HANDFUL_{service.upper()} to its host:port."
    )


def test_a_service_that_hangs_is_named() -> None:
    """One that takes connections and says nothing ends in DeadlineExceeded with its name and address."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with reach("dataset", address) as channel, pytest.raises(DeadlineExceeded) as late:
            DatasetServiceStub(channel).ListDatasets(ListDatasetsRequest(), timeout=0.5)
    assert late.value.message.startswith(f"The dataset service at {address} did not answer in time.")


async def test_another_service_is_told_from_one_that_refuses(dataset_service: DatasetService) -> None:
    """An address of another service is said to be that; what the right one answers stays in its own words."""
    with Client(Addresses(dataset=dataset_service.address, trainer=dataset_service.address)) as client:
        with pytest.raises(Unimplemented, match=f"{dataset_service.address} is no trainer service of this version"):
            await asyncio.to_thread(client.recipes)
        with pytest.raises(NotFound) as absent:
            await asyncio.to_thread(client.dataset, "nothing")
    assert absent.value.message == "There is no dataset nothing in projects/default. Datasets there: none yet."
    assert "service" not in absent.value.facts
