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
    """What a graph is to be run by from now on; a body is None where what is there stays."""

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
        if self._chooser is None or self._chooser.known(graph.sha256):
            return
        if graph.sha256 in self._checks:
            self._checks[graph.sha256].append(check)
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
            return RUNTIMES[choice.runtime].load(data, self._num_callers), _lone(choice, data), choice
        except MemoryError:
            raise
        except Exception as problem:  # the runtime has many
            if choice.runtime == DEFAULT:
                raise cannot_run() from problem
            log.exception("the default runtime stands in", graph_sha256=graph.sha256, runtime=choice.runtime)
        return self._ready(graph, data, Choice())

    def _read(self, graph: Graph, *, private: bool) -> bytes:
        if private:
            return get_first(self._store, graph.keys[1:], graph.sha256)
        return self._store.get(graph.shared, graph.sha256)

    async def _measure(self, chooser: Chooser, graph: Graph, inputs: Sequence[Inputs]) -> None:
        try:
            async with self._turn:  # who waits for it holds no graph meanwhile
                data = await asyncio.to_thread(get_first, self._store, graph.keys, graph.sha256)
                choice = await chooser.choose(graph.sha256, data, inputs)
                prepare = partial(self._prepare, choice, data, inputs, self._checks[graph.sha256])
                bodies = await self._bodies(graph, prepare)
        except (StoreUnavailable, MemoryError):  # it passes: whoever loads the graph next has it measured again
            log.exception("the graph cannot be measured now", graph_sha256=graph.sha256)
        except Exception:  # whatever it is, what serves the graph now goes on
            log.exception("the default runtime stays", graph_sha256=graph.sha256)
            chooser.settle(graph.sha256, Choice())
        else:
            self._change_over(chooser, graph, choice, bodies)
        finally:
            del self._checks[graph.sha256]

    async def _bodies(self, graph: Graph, prepare: Callable[[], Awaitable[Prepared]]) -> dict[str, Prepared]:
        """Bodies for each copy of the graph that is in memory, whoever's it is; and where there is none, some that have
        passed the checks.
        """
        bodies = {graph.own if graph.own in self._pool else graph.shared: await prepare()}
        while left := [key for key in self._copies(graph) if key not in bodies]:  # more may have come meanwhile
            bodies[left[0]] = await prepare()
        return bodies

    def _copies(self, graph: Graph) -> list[str]:
        held = self._pool.items()
        return [key for key, one in held if isinstance(one, LoadedBackbone) and one.graph_sha256 == graph.sha256]

    def _change_over(self, chooser: Chooser, graph: Graph, choice: Choice, bodies: dict[str, Prepared]) -> None:
        """The runtime serves the graph where it is in memory, and is what loads it where it is not any more."""
        chooser.settle(graph.sha256, choice)
        for key, prepared in bodies.items():
            self._pool.change(key, partial(_changed, choice, prepared))

    async def _prepare(self, choice: Choice, data: bytes, inputs: Sequence[Inputs], checks: list[Check]) -> Prepared:
        """The graph in another runtime, which has seen every size of batch that will come, since the first pass of a
        size is slow, and has passed the checks, also those that come meanwhile; no body where the default one stays.
        """
        body, lone = None, await asyncio.to_thread(_lone, choice, data)
        if choice.runtime != DEFAULT:
            body = await asyncio.to_thread(RUNTIMES[choice.runtime].load, data, self._num_callers)
            for size in range(2, choice.cap + 1):
                await asyncio.to_thread(body.features, inputs[0]["pixels"].repeat(size, axis=0))
        for check in checks:  # it may grow
            for one in filter(None, (body, lone)):
                await asyncio.to_thread(check, one)
        return Prepared(body, lone)


def _lone(choice: Choice, data: bytes) -> Body | None:
    """What runs a picture that is alone, where it has several threads; a call at a time."""
    return WIDE[choice.runtime].load(data, 1) if choice.threads > 1 else None


def _changed(choice: Choice, to: Prepared, there: LoadedBackbone) -> LoadedBackbone:
    changed = replace(there, backbone=to.body or there.backbone, cap=choice.cap, runtime=choice.runtime)
    return _with(to.lone, changed)


def _with(lone: Body | None, loaded: LoadedBackbone) -> LoadedBackbone:
    """It takes as much memory again."""
    return loaded if lone is None else replace(loaded, lone=lone, num_bytes=2 * loaded.num_bytes)


def cannot_run() -> FailedPrecondition:
    """A model that does not fit together, or that no runtime takes."""
    message = "The model cannot be run here: it needs more memory than there is, another runtime, or is broken."
    return FailedPrecondition(message, reason="CANNOT_RUN")
