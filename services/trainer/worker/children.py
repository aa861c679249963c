"""A function in a process of its own, which ends with it and gives its memory back."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")


class ChildLost(Exception):
    """A child process ended without an answer."""


def in_child(task: Callable[..., Result], *arguments: object) -> Result:
    """What the task returns or raises, with its cause. MemoryError where the system killed it; ChildLost otherwise."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, task, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        succeeded, value = ours.recv()
    except EOFError:
        process.join()
        lost = f"the child process ended with exit code {process.exitcode}"
        raise (MemoryError(lost) if process.exitcode == -signal.SIGKILL else ChildLost(lost)) from None
    process.join()
    if not succeeded:
        problem, cause = value
        raise problem from cause
    result: Result = value
    return result


def _run(answer: Connection, task: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer.send((True, task(*arguments)))
    except Exception as problem:  # noqa: BLE001 - it is raised where the answer is awaited
        answer.send((False, (problem, problem.__cause__)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
