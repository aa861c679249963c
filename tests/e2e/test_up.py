"""`handful up` as a process that may die: what it started goes with it, and what it kept goes on."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from handful import Client
from handful.cli.stack import SETTLED_SECONDS, Stack
from handful.errors import Unavailable
from handful.history import History
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent
from tests.processes import START_SECONDS, alive, gone, of_home, until, up

# Leases take their time, and so do processes that start on a busy machine.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def dataset(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A folder of pictures of two classes."""
    for seed in range(20):
        path = tmp_path / "parity" / ("even" if seed % 2 else "odd") / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, (60 + 100 * (seed % 2), 100, 100)))
    return tmp_path / "parity"


def pids(home: Path, part: str) -> list[int]:
    """The processes of a home whose command line has a part."""
    return [pid for pid, command in of_home(home).items() if part in command]


def test_a_killed_up_leaves_nothing_behind_and_goes_on(own_stack: Stack, dataset: Path, tmp_path: Path) -> None:
    """After SIGKILL no process of it lives, its databases are whole, and the next one continues the run at once."""
    with Client(own_stack.addresses) as client:
        with up(own_stack, tmp_path / "first") as first:
            client.push("parity", dataset)
            run = client.train("parity", preset="baseline", num_epochs=8, target_size=0)
            for event in run.watch():
                if isinstance(event, TrainingRunEvent) and event.HasField("checkpoint_saved") and event.epoch == 2:
                    break
            for part in ("services.dataset", "services.trainer.worker", "services.inference", "spawn_main"):
                assert pids(own_stack.home, part), part
            first.kill()
            gone(own_stack.home)
        for database in own_stack.home.glob("*.sqlite"):
            with sqlite3.connect(database) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.close()
        with up(own_stack, tmp_path / "second") as second:
            events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
            assert "a worker was lost or stopped; attempt 2 goes on after epoch" in told(own_stack, "watch")
            second.send_signal(signal.SIGTERM)
            assert second.wait(START_SECONDS) == 0
            gone(own_stack.home)
    assert run.training_run.state == TrainingRun.STATE_SUCCEEDED, run.training_run.failure
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [one.epoch for one in History(events).epochs] == list(range(1, 9))
    resumed = [one.attempt_started.resumed_after_epoch for one in events if one.HasField("attempt_started")]
    assert resumed[0] == 0
    assert resumed[1] >= 2


def test_a_stopped_up_hands_its_run_back(own_stack: Stack, dataset: Path, tmp_path: Path) -> None:
    """After SIGTERM the run waits for the next worker at once, and none of its workers counts as lost."""
    with up(own_stack, tmp_path / "log") as process, Client(own_stack.addresses) as client:
        client.push("parity", dataset)
        run = client.train("parity", preset="baseline", num_epochs=1000, target_size=0)
        next(event for event in run.watch() if isinstance(event, TrainingRunEvent) and event.epoch == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_SECONDS) == 0
        gone(own_stack.home)
    with closing(sqlite3.connect(own_stack.home / "trainer.sqlite")) as connection:
        query = "SELECT state, num_lost, lease_expires_us FROM training_runs"
        assert connection.execute(query).fetchall() == [(TrainingRun.STATE_RECOVERING, 0, None)]


def test_a_service_that_dies_is_started_again(own_stack: Stack, dataset: Path, tmp_path: Path) -> None:
    """`handful up` starts a killed service again, whose children are gone; one that dies at once again ends it all."""
    log = tmp_path / "log"
    with up(own_stack, log) as process, Client(own_stack.addresses) as client:
        client.push("parity", dataset)
        (killed,), decoders = pids(own_stack.home, "services.dataset"), pids(own_stack.home, "spawn_main")
        until(lambda: seconds_of(killed) > SETTLED_SECONDS + 1, "the service has settled")
        os.kill(killed, signal.SIGKILL)
        until(lambda: "The dataset service ended (SIGKILL); starting it again." in log.read_text(), "it says so")
        until(lambda: pushed(client, dataset), "it serves again")
        until(lambda: not any(map(alive, decoders)), "the decoders are gone")
        os.kill(pids(own_stack.home, "services.dataset")[0], signal.SIGKILL)
        assert process.wait(START_SECONDS) == 2
        assert log.read_text().rpartition("\nhandful: ")[2].startswith("The dataset service ended")
        gone(own_stack.home)


def told(stack: Stack, *arguments: str) -> str:
    """What `handful` prints."""
    command = [str(Path(sys.executable).parent / "handful"), *arguments]
    environment = {**stack.environment, "HANDFUL_TRAINER": stack.addresses.trainer}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def pushed(client: Client, dataset: Path) -> bool:
    """Whether pictures can be pushed."""
    try:
        client.push("parity", dataset)
    except Unavailable:
        return False
    return True


def seconds_of(pid: int) -> float:
    """How long a process has run."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
