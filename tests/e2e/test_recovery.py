"""Processes that are really killed, or stopped: workers, trainers, children; and runs that end well all the same."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from handful import Client
from handful.cli.stack import Stack
from handful.v1.trainer_pb2 import Failure, TrainingRun, TrainingRunEvent
from services.trainer.worker_servicer import LEASE_SECONDS
from tests.campaigns import RECIPE, Story, kill_trainers, raise_zombies, work_off, worker_pid
from tests.processes import alive, of_home, until

# Leases take their time, and so do processes that start on a busy machine.
pytestmark = pytest.mark.timeout(400)

CANCEL_SECONDS = 10.0
EPOCHS = 12
TWO_WORKERS = pytest.mark.parametrize("client", [2], indirect=True)


@pytest.fixture
def client(own_stack: Stack, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a stack of the test's own, with one worker, or as many as the test wants."""
    own_stack.environment |= {"HANDFUL_WORKERS": str(getattr(request, "param", 1)), "HANDFUL_WORKER_THREADS": "1"}
    with own_stack, Client(own_stack.addresses) as client:
        yield client


@pytest.fixture
def dataset(client: Client, tmp_path: Path, picture: Callable[..., bytes]) -> str:
    for seed in range(10):
        path = tmp_path / "pictures" / ("even" if seed % 2 else "odd") / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, (60 + 100 * (seed % 2), 100, 100)))
    client.push("parity", tmp_path / "pictures")
    return "parity"


def building(home: Path) -> int:
    """The process that builds a graph, once there is one: it leads a session of its own."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid, command in of_home(home).items() if "spawn_main" in command and os.getsid(pid) == pid]
        return bool(found)

    until(look, "a process builds a graph")
    return found[0]


def test_a_killed_worker_costs_at_most_an_epoch(own_stack: Stack, client: Client, dataset: str) -> None:
    """Another worker continues after the last checkpoint, and of a run that is done its last checkpoint alone stays."""
    story = Story(client.train(dataset, num_epochs=EPOCHS, **RECIPE))

    def hear(event: TrainingRunEvent) -> None:
        if event.HasField("checkpoint_saved") and (event.epoch, event.attempt) == (4, 1):
            os.kill(worker_pid(story.starts[0]), signal.SIGKILL)

    story.follow(hear).check(TrainingRun.STATE_SUCCEEDED, EPOCHS)
    assert [start.attempt for start in story.starts] == [1, 2]
    assert story.starts[1].attempt_started.resumed_after_epoch >= max(story.epochs(attempt=1)) - 1
    runs = own_stack.home / "store" / "projects" / "default" / "runs"
    until(lambda: len([path for path in runs.rglob("*") if path.is_file()]) == 1, "one checkpoint is left")


@TWO_WORKERS
def test_killed_trainers_lose_nothing(own_stack: Stack, client: Client, dataset: str) -> None:
    """Workers go on while the trainer is away, even for longer than their leases, and tell the next one everything."""
    away = [0, LEASE_SECONDS + 2]
    kill_trainers(own_stack, client, dataset, away, (20, 5), Random(0))  # noqa: S311 - no secret


@TWO_WORKERS
def test_a_zombie_is_not_heard(own_stack: Stack, client: Client, dataset: str) -> None:
    """A worker that was stopped past its lease adds nothing to the run that another has, and then works as before."""
    refused = raise_zombies(own_stack, client, dataset, 1, 1, EPOCHS, Random(0))  # noqa: S311 - no secret
    assert refused >= 1
    assert sum(work_off(client, dataset, runs=6, workers=2)) == 6


def test_a_cancelled_run_stops_soon(client: Client, dataset: str) -> None:
    """Cancelling a running run ends it within ten seconds, and its worker takes the next."""
    story = Story(client.train(dataset, num_epochs=1000, **RECIPE))
    asked: list[float] = []

    def hear(event: TrainingRunEvent) -> None:
        if event.HasField("epoch_completed") and event.epoch == 1:
            asked.append(time.monotonic())
            story.run.cancel()

    story.follow(hear).check(TrainingRun.STATE_CANCELLED)
    assert time.monotonic() - asked[0] < CANCEL_SECONDS
    Story(client.train(dataset)).follow().check(TrainingRun.STATE_SUCCEEDED)


def test_a_cancelled_run_takes_its_children_along(own_stack: Stack, client: Client, dataset: str) -> None:
    """A run whose child is stuck is cancelled within ten seconds all the same, and then the child is gone."""
    story = Story(client.train(dataset, weights="RANDOM"))
    child = building(own_stack.home)
    os.kill(child, signal.SIGSTOP)
    asked = time.monotonic()
    story.run.cancel()
    story.follow().check(TrainingRun.STATE_CANCELLED)
    assert time.monotonic() - asked < CANCEL_SECONDS
    assert not alive(child)


def test_a_run_whose_child_crashes_says_so(own_stack: Stack, client: Client, dataset: str) -> None:
    """A process that crashes while it builds a graph fails the run with that reason, and its worker takes the next."""
    story = Story(client.train(dataset, weights="RANDOM"))
    os.kill(building(own_stack.home), signal.SIGSEGV)
    story.follow().check(TrainingRun.STATE_FAILED)
    failure = story.run.refresh().failure
    assert failure.reason == Failure.REASON_PROCESS_LOST
    assert "ended without an answer" in failure.message
    Story(client.train(dataset)).follow().check(TrainingRun.STATE_SUCCEEDED)


def test_a_choice_that_was_lost_is_made_again(client: Client, photographs: Path, tmp_path: Path) -> None:
    """Killed once it has chosen its network, a run of `quality` publishes what it would have: every figure the same."""
    for label in ("cat", "dog"):
        (tmp_path / "few" / "train" / label).mkdir(parents=True)
        for path in sorted((photographs / "train" / label).iterdir())[:8]:
            (tmp_path / "few" / "train" / label / path.name).symlink_to(path)
    client.push("few", tmp_path / "few")
    story = Story(client.train("few", preset="quality", max_gflops=1))

    def hear(event: TrainingRunEvent) -> None:
        if event.notice.reason == "ARCHITECTURE_CHOSEN" and event.attempt == 1:
            os.kill(worker_pid(story.starts[0]), signal.SIGKILL)

    story.follow(hear).check(TrainingRun.STATE_SUCCEEDED)
    assert [start.attempt for start in story.starts] == [1, 2]
    undisturbed = Story(client.train("few", preset="quality", max_gflops=1)).follow()
    assert story.run.training_run.recipe == undisturbed.run.training_run.recipe
    killed, whole = (client.evaluation(one.run.training_run.model_version).evaluation for one in (story, undisturbed))
    assert len(killed.cross_validation.architecture_choice.candidates) > 1
    assert killed.cross_validation == whole.cross_validation
    assert killed.metrics == whole.metrics
    assert killed.classes == whole.classes


def test_a_killed_worker_takes_its_children_along(own_stack: Stack, client: Client, dataset: str) -> None:
    """Nobody goes on building a graph for a worker that was killed."""
    run = client.train(dataset, weights="RANDOM")
    child = building(own_stack.home)
    (worker,) = [pid for pid, command in of_home(own_stack.home).items() if "services.trainer.worker" in command]
    os.kill(worker, signal.SIGKILL)
    until(lambda: not alive(child), "the child is gone")
    assert run.refresh().state == TrainingRun.STATE_RUNNING
