"""One round: a server is started, settles, and is asked by 1, 8 and 32 callers; then it is ended."""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import models
from benchmarks.peers.catalogue import ROOT, Configuration, bare
from benchmarks.peers.classifier import Answer
from benchmarks.peers.processes import Ended, Tree, free_port

Process = subprocess.Popen[str]

CALLERS = (1, 8, 32)
WARM_SECONDS = 1.0
START_SECONDS = 120.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Figures:
    """Of one round with so many callers; times in seconds, `server_cpu` and `client_cpu` for each answered call."""

    callers: int
    answered: int
    failed: int
    why: str
    rate: float
    p50: float
    p99: float
    server_cpu: float
    client_cpu: float
    answers: list[Answer | None]


@dataclass(frozen=True)
class Round:
    """What a server showed between its start and its end."""

    figures: dict[int, Figures]
    ready_seconds: float
    memory_bytes: int
    log: str


@dataclass(frozen=True)
class Alone:
    """The same work without a server: processor seconds for each picture, pictures per second, the answers, and what
    would have been right.
    """

    cpu_seconds: float
    rate: float
    answers: list[Answer]
    labels: list[str]


@dataclass(frozen=True)
class Subject:
    """What is served: an architecture's exported zip, the home of our services, and the pictures."""

    architecture: str
    folder: Path
    home: Path
    pictures: Path

    def bodies(self, configuration: Configuration) -> list[str]:
        """What is sent for each picture, in Base64."""
        write, model = configuration.wire.write, models.model_id(f"{self.architecture}{configuration.variant}")
        files = [path.read_bytes() for path in sorted(self.pictures.iterdir())]
        return [base64.b64encode(write(one, model)).decode() for one in files]

    @property
    def labels(self) -> list[str]:
        """The classes of the pictures."""
        return [models.label(path) for path in sorted(self.pictures.iterdir())]


class Load:
    """The process of the callers."""

    def __init__(self, configuration: Configuration, subject: Subject, port: int, process: Process) -> None:
        self._wire = configuration.wire
        self._process = process
        self._send(
            {
                "protocol": self._wire.protocol,
                "address": f"127.0.0.1:{port}",
                "path": self._wire.path,
                "content_type": self._wire.content_type,
                "bodies": subject.bodies(configuration),
            }
        )

    def ask(self, callers: int, seconds: float) -> dict[str, Any]:
        self._send({"callers": callers, "seconds": seconds})
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def read(self, answer: str) -> Answer | None:
        return self._wire.read(base64.b64decode(answer)) if answer else None

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def run(configuration: Configuration, subject: Subject, seconds: float, cores: Sequence[int]) -> Round:
    """Ended where the server does not come to answer, or goes."""
    port = free_port()
    started = configuration.start(subject.folder, subject.home, port)
    with (
        tempfile.TemporaryDirectory(prefix="handful-bench-") as folder,
        _callers(cores) as process,
        Tree(started.command, {**bare(), **started.environment}, Path(folder), cores, [process.pid]) as tree,
    ):
        load = Load(configuration, subject, port, process)
        ready_seconds = _wait(load, tree)
        load.ask(max(CALLERS), WARM_SECONDS)
        _wait_for(configuration.prepared, tree)
        tree.settle()
        load.ask(max(CALLERS), WARM_SECONDS)
        figures = {callers: _measure(load, tree, callers, seconds) for callers in CALLERS}
        tree.check()
        return Round(figures, ready_seconds, tree.memory_bytes(), tree.log())


def alone(subject: Subject, threads: int, seconds: float) -> Alone:
    """The model in a process of its own that nobody calls."""
    arguments = [str(subject.folder), str(subject.pictures), str(threads), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.peers.classifier", *arguments]
    done = subprocess.run(command, env=bare(), check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    answers = [[(label, score) for label, score in one] for one in found["answers"]]
    return Alone(found["cpu_seconds"], found["rate"], answers, subject.labels)


@contextmanager
def _callers(taken: Sequence[int]) -> Iterator[Process]:
    """On the cores that the server has not, where there are any."""
    usual = os.sched_getaffinity(0)
    command = [sys.executable, "-m", "benchmarks.peers.load"]
    with subprocess.Popen(
        command, cwd=ROOT, env=bare(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        os.sched_setaffinity(process.pid, usual - set(taken) or usual)
        try:
            yield process
        finally:
            process.kill()


def _wait(load: Load, tree: Tree) -> float:
    """Until a call is answered: the seconds it took."""
    began = time.monotonic()
    while True:
        found = load.ask(1, 0)
        if found["answered"]:
            return time.monotonic() - began
        tree.check()
        if time.monotonic() > began + START_SECONDS:
            raise Ended(f"no answer within {START_SECONDS:.0f} s ({found['why']}); it said: {tree.last_words()}")
        time.sleep(_POLL_SECONDS)


def _wait_for(said: str, tree: Tree) -> None:
    """Until its log says so. On a machine that is busy, a server may look idle long before."""
    ends = time.monotonic() + START_SECONDS
    while said not in tree.log():
        tree.check()
        if time.monotonic() > ends:
            raise Ended(f"it did not say {said!r} within {START_SECONDS:.0f} s; it said: {tree.last_words()}")
        time.sleep(_POLL_SECONDS)


def _measure(load: Load, tree: Tree, callers: int, seconds: float) -> Figures:
    before = tree.cpu_seconds()
    found = load.ask(callers, seconds)
    used = tree.cpu_seconds() - before
    answered = max(found["answered"], 1)
    return Figures(
        callers,
        found["answered"],
        found["failed"],
        found["why"],
        found["answered"] / found["seconds"],
        found["p50"],
        found["p99"],
        used / answered,
        found["cpu_seconds"] / answered,
        [load.read(one) for one in found["answers"]],
    )
