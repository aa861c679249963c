"""Lines of those who wait: fair between shared and private ones and among projects, and bounded."""

import asyncio
import gc
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakSet

import pytest

from handful.bundle.predictor import Backbone
from handful.errors import ResourceExhausted
from services.inference.admission import MAX_WAIT_SECONDS
from services.inference.lines import CROWDED_SECONDS, FIRST_GUESS_SECONDS, Batch, Line, Waiting
from services.inference.loading import Loader, Model
from services.inference.pointers import VersionRef
from services.inference.queueing import KEPT_SECONDS, MAX_QUEUED_BYTES, Queue
from services.inference.runtimes import LONE_THREADS
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import mean_colour, publish

LENGTH, CAP = 8, 2


@pytest.fixture
async def shared(store: FilesystemStore) -> Model:
    model = await Loader(store, MEBIBYTE).load(
        VersionRef("default", "projects/default/models/m/versions/1", publish(store))
    )
    return Model(model.head, replace(model.backbone, cap=CAP))


def private(shared: Model) -> Model:
    """A model with a backbone of its own."""
    return Model(shared.head, replace(shared.backbone, backbone=Backbone(mean_colour()), private=True))


def of_project(model: Model, project: str) -> Model:
    return replace(model, version=f"projects/{project}/models/m/versions/1")


def waiting(model: Model, num_bytes: int = 1, left: float = math.inf) -> Waiting:
    return Waiting(bytes(num_bytes), model, asyncio.get_running_loop().create_future(), end=time.monotonic() + left)


def fill(queue: Queue, model: Model, count: int = LENGTH) -> None:
    for _ in range(count):
        queue.put([waiting(model)])


def taken(queue: Queue) -> Batch:
    batch = queue.take()
    assert batch is not None
    return batch


def serve(queue: Queue, rounds: int, seconds: Callable[[Batch], float], *models: Model) -> dict[object, float]:
    """The seconds that each backbone got, where all of their lines are kept full."""
    used: defaultdict[object, float] = defaultdict(float)
    for model in models:
        fill(queue, model)
    for _ in range(rounds):
        batch = taken(queue)
        body = batch.waiting[0].model.backbone.backbone
        took = seconds(batch)
        used[body] += took
        queue.done(batch, took, len(batch.waiting))
        for one in batch.waiting:
            queue.put([waiting(one.model)])
    return used


async def test_time_is_shared_by_lines(shared: Model) -> None:
    """A private network that takes twenty times as long for a picture gets a quarter of the time where the shared line
    asks for the rest; two of them get that together.
    """
    slow, other = private(shared), private(shared)

    def seconds(batch: Batch) -> float:
        return len(batch.waiting) * (0.2 if batch.line.private else 0.01)

    used = serve(Queue(1, LENGTH), 600, seconds, shared, slow)
    assert used[shared.backbone.backbone] == pytest.approx(3 * used[slow.backbone.backbone], rel=0.1)
    used = serve(Queue(1, LENGTH), 900, seconds, shared, slow, other)
    both = used[slow.backbone.backbone] + used[other.backbone.backbone]
    assert used[shared.backbone.backbone] == pytest.approx(3 * both, rel=0.15)
    assert used[slow.backbone.backbone] == pytest.approx(used[other.backbone.backbone], rel=0.15)


async def test_who_was_away_has_no_claim_on_what_was_used_meanwhile(shared: Model) -> None:
    """A line that was empty for long is served in turn, not first for as long as it was away."""
    queue, own = Queue(1, LENGTH), private(shared)
    serve(queue, 200, lambda batch: 0.01 * len(batch.waiting), shared)
    fill(queue, own)
    turns = []
    for _ in range(LENGTH // CAP + 2):
        batch = taken(queue)
        turns.append(batch.line.private)
        queue.done(batch, 0.01 * len(batch.waiting), len(batch.waiting))
    assert set(turns) == {True, False}
    assert 1 <= sum(turns) <= 3


async def test_a_full_private_line_refuses_its_own_alone(shared: Model) -> None:
    """What waits for one private network fills no line but its own, in pictures; in bytes private ones fill theirs."""
    queue, own, other = Queue(1, LENGTH), private(shared), private(shared)
    fill(queue, own)
    with pytest.raises(ResourceExhausted) as caught:
        queue.put([waiting(own)])
    assert caught.value.reason == "OVERLOADED"
    fill(queue, other, 1)
    fill(queue, shared)
    queue = Queue(1, LENGTH)
    queue.put([waiting(own, MAX_QUEUED_BYTES)])
    with pytest.raises(ResourceExhausted):
        queue.put([waiting(other)])
    fill(queue, shared)


@pytest.mark.parametrize("num_private", [0, 1, 2])
async def test_who_is_refused_is_told_how_long_the_others_wait(shared: Model, num_private: int) -> None:
    """About as long as it takes until those who wait in the line are answered, while the other lines stay full."""
    queue, models = Queue(1, LENGTH), [shared, *(private(shared) for _ in range(num_private))]
    for model in models:
        fill(queue, model)
    with pytest.raises(ResourceExhausted) as caught:
        queue.put([waiting(models[-1])])
    ahead, spent, told = len(queue.line(models[-1]).waiting), 0.0, queue.wait(queue.line(models[-1]))
    while ahead:
        batch = taken(queue)
        took = len(batch.waiting) * FIRST_GUESS_SECONDS
        queue.done(batch, took, len(batch.waiting))
        spent += took
        if batch.waiting[0].model is models[-1]:
            ahead -= len(batch.waiting)
        else:
            fill(queue, batch.waiting[0].model, len(batch.waiting))
    assert told == pytest.approx(spent, rel=0.3)
    assert int(caught.value.facts["pushback_ms"]) == pytest.approx(1e3 * told, rel=0.21)


async def test_while_callers_are_refused_half_as_many_wait(shared: Model) -> None:
    """And all of them again a second after the last was; what is asked of an empty queue is taken however long."""
    queue = Queue(1, LENGTH)
    fill(queue, shared, LENGTH)
    refused(queue, shared)
    while len(queue.line(shared).waiting) >= LENGTH // 2:
        refused(queue, shared)
        queue.done(taken(queue), 0.01, 1)
    fill(queue, shared, LENGTH // 2 - len(queue.line(shared).waiting))
    refused(queue, shared)
    while queue.line(shared).waiting:
        queue.done(taken(queue), 0.01, 1)
    queue.put([waiting(shared) for _ in range(LENGTH)])
    refused(queue, shared)
    queue.done(taken(queue), 0.01, 1)
    await asyncio.sleep(1.1 * CROWDED_SECONDS)
    fill(queue, shared, LENGTH - len(queue.line(shared).waiting))


def refused(queue: Queue, model: Model) -> None:
    with pytest.raises(ResourceExhausted):
        queue.put([waiting(model)])


async def test_a_thread_is_kept_for_shared_work_while_there_is_some(shared: Model) -> None:
    """Of two threads one alone takes private work just after there was shared work; a second later both may."""
    queue, own = Queue(2, LENGTH), private(shared)
    fill(queue, shared, 1)
    queue.done(taken(queue), 0.01, 1)
    fill(queue, own, 3 * CAP)
    first = taken(queue)
    assert first.line.private
    loop = asyncio.get_running_loop()
    began = loop.time()
    second = await asyncio.to_thread(taken, queue)
    assert 0.5 * KEPT_SECONDS <= loop.time() - began <= KEPT_SECONDS + 5
    assert second.line is first.line
    third = asyncio.create_task(asyncio.to_thread(taken, queue))
    await asyncio.sleep(0.05)
    fill(queue, shared, 1)
    assert not (await third).line.private


async def test_who_has_the_server_to_itself_is_alone(shared: Model) -> None:
    """One that is taken while nothing else waits and no other thread works; what is for a private network only where
    there was no shared work a moment ago.
    """
    queue, own = Queue(2, LENGTH), private(shared)
    fill(queue, own, CAP + 1)
    first, second = taken(queue), taken(queue)
    assert (first.alone, second.alone) == (False, False)  # another waited, another works
    queue.done(first, 0.01, CAP)
    queue.done(second, 0.01, 1)
    for model, alone in ((own, True), (shared, True), (own, False)):
        fill(queue, model, 1)
        batch = taken(queue)
        assert batch.alone == alone
        queue.done(batch, 0.01, 1)
    fill(queue, shared, 2)
    assert not taken(queue).alone  # two in one pass


async def test_one_thread_serves_private_work_too(shared: Model) -> None:
    """Where there is one thread, none is kept."""
    queue, own = Queue(1, LENGTH), private(shared)
    fill(queue, shared, 1)
    queue.done(taken(queue), 0.01, 1)
    fill(queue, own, 1)
    assert taken(queue).line.private


async def test_a_closed_queue_ends_those_who_wait(shared: Model) -> None:
    """Threads that wait for work hear that there will be none."""
    queue = Queue(2, LENGTH)
    idle = asyncio.create_task(asyncio.to_thread(queue.take))
    await asyncio.sleep(0.05)
    queue.close()
    assert await idle is None
    fill(queue, shared, 1)
    assert queue.take() is None


async def test_projects_share_time_and_passes(shared: Model) -> None:
    """Of three projects that always have pictures waiting on the same network each gets a third of the time, however
    much more one of them asks; a pass takes those of several.
    """
    queue, projects = Queue(1, 3 * LENGTH), [of_project(shared, name) for name in ("much", "some", "few")]
    for model, count in zip(projects, (2 * LENGTH, LENGTH // 2, 1), strict=True):
        fill(queue, model, count)
    got, mixed = Counter[str](), 0
    for _ in range(300):
        batch = taken(queue)
        queue.done(batch, 0.01 * len(batch.waiting), len(batch.waiting))
        got.update(one.model.project for one in batch.waiting)
        mixed += len({one.model.project for one in batch.waiting}) > 1
        for one in batch.waiting:
            queue.put([waiting(one.model)])
    assert min(got.values()) >= 0.9 * max(got.values())
    assert mixed > 100


async def test_a_project_that_floods_leaves_others_their_share_of_room(shared: Model) -> None:
    """It fills the queue; another still gets in, up to half, is served first, and is told nothing of the crowd. The one
    that floods gets no more in until it has less than its half itself.
    """
    queue, flood, other = Queue(1, LENGTH), of_project(shared, "flood"), of_project(shared, "other")
    fill(queue, flood)
    refused(queue, flood)
    fill(queue, other, LENGTH // 2)
    refused(queue, other)
    assert {one.model.project for one in taken(queue).waiting} == {"flood"}
    assert {one.model.project for one in taken(queue).waiting} == {"other"}
    refused(queue, flood)


async def test_private_networks_of_one_project_share_what_projects_get(shared: Model) -> None:
    """A project with three private networks gets as much time as one with one."""
    many = [of_project(private(shared), "many") for _ in range(3)]
    one = of_project(private(shared), "one")
    used = serve(Queue(1, LENGTH), 600, lambda batch: 0.01 * len(batch.waiting), *many, one)
    assert used[one.backbone.backbone] == pytest.approx(sum(used[each.backbone.backbone] for each in many), rel=0.1)


async def test_bytes_are_shared_by_projects_too(shared: Model) -> None:
    """Where one project's pictures take all the memory, another's still get half as much."""
    queue, flood, other = Queue(1, LENGTH), of_project(shared, "flood"), of_project(shared, "other")
    queue.put([waiting(flood, MAX_QUEUED_BYTES)])
    queue.put([waiting(other, MAX_QUEUED_BYTES // 2)])
    with pytest.raises(ResourceExhausted):
        queue.put([waiting(other, 1)])


async def test_who_would_be_answered_too_late_is_refused_at_once(shared: Model) -> None:
    """A call with less time than those before it will take is refused, and told not to come again; one with more is
    taken, and so is any where nobody waits. Nobody is let in to wait longer than ten seconds.
    """
    queue = Queue(1, 4 * LENGTH)
    queue.put([waiting(shared, left=0.001)])
    fill(queue, shared, LENGTH)
    expected = queue.wait(queue.line(shared))
    assert expected == pytest.approx((LENGTH + 1) * FIRST_GUESS_SECONDS)
    with pytest.raises(ResourceExhausted) as caught:
        queue.put([waiting(shared, left=expected - 0.02)])
    assert caught.value.facts["pushback_ms"] == "-1"
    queue.put([waiting(shared, left=expected + 0.02)])
    for _ in range(3):  # it turns out that a picture takes a minute
        queue.done(taken(queue), 60 * CAP, CAP)
    fill(queue, shared, 1)
    with pytest.raises(ResourceExhausted) as caught:
        fill(queue, shared, LENGTH)
    assert int(caught.value.facts["pushback_ms"]) > 1000 * 0.8 * MAX_WAIT_SECONDS


async def test_lines_of_projects_that_went_away_are_forgotten(shared: Model) -> None:
    """A thousand projects that each asked once leave a few lines behind."""
    queue = Queue(1, LENGTH)
    lines = WeakSet[Line]()
    for number in range(1000):
        model = of_project(shared, f"p{number}")
        fill(queue, model, 1)
        lines.add(queue.line(model))
        queue.done(taken(queue), FIRST_GUESS_SECONDS, 1)
    gc.collect()
    assert len(lines) < 20


async def test_who_has_nothing_yet_is_told_how_long_the_others_wait(shared: Model) -> None:
    """Among many projects that each ask for a little a newcomer waits for a turn of each; one that is refused for want
    of room is told a pause, not a millisecond; and there is room for no more projects than places.
    """
    queue = Queue(1, LENGTH)
    for number in range(LENGTH):
        fill(queue, of_project(shared, f"p{number}"), 1)
    new = of_project(shared, "new")
    assert queue.wait(queue.line(new)) == pytest.approx(LENGTH * FIRST_GUESS_SECONDS)
    with pytest.raises(ResourceExhausted, match=f"{LENGTH} files wait already") as caught:
        queue.put([waiting(new)])
    assert int(caught.value.facts["pushback_ms"]) >= 1e3 * FIRST_GUESS_SECONDS
    with pytest.raises(ResourceExhausted):
        queue.put([waiting(new, left=LENGTH * FIRST_GUESS_SECONDS / 2)])


async def test_a_batch_larger_than_a_share_is_let_in_where_its_project_has_nothing(shared: Model) -> None:
    """As one picture would be: two others who keep the queue full do not shut batches out."""
    queue = Queue(1, LENGTH)
    for name in ("a", "b"):
        fill(queue, of_project(shared, name), LENGTH // 2)
    batch, another = ([waiting(of_project(shared, "c")) for _ in range(LENGTH // 2)] for _ in range(2))
    queue.put(batch)
    with pytest.raises(ResourceExhausted):
        queue.put(another)


async def test_what_was_no_picture_says_nothing_of_how_long_pictures_take(shared: Model) -> None:
    """Passes in which nothing was computed are none, and leave the estimate alone."""
    queue = Queue(1, LENGTH)
    for _ in range(50):
        fill(queue, shared, 1)
        queue.done(taken(queue), 1e-6, 0)
    fill(queue, shared, 1)
    assert queue.passes() == {}
    assert queue.wait(queue.line(shared)) == pytest.approx(FIRST_GUESS_SECONDS)


async def test_what_several_threads_took_says_nothing_of_how_long_one_takes(shared: Model) -> None:
    """A burst after lone calls is let in by what passes on one thread take, as one that comes first is."""
    wide = replace(shared, backbone=replace(shared.backbone, lone=Backbone(mean_colour())))
    queue = Queue(1, LENGTH)
    for _ in range(50):
        fill(queue, wide, 1)
        queue.done(taken(queue), FIRST_GUESS_SECONDS / LONE_THREADS, 1)
    fill(queue, wide, LENGTH)
    assert queue.wait(queue.line(wide)) == pytest.approx(LENGTH * FIRST_GUESS_SECONDS)
    with pytest.raises(ResourceExhausted):
        queue.put([waiting(wide, left=0.9 * LENGTH * FIRST_GUESS_SECONDS)])


async def test_a_pass_on_several_threads_is_charged_for_each(shared: Model) -> None:
    """A project is behind by the processor's time that it had, as by as many passes on one thread."""
    lone, usual = of_project(shared, "lone"), of_project(shared, "usual")
    lone = replace(lone, backbone=replace(lone.backbone, lone=Backbone(mean_colour())))
    used = []
    for model in (lone, usual):
        queue = Queue(1, LENGTH)
        fill(queue, model, 1)
        queue.done(taken(queue), 0.3, 1)
        used.append(queue.line(model).used)
    assert used[0] == pytest.approx(LONE_THREADS * used[1])
