"""Backbones in memory: whose they are, and what runs them when they come, go and are measured."""

import asyncio
from dataclasses import replace

import numpy as np
import onnx.parser
import pytest
from structlog.testing import capture_logs

from handful.bundle.manifest import sha256
from services.inference.backbones import Backbones, Graph
from services.inference.pool import Pool
from services.inference.runtimes import DEFAULT, RUNTIMES, Body
from services.inference.runtimes.choosing import Choice, Chooser
from services.shared.objects import ObjectMissing
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import ONLY_ONNXRUNTIME, SIZE, mean_colour
from tests.processes import until

INPUTS = [{"pixels": np.full((1, SIZE, SIZE, 3), 40 * (place + 1), np.uint8)} for place in range(4)]
needs_openvino = pytest.mark.skipif(RUNTIMES["openvino"].version is None, reason="openvino is not installed")


def named(data: bytes, project: str = "default") -> Graph:
    digest = sha256(data)
    shared = f"backbones/b/{digest}.onnx"
    return Graph((shared, f"projects/{project}/{shared}"), digest)


def stored(store: FilesystemStore, data: bytes) -> Graph:
    """A graph that all projects share."""
    graph = named(data)
    store.put(graph.shared, data)
    return graph


class Settled(Chooser):
    """Measures nothing: what is best is known."""

    def __init__(self, choice: Choice) -> None:
        super().__init__((choice.runtime,), choice.cap, choice.threads)
        self._best = choice

    async def choose(self, *_: object) -> Choice:
        return self._best


async def settled(chooser: Chooser, graph: Graph) -> Choice:
    await asyncio.to_thread(until, lambda: chooser.known(graph.sha256), "it is settled", 120)
    choice = chooser.known(graph.sha256)
    assert choice is not None
    return choice


async def test_what_one_project_has_for_itself_is_private_to_it_alone(store: FilesystemStore) -> None:
    """The same bytes are a project's own, and everyone's, at the same time, whoever asks for them first."""
    data = mean_colour()
    mine, theirs, nobodys = (named(data, project) for project in ("mine", "theirs", "nobodys"))
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE, patience=0), None, 1)
    store.put(mine.own, data)
    assert (await backbones.get(mine)).private
    with pytest.raises(ObjectMissing):
        await backbones.get(nobodys)
    store.put(theirs.shared, data)
    other = await backbones.get(theirs)
    assert not other.private
    again = await backbones.get(mine)
    assert again.private
    assert again.backbone is not other.backbone


async def test_a_lone_picture_has_a_body_of_its_own_where_that_was_settled(store: FilesystemStore) -> None:
    """It is loaded with the other, and counts as much memory again."""
    graph, other = stored(store, mean_colour()), stored(store, mean_colour("otherwise"))
    chooser = Chooser((DEFAULT,), 4, 2)
    chooser.settle(graph.sha256, Choice(threads=2))
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), chooser, 1)
    wide, narrow = await backbones.get(graph), await backbones.get(other)
    assert wide.lone is not None
    assert narrow.lone is None
    assert wide.num_bytes == pytest.approx(2 * narrow.num_bytes, rel=0.1)
    pixels = INPUTS[0]["pixels"]
    assert np.array_equal(wide.lone.features(pixels), wide.backbone.features(pixels))


async def test_a_lone_picture_gets_a_body_of_its_own_where_it_is_measured_so(store: FilesystemStore) -> None:
    """Beside the one that serves the graph already, once it has passed the checks; it counts as much memory again."""
    graph, chooser, checked = stored(store, mean_colour()), Settled(Choice(DEFAULT, 4, 2)), list[Body]()
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), chooser, 1)
    before = await backbones.get(graph)
    backbones.measure(graph, INPUTS, checked.append)
    assert await settled(chooser, graph) == Choice(DEFAULT, 4, 2)
    after = await backbones.get(graph)
    assert after.backbone is before.backbone
    assert (before.cap, after.cap) == (1, 4)
    assert checked == [after.lone]
    assert after.num_bytes == 2 * before.num_bytes


async def test_a_lone_picture_s_body_that_disagrees_is_left_out_alone(store: FilesystemStore) -> None:
    """The rest of the choice serves, and the graph is never loaded with such a body."""
    graph, chooser = stored(store, mean_colour()), Settled(Choice(DEFAULT, 4, 2))
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), chooser, 1)
    await backbones.get(graph)

    def refuse(body: Body) -> None:
        raise MemoryError(body)

    backbones.measure(graph, INPUTS, refuse)
    assert await settled(chooser, graph) == Choice(DEFAULT, 4, 1)
    after = await backbones.get(graph)
    assert (after.cap, after.lone) == (4, None)


@needs_openvino
async def test_a_lone_picture_s_body_that_cannot_be_had_is_left_out_alone(store: FilesystemStore) -> None:
    """A runtime that has none is served on one thread, and the log says so: when it is loaded, and when it changes."""
    graph, wanted = stored(store, mean_colour()), Choice("openvino", 4, 2)
    known, measured = Settled(wanted), Settled(wanted)
    known.settle(graph.sha256, wanted)
    with capture_logs() as lines:
        loaded = await Backbones(store, Pool(MEBIBYTE, MEBIBYTE), known, 1).get(graph)
        backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), measured, 1)
        await backbones.get(graph)
        backbones.measure(graph, INPUTS, lambda _: None)
        assert await settled(measured, graph) == replace(wanted, threads=1)
    changed = await backbones.get(graph)
    assert [(one.runtime, one.cap, one.lone) for one in (loaded, changed)] == [("openvino", 4, None)] * 2
    assert [line["event"] for line in lines].count("lone pictures have one thread") == 2


async def test_copies_change_over_one_at_a_time(store: FilesystemStore) -> None:
    """No more than one body is in memory that no budget counts: the next is loaded when the last one serves."""
    data, pool, chooser = mean_colour(), Pool(MEBIBYTE, MEBIBYTE), Settled(Choice(threads=2))
    backbones, graphs = Backbones(store, pool, chooser, 1), [named(data, project) for project in ("a", "b", "c")]
    for graph in graphs:
        store.put(graph.own, data)
        await backbones.get(graph)
    serving = list[int]()
    backbones.measure(graphs[0], INPUTS, lambda _: serving.append(sum(one.lone is not None for one in pool.values())))
    await asyncio.to_thread(until, lambda: all(one.lone for one in pool.values()), "all have changed", 60)
    assert serving == [0, 1, 2]


async def test_what_comes_while_copies_change_over_is_checked_with_the_next(store: FilesystemStore) -> None:
    """A check of a model whose copy of the graph is still to change, though what serves is settled."""
    data, pool, chooser = mean_colour(), Pool(MEBIBYTE, MEBIBYTE), Settled(Choice(threads=2))
    backbones, graphs = Backbones(store, pool, chooser, 1), [named(data, project) for project in ("a", "b")]
    for graph in graphs:
        store.put(graph.own, data)
        await backbones.get(graph)
    loop, late = asyncio.get_running_loop(), list[Body]()

    async def ask() -> None:
        backbones.measure(graphs[1], INPUTS, late.append)

    def check(_: Body) -> None:
        if chooser.known(graphs[0].sha256):
            asyncio.run_coroutine_threadsafe(ask(), loop).result(30)

    backbones.measure(graphs[0], INPUTS, check)
    await asyncio.to_thread(until, lambda: all(one.lone for one in pool.values()), "all have changed", 60)
    assert late == [(await backbones.get(graphs[1])).lone]


@needs_openvino
async def test_the_default_runtime_stands_in_aloud(store: FilesystemStore) -> None:
    """A graph that the chosen runtime cannot load any more is served by the default one, as it may be without having
    been measured; the log says so.
    """
    graph = stored(store, onnx.parser.parse_model(ONLY_ONNXRUNTIME).SerializeToString())
    chooser = Chooser((DEFAULT, "openvino"), 4)
    chooser.settle(graph.sha256, Choice("openvino", 4))
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), chooser, 1)
    with capture_logs() as lines:
        loaded = await backbones.get(graph)
    assert type(loaded.backbone) is type(RUNTIMES[DEFAULT].load(mean_colour(), 1))
    assert loaded.cap == Choice().cap
    said = [line for line in lines if line["event"] == "the default runtime stands in"]
    assert [(line["log_level"], line["runtime"]) for line in said] == [("error", "openvino")]


@needs_openvino
async def test_what_is_dropped_while_it_is_measured_was_checked_before_it_comes_back(store: FilesystemStore) -> None:
    """Everything that asked for the measuring has checked the runtime that serves from then on; a graph that is not in
    memory any more is not brought back for it.
    """
    graph, other = stored(store, mean_colour()), stored(store, mean_colour("other"))
    chooser, pool = Chooser(("openvino",), 2), Pool(1, 1)
    backbones, checked = Backbones(store, pool, chooser, 1), list[Body]()
    await backbones.get(graph)
    backbones.measure(graph, INPUTS, checked.append)
    backbones.measure(graph, INPUTS, checked.append)
    await backbones.get(other)
    assert (await settled(chooser, graph)).runtime == "openvino"
    assert [type(one) for one in checked] == [type(checked[0])] * 2
    assert graph.shared not in pool
    assert type((await backbones.get(graph)).backbone) is type(checked[0])
    assert type((await backbones.get(other)).backbone) is not type(checked[0])


@needs_openvino
async def test_one_check_that_fails_keeps_the_default_runtime(store: FilesystemStore) -> None:
    """Where a model that came while its graph was being measured does not agree, all are served as before."""
    graph = stored(store, mean_colour())
    chooser = Chooser(("openvino",), 2)
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), chooser, 1)
    before = await backbones.get(graph)

    def refuse(body: Body) -> None:
        raise ArithmeticError(body)

    backbones.measure(graph, INPUTS, lambda _: None)
    backbones.measure(graph, INPUTS, refuse)
    assert await settled(chooser, graph) == Choice()
    assert (await backbones.get(graph)).backbone is before.backbone


@needs_openvino
async def test_every_copy_is_changed_over(store: FilesystemStore) -> None:
    """What two projects have each for itself, and others share, is served by the runtime that was measured for one of
    them; each by a body of its own, since they take turns.
    """
    data = mean_colour()
    mine, theirs, shared = (named(data, project) for project in ("mine", "theirs", "others"))
    chooser, pool = Chooser(("openvino",), 2), Pool(MEBIBYTE, MEBIBYTE, patience=0)
    backbones = Backbones(store, pool, chooser, 1)
    for graph, key in ((mine, mine.own), (theirs, theirs.own), (shared, shared.shared)):
        store.put(key, data)
        await backbones.get(graph)
    backbones.measure(mine, INPUTS, lambda _: None)
    choice = await settled(chooser, mine)
    await asyncio.to_thread(until, lambda: all(one.runtime != DEFAULT for one in pool.values()), "all have changed", 60)
    loaded = [await backbones.get(one) for one in (mine, theirs, shared)]
    assert [(one.runtime, one.cap, one.private) for one in loaded] == [
        ("openvino", choice.cap, private) for private in (True, True, False)
    ]
    assert len({id(one.backbone) for one in loaded}) == len(loaded)


@needs_openvino
async def test_a_graph_that_waits_to_be_measured_is_not_held(store: FilesystemStore) -> None:
    """It is read when its turn comes: what was not in the store when it was asked for may be there by then."""
    first, second = stored(store, mean_colour()), named(mean_colour("second"))
    chooser = Chooser(("openvino",), 2)
    backbones = Backbones(store, Pool(MEBIBYTE, MEBIBYTE), chooser, 1)
    backbones.measure(first, INPUTS, lambda _: None)
    backbones.measure(second, INPUTS, lambda _: None)
    await asyncio.sleep(0.3)  # far less than measuring the first takes
    store.put(second.shared, mean_colour("second"))
    assert (await settled(chooser, second)).runtime == "openvino"
