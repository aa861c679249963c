"""Backbones in memory: each graph once for all projects that share it, and once for a project that has it for itself,
in the runtime that was measured to be the fastest here. A graph answers at once, with the default runtime and one
picture at a time, and is measured beside.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition
from services.inference.pool import Pool
from services.inference.runtimes import DEFAULT, RUNTIMES, WIDE, Body
from services.inference.runtimes.choosing import Choice, Chooser
from services.shared.objects import ObjectMissing, ObjectStore, StoreUnavailable, get_first

log = structlog.get_logger()

# An estimate: a loaded graph takes some times the memory of its file, for prepared weights and work space.
GRAPH_IN_MEMORY = 4


Check = Callable[[Body], object]


@dataclass(frozen=True)
class Graph:
    """What is loaded: the keys under which it may lie, as `graph_keys` has them, and the SHA-256 of its bytes."""

    keys: tuple[str, ...]
    sha256: str

    @property
    def shared(self) -> str:
        """What it is called in memory where all projects share it."""
        return self.keys[0]

    @property
    def own(self) -> str:
        """And where it is the project's own, or a model's."""
        return self.keys[1]


@dataclass(frozen=True)
class LoadedBackbone:
    """A graph that is ready to run, on at most `cap` pictures at once; `private` where it is a single model's, or a
    project's, own. `lone` runs a picture that is alone, where that is worth it: on more threads, with the same bits.
    """

    backbone: Body
    num_bytes: int
    cap: int = 1
    private: bool = False
    graph_sha256: str = ""
    runtime: str = DEFAULT
    lone: Body | None = None


@dataclass(frozen=True)
class Prepared:
    """What a copy of a graph is to be run by from now on: the choice, as far as it could be had, and a body, None where
    the one that is there stays.
    """

    choice: Choice
    body: Body | None
    lone: Body | None


class Backbones:
    """Backbones on demand, in a pool that others share."""

    def __init__(self, store: ObjectStore, pool: Pool, chooser: Chooser | None, num_callers: int) -> None:
        self._store = store
        self._pool = pool
        self._chooser = chooser
        self._num_callers = num_callers
        # By the hash of the graph that is being measured: what must agree with the runtime that takes over.
        self._checks: dict[str, list[Check]] = {}
        self._measuring = set[asyncio.Task[None]]()
        self._turn = asyncio.Semaphore(1)

    async def get(self, graph: Graph) -> LoadedBackbone:
        """FailedPrecondition where no runtime here takes it."""
        if graph.own not in self._pool:
            try:
                return await self._pool.get(graph.shared, partial(self._load, graph, private=False))
            except ObjectMissing:  # it is nobody else's
                pass
        return await self._pool.get(graph.own, partial(self._load, graph, private=True))

    def measure(self, graph: Graph, inputs: Sequence[Inputs], check: Check) -> None:
        """Has a graph measured once, on these inputs, and served by what is best from then on. What serves it then has
        passed the checks of all that asked for it meanwhile; a check raises where it does not pass.
        """
        if graph.sha256 in self._checks:  # also while some copies are still to change over
            self._checks[graph.sha256].append(check)
            return
        if self._chooser is None or self._chooser.known(graph.sha256):
            return
        self._checks[graph.sha256] = [check]
        task = asyncio.create_task(self._measure(self._chooser, graph, inputs))
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    async def _load(self, graph: Graph, *, private: bool) -> LoadedBackbone:
        data = await asyncio.to_thread(self._read, graph, private=private)
        settled = self._settled(graph)
        body, lone, choice = await asyncio.to_thread(self._ready, graph, data, settled)
        if self._settled(graph) != settled:  # meanwhile
            body, lone, choice = await asyncio.to_thread(self._ready, graph, data, self._settled(graph))
        log.info("backbone loaded", graph_sha256=graph.sha256, num_bytes=len(data), runtime=choice.runtime)
        num_bytes = GRAPH_IN_MEMORY * len(data)
        loaded = LoadedBackbone(body, num_bytes, choice.cap, private, graph.sha256, choice.runtime)
        return _with(lone, loaded)

    def _settled(self, graph: Graph) -> Choice:
        return (self._chooser and self._chooser.known(graph.sha256)) or Choice()

    def _ready(self, graph: Graph, data: bytes, choice: Choice) -> tuple[Body, Body | None, Choice]:
        """The graph in the runtime that is chosen, or in the default one where that fails, and which it is."""
        try:
            body = RUNTIMES[choice.runtime].load(data, self._num_callers)
        except MemoryError:
            raise
        except Exception as problem:  # the runtime has many
            if choice.runtime == DEFAULT:
                raise cannot_run() from problem
            log.exception("the default runtime stands in", graph_sha256=graph.sha256, runtime=choice.runtime)
            return self._ready(graph, data, Choice())
        return body, _lone(graph, choice, data), choice

    def _read(self, graph: Graph, *, private: bool) -> bytes:
        if private:
            return get_first(self._store, graph.keys[1:], graph.sha256)
        return self._store.get(graph.shared, graph.sha256)

    async def _measure(self, chooser: Chooser, graph: Graph, inputs: Sequence[Inputs]) -> None:
        try:
            async with self._turn:  # who waits for it holds no graph meanwhile
                data = await asyncio.to_thread(get_first, self._store, graph.keys, graph.sha256)
                choice = await chooser.choose(graph.sha256, data, inputs)
                await self._change_over(graph, partial(self._prepare, chooser, graph, choice, data, inputs))
        except (StoreUnavailable, MemoryError):  # it passes: whoever loads the graph next may have it measured again
            log.exception("the graph cannot be measured now", graph_sha256=graph.sha256)
        except Exception:  # whatever it is, what serves the graph now goes on
            log.exception("the default runtime stays", graph_sha256=graph.sha256)
            chooser.settle(graph.sha256, Choice())
        finally:
            del self._checks[graph.sha256]

    async def _change_over(self, graph: Graph, prepare: Callable[[], Awaitable[Prepared]]) -> None:
        """What is prepared serves each copy of the graph that is in memory, whoever's it is, as soon as it is ready:
        one at a time, for until then it is in no budget. Also where there is none it must have passed the checks.
        """
        ready: Prepared | None = await prepare()
        for key, there in self._copies(graph):  # what comes from now on is loaded by what was settled
            now = ready or await prepare()
            if (key, there) in self._copies(graph):
                self._pool.change(key, partial(_changed, now))
            ready = None

    def _copies(self, graph: Graph) -> list[tuple[str, LoadedBackbone]]:
        held = self._pool.items()
        return [(key, one) for key, one in held if isinstance(one, LoadedBackbone) and one.graph_sha256 == graph.sha256]

    async def _prepare(
        self, chooser: Chooser, graph: Graph, choice: Choice, data: bytes, inputs: Sequence[Inputs]
    ) -> Prepared:
        """The graph in another runtime, which has seen every size of batch that will come, since the first pass of a
        size is slow, and has passed the checks, also those that come meanwhile; no body where the default one stays.
        What is for lone pictures does not stand in the way of the rest. It loads the graph from then on.
        """
        body, lone = None, await asyncio.to_thread(_lone, graph, choice, data)
        if choice.runtime != DEFAULT:
            body = await asyncio.to_thread(RUNTIMES[choice.runtime].load, data, self._num_callers)
            for size in range(2, choice.cap + 1):
                await asyncio.to_thread(body.features, inputs[0]["pixels"].repeat(size, axis=0))
        for check in self._checks[graph.sha256]:  # it may grow
            if body is not None:
                await asyncio.to_thread(check, body)
            if lone is not None and not await asyncio.to_thread(_agrees, graph, lone, check):
                lone = None
        choice = choice if lone else replace(choice, threads=1)
        chooser.settle(graph.sha256, choice)
        return Prepared(choice, body, lone)


def _lone(graph: Graph, choice: Choice, data: bytes) -> Body | None:
    """What runs a picture that is alone, where it has several threads; a call at a time. None where it cannot be had:
    the graph is served all the same.
    """
    if choice.threads == 1:
        return None
    try:
        return WIDE[choice.runtime].load(data, 1)
    except Exception:  # the runtime has many, and memory may not suffice
        log.exception("lone pictures have one thread", graph_sha256=graph.sha256)
        return None


def _agrees(graph: Graph, lone: Body, check: Check) -> bool:
    try:
        check(lone)
    except Exception:  # a check may raise anything
        log.exception("lone pictures have one thread", graph_sha256=graph.sha256)
        return False
    return True


def _changed(to: Prepared, there: LoadedBackbone) -> LoadedBackbone:
    changed = replace(there, backbone=to.body or there.backbone, cap=to.choice.cap, runtime=to.choice.runtime)
    return _with(to.lone, changed)


def _with(lone: Body | None, loaded: LoadedBackbone) -> LoadedBackbone:
    """It takes as much memory again."""
    return loaded if lone is None else replace(loaded, lone=lone, num_bytes=2 * loaded.num_bytes)


def cannot_run() -> FailedPrecondition:
    """A model that does not fit together, or that no runtime takes."""
    message = "The model cannot be run here: it needs more memory than there is, another runtime, or is broken."
    return FailedPrecondition(message, reason="CANNOT_RUN")
