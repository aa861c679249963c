"""Processes that are really killed: workers, trainers; runs that end all the same."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handful import Client, Run
from handful.cli.stack import Stack
from handful.history import History
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent
from tests.processes import alive, of_home, until

CANCEL_SECONDS = 10.0


@pytest.fixture
def client(own_stack: Stack) -> Iterator[Client]:
    with own_stack, Client(own_stack.addresses) as client:
        yield client


@pytest.fixture
def dataset(client: Client, tmp_path: Path, picture: Callable[..., bytes]) -> str:
    for seed in range(20):
        path = tmp_path / "pictures" / ("even" if seed % 2 else "odd") / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, (60 + 100 * (seed % 2), 100, 100)))
    client.push("parity", tmp_path / "pictures")
    return "parity"


def events(run: Run) -> Iterator[TrainingRunEvent]:
    return (event for event in run.watch() if isinstance(event, TrainingRunEvent))


def building(home: Path) -> int:
    """The process that builds a graph, once there is one: it leads a session of its own."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid, command in of_home(home).items() if "spawn_main" in command and os.getsid(pid) == pid]
        return bool(found)

    until(look, "a process builds a graph")
    return found[0]


def worker_pid(event: TrainingRunEvent) -> int:
    return int(event.attempt_started.worker_id.split("-")[-2])


def test_a_killed_worker_costs_at_most_an_epoch(client: Client, dataset: str) -> None:
    """Another worker continues after the last checkpoint, and a watcher sees every sequence exactly once."""
    run = client.train(dataset, preset="baseline", num_epochs=20, target_size=0)
    seen: list[TrainingRunEvent] = []
    for event in events(run):
        seen.append(event)
        if event.HasField("checkpoint_saved") and event.epoch == 4 and event.attempt == 1:
            pids = [worker_pid(one) for one in seen if one.HasField("attempt_started")]
            os.kill(pids[-1], signal.SIGKILL)
    assert run.training_run.state == TrainingRun.STATE_SUCCEEDED, run.training_run.failure
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    attempts = [event for event in seen if event.HasField("attempt_started")]
    assert [event.attempt for event in attempts] == [1, 2]
    assert attempts[1].attempt_started.resumed_after_epoch >= 4
    assert [one.epoch for one in History(seen).epochs] == list(range(1, 21))
    assert [event.sequence for event in events(run)] == [event.sequence for event in seen]


def test_a_killed_trainer_loses_nothing(own_stack: Stack, client: Client, dataset: str) -> None:
    """The worker goes on while the trainer is away, reports everything to the next one, and no second worker starts."""
    run = client.train(dataset, preset="baseline", num_epochs=20, target_size=0)
    seen: list[TrainingRunEvent] = []
    restarted = threading.Event()
    for event in events(run):
        seen.append(event)
        if event.HasField("epoch_completed") and event.epoch == 2 and not restarted.is_set():
            restarted.set()
            own_stack.restart("trainer", signal.SIGKILL)
    assert run.training_run.state == TrainingRun.STATE_SUCCEEDED, run.training_run.failure
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [event.attempt for event in seen if event.HasField("attempt_started")] == [1]
    assert [event.epoch for event in seen if event.HasField("epoch_completed")] == list(range(1, 21))


def test_a_cancelled_run_stops_soon(client: Client, dataset: str) -> None:
    """Cancelling a running run ends it within ten seconds, and its worker takes the next."""
    run = client.train(dataset, preset="baseline", num_epochs=1000)
    for event in events(run):
        if event.HasField("epoch_completed") and event.epoch == 1:
            asked = time.monotonic()
            run.cancel()
    assert run.training_run.state == TrainingRun.STATE_CANCELLED
    assert time.monotonic() - asked < CANCEL_SECONDS
    assert client.train(dataset).result().state == TrainingRun.STATE_SUCCEEDED


def test_a_cancelled_run_takes_its_children_along(own_stack: Stack, client: Client, dataset: str) -> None:
    """A run whose child is stuck is cancelled within ten seconds all the same, and then the child is gone."""
    run = client.train(dataset, weights="RANDOM")
    child = building(own_stack.home)
    os.kill(child, signal.SIGSTOP)
    asked = time.monotonic()
    run.cancel()
    for _ in events(run):
        pass
    assert time.monotonic() - asked < CANCEL_SECONDS
    assert run.training_run.state == TrainingRun.STATE_CANCELLED
    assert not alive(child)


def test_a_killed_worker_takes_its_children_along(own_stack: Stack, client: Client, dataset: str) -> None:
    """Nobody goes on building a graph for a worker that was killed."""
    run = client.train(dataset, weights="RANDOM")
    child = building(own_stack.home)
    os.kill(worker_pid(next(event for event in events(run) if event.HasField("attempt_started"))), signal.SIGKILL)
    until(lambda: not alive(child), "the child is gone")
