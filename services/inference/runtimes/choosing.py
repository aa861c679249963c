"""Which runtime serves a graph, how many pictures it takes at once, and whether one that is alone has several threads:
measured on this machine, once while the process lives. What a processor says it can do is not asked: it says bfloat16
where that is slower.
"""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from handful.bundle.sounds import Inputs
from services.inference.runtimes import DEFAULT, LONE_THREADS, RUNTIMES
from services.inference.runtimes.measuring import pack
from services.shared.settings import CannotStart

log = structlog.get_logger()

AUTO = "auto"
# What is within this of the best counts as well: the default runtime, and smaller batches.
TOLERANCE = 1.03
# A picture that is alone has several threads where it is done in this share of the time: they cost more of the
# processor, and memory.
WORTH = 0.8
SECONDS = 2.0
PATIENCE_SECONDS = 120.0


Row = Sequence[Any]


class RuntimeMissing(CannotStart):
    """The runtime that the settings name is not installed."""


@dataclass(frozen=True)
class Choice:
    """What serves a graph: a runtime, the most pictures in one pass, and the threads of a picture that is alone."""

    runtime: str = DEFAULT
    cap: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Table:
    """What was measured: runtime, pictures at once, milliseconds of processor time for each; and, of a picture that is
    alone, runtime, threads, milliseconds until it is done.
    """

    rows: Sequence[Row] = ()
    alone: Sequence[Row] = ()


def allowed(named: str) -> tuple[str, ...]:
    """The runtimes that a setting allows: of `auto` all that are installed. RuntimeMissing."""
    if named == AUTO:
        return tuple(name for name, runtime in RUNTIMES.items() if runtime.version is not None)
    if RUNTIMES[named].version is None:
        raise RuntimeMissing(
            f"HANDFUL_INFERENCE_RUNTIME={named}: it is not installed. Install Handful with the extra {named}, or leave "
            f"it to {AUTO}."
        )
    return (named,)


class Chooser:
    """Has graphs measured, for the runtimes that are allowed, batches of at most `cap` pictures, and as many threads as
    the server has, on cores of their own.
    """

    def __init__(self, names: Sequence[str], cap: int, threads: int = 1, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._names = tuple(names)
        self._cap = cap
        self._threads = threads
        self._choices: dict[str, Choice] = {}
        self._tables: dict[str, Table] = {}

    def known(self, graph_sha256: str) -> Choice | None:
        """What serves a graph; None before that is settled."""
        return self._choices.get(graph_sha256)

    async def choose(self, graph_sha256: str, graph: bytes, inputs: Sequence[Inputs]) -> Choice:
        """What serves the graph best. `inputs` are some real ones, of one picture or sound each. Where none of the
        runtimes may, or they cannot be measured, it is the default, and the log says so.
        """
        found = await self._measured(self._names, graph, inputs)
        if found is None and set(self._names) != {DEFAULT}:  # another library may have taken the process with it
            found = await self._measured((DEFAULT,), graph, inputs)
        table, refused = (Table(), {}) if found is None else (Table(found["rows"], found["alone"]), found["refused"])
        self._tables[graph_sha256] = table
        choice = pick(table.rows, table.alone)
        _tell(graph_sha256, choice, table, refused)
        return choice

    def measured(self, graph_sha256: str) -> Table:
        """What was measured of a graph."""
        return self._tables.get(graph_sha256, Table())

    def settle(self, graph_sha256: str, choice: Choice) -> None:
        """From now on this serves the graph, whenever it is loaded."""
        self._choices[graph_sha256] = choice

    async def _measured(self, names: Sequence[str], graph: bytes, inputs: Sequence[Inputs]) -> dict[str, Any] | None:
        child = _Child([",".join(names), str(self._cap), str(SECONDS), str(self._threads)])
        try:
            async with asyncio.timeout(self._patience):
                said = await asyncio.to_thread(child.answer, pack(graph, inputs))
            found: dict[str, Any] = json.loads(said.splitlines()[-1])
        except TimeoutError:  # the machine is busy, which is no fault
            log.warning("runtimes not measured in time; the default one serves, nothing need be done", runtimes=names)
            return None
        except (OSError, IndexError, ValueError):
            log.exception("runtimes cannot be measured", runtimes=names)
            return None
        finally:
            child.give_up()
        return found


class _Child:
    """The process that measures, on a thread of its own: asyncio's subprocesses never end a task that is cancelled
    while one of them is being started.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "services.inference.runtimes.measuring", *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False

    def answer(self, told: bytes) -> bytes:
        """All that it says. What it reads is left open meanwhile: when we are gone, so is it."""
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=nothing) as process:  # noqa: S603 - ours
            self._process = process
            if self._given_up:
                process.kill()
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            assert process.stdout is not None  # noqa: S101 - it is too
            process.stdin.write(told)
            process.stdin.flush()
            return process.stdout.read()

    def give_up(self) -> None:
        """Ends it, or has it ended as soon as it is started."""
        self._given_up = True
        if self._process is not None:
            self._process.kill()


def _tell(graph_sha256: str, choice: Choice, table: Table, refused: dict[str, str]) -> None:
    chosen = {"runtime": choice.runtime, "cap": choice.cap, "threads_alone": choice.threads}
    found = {"ms_per_picture": _by_runtime(table.rows), "ms_alone": _by_runtime(table.alone)}
    log.info("runtimes measured", graph_sha256=graph_sha256, **chosen, **found)
    for name, reason in refused.items():
        log.warning("a runtime is refused", graph_sha256=graph_sha256, runtime=name, reason=reason)


def _by_runtime(rows: Iterable[Row]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for name, number, milliseconds in rows:
        found.setdefault(name, {})[number] = round(milliseconds, 2)
    return found


def pick(rows: Sequence[Row], alone: Sequence[Row] = ()) -> Choice:
    """The runtime with the least geometric mean of the time of one picture alone and of one in the best batch, the
    default one if that is not slower by more than the tolerance; the smallest batch that is within the tolerance of
    the best; and, of a picture that is alone, several threads where they are worth it.
    """
    times: dict[str, dict[int, float]] = {}
    for name, size, milliseconds in rows:
        times.setdefault(name, {})[size] = milliseconds
    if not times:
        return Choice()
    scores = {name: math.sqrt(of[1] * min(of.values())) for name, of in times.items()}
    best = min(scores, key=lambda name: scores[name])
    chosen = DEFAULT if scores.get(DEFAULT, math.inf) <= TOLERANCE * scores[best] else best
    enough = TOLERANCE * min(times[chosen].values())
    cap = min(size for size, milliseconds in times[chosen].items() if milliseconds <= enough)
    took = {threads: milliseconds for name, threads, milliseconds in alone if name == chosen}
    wide = bool(took) and took[LONE_THREADS] <= WORTH * took[1]
    return Choice(chosen, cap, LONE_THREADS if wide else 1)
