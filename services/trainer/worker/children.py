"""Functions and programs in processes of their own, which give their memory back, and end with the work they belong to.

A child leads a process group, so that what it starts goes with it. It is killed outright: it holds nothing that would
have to be put in order, and one that is stuck would not listen.
"""

import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import IO, TypeVar

Result = TypeVar("Result")
Process = SpawnProcess | subprocess.Popen[bytes]

GONE_SECONDS = 5.0
STEP_SECONDS = 0.5
EXIT_SECONDS = 0.01
_CHUNK_BYTES = 65536
_SPAWN = multiprocessing.get_context("spawn")


class ChildLost(Exception):
    """A child process ended without an answer."""


class InChild(Exception):
    """The traceback of what a child raised, as text: the objects in it may not come over."""


# Of all children of this process: whoever starts one of them has others that have ended waited for, by multiprocessing.
# Reentrant: a signal handler may end them while they are being ended.
_LOCK = threading.RLock()


class Children:
    """The child processes of one piece of work."""

    def __init__(self) -> None:
        self._alive: set[Process] = set()
        self._folders: set[Path] = set()
        self._ended = False

    def run(self, task: Callable[..., Result], *arguments: object) -> Result:
        """What the task returns or raises. MemoryError where the system killed it; ChildLost where it
        ended otherwise, or with the work.
        """
        ours, theirs = _SPAWN.Pipe()
        with ours:
            with theirs:
                process = self._start(theirs)
            try:
                # Not with its start, which would wait for ever on one that dies before it has read much.
                ours.send((task, arguments))
                answer = ours.recv()
            except (EOFError, ConnectionError):
                answer = None
                wait([process.sentinel], GONE_SECONDS)
            finally:
                self._bury(process)
        if answer is None:
            raise self._lost(process.exitcode)
        succeeded, value = answer
        if not succeeded:
            problem, told = value
            raise problem from InChild(told)
        result: Result = value
        return result

    def lines(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        errors: IO[bytes],
        step: Callable[[], None],
    ) -> Iterator[str]:
        """What a program prints, line by line, until it ends; `step` is called twice a second at least, and may raise.
        The program has this environment alone, runs in the folder, and has to end when its standard input does. Errors
        as those of `run`, where its exit code is not 0.
        """
        process = self._start_program(command, environment, folder, errors)
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        rest, output, there, exited = b"", process.stdout.fileno(), select.poll(), False
        there.register(output, select.POLLIN)
        try:
            while True:
                step()
                if not there.poll(STEP_SECONDS * 1e3):
                    continue
                chunk = os.read(output, _CHUNK_BYTES)
                if not chunk:
                    break
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode()
            exited = _exits(process.pid)
        finally:
            self._bury(process)
        if not exited or process.returncode != 0:
            raise self._lost(process.returncode if exited else None)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for a child to work in; it is gone when the work ends, whichever way."""
        with tempfile.TemporaryDirectory(prefix="handful-", ignore_cleanup_errors=True) as made:
            with _LOCK:
                self._folders.add(Path(made))
            try:
                yield Path(made)
            finally:
                with _LOCK:
                    self._folders.discard(Path(made))

    def end(self) -> None:
        """Kills those there are, with all that they started, and lets none start any more."""
        with _LOCK:
            self._ended = True
            alive, folders = tuple(self._alive), tuple(self._folders)
            for process in alive:
                _kill(process)
        for process in alive:
            _await(process)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, parent: Connection) -> SpawnProcess:
        process = _SPAWN.Process(target=_run, args=(parent,), daemon=True)
        with _LOCK:
            if self._ended:
                raise ChildLost("the work is over")
            process.start()
            self._alive.add(process)
        return process

    def _start_program(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        with _LOCK:
            if self._ended:
                raise ChildLost("the work is over")
            process = subprocess.Popen(  # noqa: S603 - a program of ours
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            self._alive.add(process)
        return process

    def _bury(self, process: Process) -> None:
        with _LOCK:
            _kill(process)
            # Nobody may kill it any more: once it is waited for, its id may be another's.
            self._alive.discard(process)
        if isinstance(process, SpawnProcess):
            process.join()
        else:
            process.communicate()

    def _lost(self, code: int | None) -> Exception:
        if self._ended:
            return ChildLost("the work is over")
        lost = f"the child process ended with exit code {code}"
        return MemoryError(lost) if code == -signal.SIGKILL else ChildLost(lost)


def _await(process: Process) -> None:
    if isinstance(process, SpawnProcess):
        wait([process.sentinel], GONE_SECONDS)
    else:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GONE_SECONDS)


def _kill(process: Process) -> None:
    """Kills the group of a child that was not waited for, alive or not; of any other the id may be someone else's."""
    if process.pid is None:
        return
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    # One that has just been started has no group of its own yet.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _exits(pid: int) -> bool:
    """Whether a child ends soon; its id is its own until it is waited for."""
    ends = time.monotonic() + GONE_SECONDS
    while time.monotonic() < ends:
        with suppress(ChildProcessError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(EXIT_SECONDS)
                continue
        return True
    return False


def _run(parent: Connection) -> None:
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        task, arguments = parent.recv()
        parent.send((True, task(*arguments)))
    except Exception as problem:  # noqa: BLE001 - it is raised where the answer is awaited
        parent.send((False, (problem, traceback.format_exc())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
