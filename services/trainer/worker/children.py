"""A function in a process of its own, which ends with it and gives its memory back."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_child(task: Callable[..., Result], *arguments: object) -> Result:
    """What the task returns or raises. MemoryError where its process was killed, as the system does to the largest."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, task, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        succeeded, value = ours.recv()
    except EOFError:
        process.join()
        raise MemoryError(f"the child process ended with exit code {process.exitcode}") from None
    process.join()
    if not succeeded:
        raise value
    result: Result = value
    return result


def _run(answer: Connection, task: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    try:
        answer.send((True, task(*arguments)))
    except Exception as problem:  # noqa: BLE001 - it is raised where the answer is awaited
        answer.send((False, problem))
