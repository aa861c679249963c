"""Processes as the system sees them: which there are, whose they are, and whether they are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handful.cli.stack import Stack

PATIENCE_SECONDS = 30.0
START_SECONDS = 60.0


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """The process that a process belongs to. OSError where it has ended."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children() -> list[int]:
    """The processes that this one has started and that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if parent_of(int(folder.name)) == os.getpid():
                found.append(int(folder.name))
    return [pid for pid in found if alive(pid)]


def of_home(home: Path) -> dict[int, str]:
    """Every process that was started under a HANDFUL_HOME, however it descends: its id and its command line."""
    mark = f"HANDFUL_HOME={home}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it is another user's, or has just ended
    return {pid: command for pid, command in found.items() if alive(pid)}


def until(is_so: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until something is so; AssertionError with what was expected where that takes too long."""
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, f"{what} within {seconds:.0f} s"
        time.sleep(0.05)


def gone(home: Path, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until no process of a home is left."""
    until(lambda: not of_home(home), f"no process is left: {of_home(home)}", seconds)


@contextmanager
def stack_in(home: Path) -> Iterator[Stack]:
    """A stack that is not started yet, and of which nothing is left afterwards: a worker finishes its run though its
    trainer is gone. It serves by the runtime that is always there; measuring which is fastest takes seconds a network.
    """
    stack = Stack.on_free_ports(home)
    stack.environment["HANDFUL_INFERENCE_RUNTIME"] = "onnxruntime"
    try:
        yield stack
    finally:
        for pid in of_home(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def up(stack: Stack, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`handful up` at the addresses of a stack that is not started, until it is ready; killed where it still is."""
    addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(stack.addresses).items()}
    environment = {**stack.environment, **addresses, "HANDFUL_WORKER_ADDRESS": stack.worker_address}
    command = [str(Path(sys.executable).parent / "handful"), "up", "--home", str(stack.home)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: "Handful is up." in log.read_text(), "it is up", START_SECONDS)
            yield process
        finally:
            process.kill()
            process.wait()
