"""What is lost when processes die: workers and trainers killed and frozen by the dozen, under real runs.

usage: recovery.py [--database sqlite|postgresql] [--seed N] [--queue N] [--workers N] [--trainers N] [--zombies N]
                   [--creates N] [--cuts N] [--ups N]

Without a number for any, all of them as often as we promise. The campaigns are in tests/campaigns.py; the first promise
that is broken ends it with a traceback and status 1. Pictures are made up: nothing here depends on what is learned.
All of it takes about half an hour on two cores.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from handful import Client
from handful.cli.stack import Stack
from handful.v1.trainer_pb2 import TrainingRun
from tests.campaigns import (
    RECIPE,
    Killing,
    Story,
    create_at_once,
    cut_power,
    kill_trainers,
    raise_zombies,
    work_off,
)
from tests.postgres_server import PostgresServer
from tests.processes import gone, of_home, until, up

PROMISED = {"queue": 20, "workers": 60, "trainers": 20, "zombies": 30, "creates": 100, "cuts": 5, "ups": 5}
DATASET = "parity"
PICTURES, EPOCHS = 8, 20
# Runs at once, each with a worker of about a gigabyte; where half of the workers are zombies, fewer.
AT_ONCE, HAUNTED_AT_ONCE = 5, 3
AWAY_SECONDS, LONG_AWAY_SECONDS = (0.0, 5.0, 20.0), 60.0
GONE_SECONDS = 15.0


class Place:
    """A home with a database, a dataset and a backbone, for one stack after another."""

    def __init__(self, home: Path, database: str) -> None:
        self.home = home
        self._environment = {"HANDFUL_WORKER_THREADS": "1"}
        if database:
            self._environment |= {"HANDFUL_DATASET_DATABASE": database, "HANDFUL_TRAINER_DATABASE": database}
        with self.up(workers=1) as stack, Client(stack.addresses) as client:
            client.push(DATASET, _pictures(home / "pictures"))
            client.train(DATASET).result()  # builds the backbone's graph
            started = time.perf_counter()
            story = Story(client.train(DATASET, num_epochs=EPOCHS, **RECIPE)).follow()
            story.check(TrainingRun.STATE_SUCCEEDED, EPOCHS)
            self.run_seconds = time.perf_counter() - started

    def stack(self, workers: int) -> Stack:
        """One that has not been started."""
        stack = Stack.on_free_ports(self.home)
        stack.environment |= self._environment | {"HANDFUL_WORKERS": str(workers)}
        return stack

    @contextmanager
    def up(self, workers: int) -> Iterator[Stack]:
        """One that is up; afterwards no process of it is left."""
        with self.stack(workers) as stack:
            yield stack
        gone(self.home)


def queue(place: Place, number: int, _: Random) -> str:
    with place.up(workers=2) as stack, Client(stack.addresses) as client:
        done = work_off(client, DATASET, number, workers=2)
    return f"{number} runs, 2 workers: every run in its first attempt; {' and '.join(map(str, done))} runs each"


def workers(place: Place, number: int, chance: Random) -> str:
    # A new worker loads torch while others compute, so that an attempt takes longer than an undisturbed run.
    killing = Killing(chance, attempt_seconds=2 * place.run_seconds)
    with place.up(workers=AT_ONCE) as stack, Client(stack.addresses) as client:
        killing.campaign(client, DATASET, number, AT_ONCE, EPOCHS)
    seconds = sorted(killing.seconds)
    return (
        f"{number} runs, {len(killing.killed)} workers killed: {dict(killing.states)}, as is right; "
        f"{sum(killing.epochs_lost)} epochs done again, at most "
        f"{max(killing.epochs_lost)} each time; the run went on after {seconds[len(seconds) // 2]:.1f} s (median), "
        f"{seconds[-1]:.1f} s (most)"
    )


def trainers(place: Place, number: int, chance: Random) -> str:
    away = [AWAY_SECONDS[position % len(AWAY_SECONDS)] for position in range(number - 1)] + [LONG_AWAY_SECONDS]
    with place.up(workers=2) as stack, Client(stack.addresses) as client:
        seen = kill_trainers(stack, client, DATASET, away, (100, 10), chance)
    return (
        f"{number} trainers killed, away 0, 5, 20 s in turn and once 60 s; {seen['runs']} runs, all in their first "
        f"attempt; {seen['events']} events seen, none lost or doubled"
    )


def zombies(place: Place, number: int, chance: Random) -> str:
    at_once = min(number, HAUNTED_AT_ONCE)
    with place.up(workers=2 * at_once) as stack, Client(stack.addresses) as client:
        refused = raise_zombies(stack, client, DATASET, number, at_once, 30, chance)
    return f"{number} workers stopped past their lease and let go; {refused} writes refused, 0 taken"


def creates(place: Place, number: int, _: Random) -> str:
    with place.up(workers=0) as stack:
        create_at_once(stack, DATASET, number)
    return f"{number} calls at once, and one after the trainer was killed, with one request_id: 1 run"


def cuts(place: Place, number: int, chance: Random) -> str:
    seconds = []
    with place.up(workers=1) as stack, Client(stack.addresses) as client:
        for _ in range(number):
            moment = chance.uniform(0, place.run_seconds / 2)
            seconds.append(cut_power(stack, client, DATASET, 2 * EPOCHS, moment))
    return f"all killed at once {number} times; started again, the run went on after {max(seconds):.1f} s at most"


def ups(place: Place, number: int, chance: Random) -> str:
    ends = [_kill_up(place, chance.uniform(0, 5)) for _ in range(number)]
    below, seconds = max(below for below, _ in ends), max(seconds for _, seconds in ends)
    return f"`handful up` killed {number} times, {below} processes below it; all gone after {seconds:.1f} s at most"


def _kill_up(place: Place, moment: float) -> tuple[int, float]:
    """How many processes there were below it, and the seconds until none was left."""
    stack = place.stack(workers=1)
    with up(stack, place.home / "up.log") as process, Client(stack.addresses) as client:
        client.push(DATASET, place.home / "pictures")  # so that there are processes that decode
        run = client.train(DATASET, weights="RANDOM")  # whose graph a process builds
        until(lambda: run.refresh().state == TrainingRun.STATE_RUNNING, "it runs")
        time.sleep(moment)
        below = len(of_home(place.home)) - 1
        process.kill()
        killed = time.perf_counter()
        process.wait()
        gone(place.home, GONE_SECONDS)
        return below, time.perf_counter() - killed


CAMPAIGNS: dict[str, Callable[[Place, int, Random], str]] = {
    "queue": queue,
    "workers": workers,
    "trainers": trainers,
    "zombies": zombies,
    "creates": creates,
    "cuts": cuts,
    "ups": ups,
}


def _pictures(folder: Path) -> Path:
    for number in range(PICTURES):
        path = folder / ("even", "odd")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    for name in CAMPAIGNS:
        parser.add_argument(f"--{name}", type=int, metavar="N")
    given = vars(parser.parse_args())
    asked = {name: given[name] for name in CAMPAIGNS if given[name]} or PROMISED
    home = Path(tempfile.mkdtemp(prefix="handful-recovery-"))
    if given["database"] == "postgresql":
        with PostgresServer() as server:
            measure(Place(home, server.empty_database()), asked, given["seed"], "PostgreSQL")
    else:
        measure(Place(home, ""), asked, given["seed"], "SQLite")
    shutil.rmtree(home)


def measure(place: Place, asked: dict[str, int], seed: int, database: str) -> None:
    print(f"{database}; an undisturbed run of {EPOCHS} epochs takes {place.run_seconds:.1f} s", flush=True)
    for name, number in asked.items():
        started = time.perf_counter()
        said = CAMPAIGNS[name](place, number, Random(seed))  # noqa: S311 - the same moments every time
        print(f"{name:9} {said} ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
