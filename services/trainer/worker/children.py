"""Functions in processes of their own, which give their memory back, and which end with the work they are part of.

A child leads a process group, so that what it starts goes with it. It is killed outright: it holds nothing that would
have to be put in order, and one that is stuck would not listen.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

Result = TypeVar("Result")

GONE_SECONDS = 5.0
_SPAWN = multiprocessing.get_context("spawn")


class ChildLost(Exception):
    """A child process ended without an answer."""


class InChild(Exception):
    """The traceback of what a child raised, as text: the objects in it may not come over."""


class Children:
    """The child processes of one piece of work."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may end them while they are being ended.
        self._lock = threading.RLock()
        self._alive: set[SpawnProcess] = set()
        self._ended = False

    def run(self, task: Callable[..., Result], *arguments: object) -> Result:
        """What the task returns or raises. MemoryError where the system killed it; ChildLost where it
        ended otherwise, or with the work.
        """
        ours, theirs = _SPAWN.Pipe(duplex=False)
        with ours:
            with theirs:
                process = self._start(theirs, task, arguments)
            try:
                answer = ours.recv()
            except EOFError:
                answer = None
                wait([process.sentinel], GONE_SECONDS)
            finally:
                self._bury(process)
        if answer is None:
            raise self._lost(process)
        succeeded, value = answer
        if not succeeded:
            problem, told = value
            raise problem from InChild(told)
        result: Result = value
        return result

    def end(self) -> None:
        """Kills those there are, with all that they started, and lets none start any more."""
        with self._lock:
            self._ended = True
            alive = tuple(self._alive)
        for process in alive:
            _kill(process)
        for process in alive:
            wait([process.sentinel], GONE_SECONDS)

    def _start(self, answer: Connection, task: Callable[..., Any], arguments: tuple[object, ...]) -> SpawnProcess:
        process = _SPAWN.Process(target=_run, args=(answer, task, arguments), daemon=True)
        with self._lock:
            if self._ended:
                raise ChildLost("the work is over")
            process.start()
            self._alive.add(process)
        return process

    def _bury(self, process: SpawnProcess) -> None:
        _kill(process)
        process.join()
        with self._lock:
            self._alive.discard(process)

    def _lost(self, process: SpawnProcess) -> Exception:
        if self._ended:
            return ChildLost("the work is over")
        lost = f"the child process ended with exit code {process.exitcode}"
        return MemoryError(lost) if process.exitcode == -signal.SIGKILL else ChildLost(lost)


def _kill(process: SpawnProcess) -> None:
    # One that has just been started has no group of its own yet.
    if process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def _run(answer: Connection, task: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer.send((True, task(*arguments)))
    except Exception as problem:  # noqa: BLE001 - it is raised where the answer is awaited
        answer.send((False, (problem, traceback.format_exc())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
