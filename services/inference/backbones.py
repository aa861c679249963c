"""Backbones in memory: each graph once, in the runtime that was measured to be the fastest here. A graph answers at
once, with the default runtime and one picture at a time, and is measured beside.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition
from services.inference.pool import Pool
from services.inference.runtimes import DEFAULT, RUNTIMES, Body
from services.inference.runtimes.choosing import Choice, Chooser
from services.shared.objects import ObjectMissing, ObjectStore, StoreUnavailable, get_first

log = structlog.get_logger()

# An estimate: a loaded graph takes some times the memory of its file, for prepared weights and work space.
GRAPH_IN_MEMORY = 4


@dataclass(frozen=True)
class Graph:
    """What is loaded: the keys under which it may lie, and the SHA-256 of its bytes."""

    keys: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class LoadedBackbone:
    """A graph that is ready to run, on at most `cap` pictures at once; `private` where it is a single model's, or a
    project's, own.
    """

    backbone: Body
    num_bytes: int
    cap: int = 1
    private: bool = False


class Backbones:
    """Backbones on demand, in a pool that others share."""

    def __init__(self, store: ObjectStore, pool: Pool, chooser: Chooser | None, num_callers: int) -> None:
        self._store = store
        self._pool = pool
        self._chooser = chooser
        self._num_callers = num_callers
        self._measuring: dict[str, asyncio.Task[None]] = {}

    async def get(self, graph: Graph) -> LoadedBackbone:
        """FailedPrecondition where no runtime here takes it."""
        return await self._pool.get(graph.sha256, partial(self._load, graph))

    def measure(self, graph: Graph, inputs: Sequence[Inputs], check: Callable[[Body], object]) -> None:
        """Has a graph measured once, on these inputs, and served by what is best from then on. What serves it then has
        passed the check, which raises where it does not pass.
        """
        if self._chooser and not self._chooser.known(graph.sha256) and graph.sha256 not in self._measuring:
            task = asyncio.create_task(self._measure(self._chooser, graph, inputs, check))
            self._measuring[graph.sha256] = task
            task.add_done_callback(lambda _: self._measuring.pop(graph.sha256))

    async def _load(self, graph: Graph) -> LoadedBackbone:
        data, private = await asyncio.to_thread(self._read, graph)
        choice = (self._chooser and self._chooser.known(graph.sha256)) or Choice()
        try:
            body = await asyncio.to_thread(RUNTIMES[choice.runtime].load, data, self._num_callers)
        except MemoryError:
            raise
        except Exception as problem:  # the runtime has many
            raise cannot_run() from problem
        log.info("backbone loaded", graph_sha256=graph.sha256, num_bytes=len(data), runtime=choice.runtime)
        return LoadedBackbone(body, GRAPH_IN_MEMORY * len(data), choice.cap, private)

    def _read(self, graph: Graph) -> tuple[bytes, bool]:
        """The bytes, and whether they are not where all projects share them."""
        shared, *own = graph.keys
        try:
            return self._store.get(shared, graph.sha256), False
        except ObjectMissing:
            return get_first(self._store, own, graph.sha256), True

    async def _measure(
        self, chooser: Chooser, graph: Graph, inputs: Sequence[Inputs], check: Callable[[Body], object]
    ) -> None:
        try:
            data, _ = await asyncio.to_thread(self._read, graph)
            choice = await chooser.choose(graph.sha256, data, inputs)
            body = None
            if choice.runtime != DEFAULT:
                body = await asyncio.to_thread(self._prepare, choice, data, inputs, check)
        except (StoreUnavailable, MemoryError):  # it passes: whoever loads the graph next has it measured again
            log.exception("the graph cannot be measured now", graph_sha256=graph.sha256)
            return
        except Exception:  # whatever it is, what serves the graph now goes on
            log.exception("the default runtime stays", graph_sha256=graph.sha256)
            chooser.settle(graph.sha256, Choice())
            return
        chooser.settle(graph.sha256, choice)
        before = await self.get(graph)
        body = body or before.backbone
        self._pool.replace(graph.sha256, replace(before, backbone=body, cap=choice.cap))

    def _prepare(self, choice: Choice, data: bytes, inputs: Sequence[Inputs], check: Callable[[Body], object]) -> Body:
        """The graph in another runtime, which has passed the check and seen every size of batch that will come: the
        first pass of a size is slow.
        """
        body = RUNTIMES[choice.runtime].load(data, self._num_callers)
        check(body)
        for size in range(2, choice.cap + 1):
            body.features(inputs[0]["pixels"].repeat(size, axis=0))
        return body


def cannot_run() -> FailedPrecondition:
    """A model that does not fit together, or that no runtime takes."""
    message = "The model cannot be run here: it needs more memory than there is, another runtime, or is broken."
    return FailedPrecondition(message, reason="CANNOT_RUN")
