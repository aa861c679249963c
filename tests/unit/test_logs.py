"""Logs: a line of JSON per fact, which nothing that was logged can break out of, and no private data."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def logged(program: str, level: str = "info") -> list[dict[str, Any]]:
    """The lines that a program logs in a process of its own."""
    setup = f"import structlog\nfrom services.shared import logs\nlogs.configure('sample', {level!r})\n"
    command = [sys.executable, "-c", f"{setup}log = structlog.get_logger()\n{program}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert not ended.stdout
    return [json.loads(line) for line in ended.stderr.decode().splitlines()]


def test_a_fact_is_a_line() -> None:
    """A line has what was logged, service, level and time, and is one line whatever stands in it."""
    (line,) = logged(r"log.info('stored', label='a\nb\x1b[31m\u2028', num=2)")
    assert (line["event"], line["service"], line["level"]) == ("stored", "sample", "info")
    assert (line["label"], line["num"]) == ("a\nb\x1b[31m\u2028", 2)
    assert line["timestamp"].endswith("Z")


def test_the_request_id_is_on_every_line() -> None:
    """What is bound to the call being served stands in all of its lines, and in no other call's."""
    lines = logged(
        "import asyncio\n"
        "async def call(number):\n"
        "    structlog.contextvars.bind_contextvars(request_id=number)\n"
        "    await asyncio.sleep(0.01)\n"
        "    log.info('one', number=number)\n"
        "async def calls():\n"
        "    await asyncio.gather(*(call(number) for number in range(5)))\n"
        "    log.info('after')\n"
        "asyncio.run(calls())\n"
    )
    assert [line["request_id"] for line in lines[:-1]] == [line["number"] for line in lines[:-1]]
    assert "request_id" not in lines[-1]


def test_levels_are_kept() -> None:
    """Below the level that was asked for nothing is logged."""
    program = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    assert [line["event"] for line in logged(program, "debug")] == ["a", "b", "c", "d"]
    assert [line["event"] for line in logged(program, "WARNING")] == ["c", "d"]


def test_tracebacks_hold_no_variables() -> None:
    """A traceback says where and what, and not what was in the variables: a user's data may be."""
    (line,) = logged(
        "def work(label):\n"
        "    filename = label + '.jpg'\n"
        "    raise RuntimeError('broke')\n"
        "try:\n"
        "    work('CAN' + 'ARY')\n"
        "except RuntimeError as problem:\n"
        "    log.error('call', exc_info=problem)\n"
    )
    text = json.dumps(line)
    assert "RuntimeError" in text
    assert "broke" in text
    assert "work" in text
    assert "CANARY" not in text
