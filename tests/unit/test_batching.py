"""From waiting pictures to answers: batches, strangers in them, callers that went away, and a queue that is full."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from PIL import Image

from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone, Pixels, Predictor, to_pixels
from handful.errors import InvalidArgument, ResourceExhausted
from services.inference.answering import Answer
from services.inference.backbones import LoadedBackbone
from services.inference.batching import Batcher
from services.inference.loading import Loader, Model
from services.inference.pointers import VersionRef
from services.inference.queueing import MAX_QUEUED_BYTES
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import PREPROCESSING, SIZE, Gate, greedy, mean_colour, publish

QUEUE, CAP = 8, 4


class Broken(Backbone):
    """A backbone that cannot compute, for whatever reason."""

    def features(self, pixels: Pixels) -> Floats:
        raise ArithmeticError(len(pixels))


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    batcher = Batcher(threads=1, queue=QUEUE)
    yield batcher
    await batcher.close()


@pytest.fixture
async def model(store: FilesystemStore) -> Model:
    return await load(store, publish(store))


@pytest.fixture
async def busy(batcher: Batcher, model: Model, picture: Callable[..., bytes]) -> AsyncIterator[Gate]:
    """The batcher's only thread is held up with one picture; whatever is asked for next has to wait."""
    gate = Gate(mean_colour("gate"))
    held = ask(batcher, [picture()], Model(model.head, LoadedBackbone(gate, 0, CAP)))
    assert await asyncio.to_thread(gate.entered.wait, 30)
    yield gate
    gate.opened.set()
    await asyncio.gather(*held)


async def load(store: FilesystemStore, digest: str) -> Model:
    ref = VersionRef("default", "projects/default/models/m/versions/1", digest)
    return await Loader(store, MEBIBYTE).load(ref)


def ask(batcher: Batcher, pictures: list[bytes], model: Model) -> list["asyncio.Task[Answer]"]:
    return [asyncio.create_task(batcher.answer(one, model)) for one in pictures]


async def test_waiting_pictures_are_answered_together(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """What waits for one backbone goes through it in passes of at most the cap, the oldest first."""
    gate = Gate(mean_colour())
    gate.opened.set()
    gated = Model(model.head, LoadedBackbone(gate, 0, CAP))
    asking = ask(batcher, [picture(seed) for seed in range(6)], gated)
    await asyncio.sleep(0)
    busy.opened.set()
    await asyncio.gather(*asking)
    assert gate.passes == [CAP, 2]


async def test_an_answer_does_not_depend_on_its_company(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Answers given in one pass are bit for bit those given one by one, each caller's its own."""
    pictures = [picture(seed, (30 * seed, 100, 250 - 30 * seed)) for seed in range(QUEUE)]
    alone = Predictor(model.head.labels, PREPROCESSING, Backbone(mean_colour()), model.head.head)
    expected = [alone.probabilities(to_pixels(one, PREPROCESSING)[None])[0] for one in pictures]
    asking = ask(batcher, pictures, model)
    await asyncio.sleep(0)
    busy.opened.set()
    for answer, one in zip(await asyncio.gather(*asking), expected, strict=True):
        np.testing.assert_array_equal(answer.probabilities, one)


async def test_models_on_one_backbone_share_a_pass(
    batcher: Batcher, model: Model, busy: Gate, store: FilesystemStore, picture: Callable[..., bytes]
) -> None:
    """Pictures for two models on the same graph go through it once, and each model's head answers its own."""
    gate = Gate(mean_colour())
    gate.opened.set()
    other = await load(store, publish(store, ["warm", "leaf", "sky", "dim", "dusk"]))
    first, second = (Model(one.head, LoadedBackbone(gate, 0, CAP)) for one in (model, other))
    red = picture(1, (230, 30, 30))
    asking = ask(batcher, [red], first) + ask(batcher, [red], second)
    await asyncio.sleep(0)
    busy.opened.set()
    answers = await asyncio.gather(*asking)
    assert gate.passes == [2]
    assert [len(answer.probabilities) for answer in answers] == [3, 5]
    assert [answer.probabilities.argmax() for answer in answers] == [0, 0]


async def test_backbones_do_not_share_a_pass(
    batcher: Batcher, model: Model, busy: Gate, store: FilesystemStore, picture: Callable[..., bytes]
) -> None:
    """Pictures for two graphs that wait in turn are computed by their own graph, each in one pass."""
    gates = [Gate(mean_colour()), Gate(mean_colour("other"))]
    models = [model, await load(store, publish(store, "abc", mean_colour("other")))]
    asking: list[asyncio.Task[Answer]] = []
    for seed in range(6):
        gates[seed % 2].opened.set()
        asking += ask(batcher, [picture(seed)], Model(models[seed % 2].head, LoadedBackbone(gates[seed % 2], 0, CAP)))
    await asyncio.sleep(0)
    busy.opened.set()
    await asyncio.gather(*asking)
    assert [gate.passes for gate in gates] == [[3], [3]]


async def test_a_bad_picture_fails_alone(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Of pictures that are answered together the broken ones fail, with their own reasons, and no other."""
    good = picture(1)
    asking = ask(batcher, [good, b"", good[:-500], good], model)
    await asyncio.sleep(0)
    busy.opened.set()
    first, empty, cut, last = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(empty, InvalidArgument)
    assert isinstance(cut, InvalidArgument)
    assert (empty.reason, cut.reason) == ("CORRUPT_MEDIA", "CORRUPT_MEDIA")
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    np.testing.assert_array_equal(first.probabilities, last.probabilities)


async def test_a_caller_that_went_away_is_not_computed_for(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Cancelled calls take no part in a pass, and the others get their answers."""
    gate = Gate(mean_colour())
    gate.opened.set()
    asking = ask(batcher, [picture(seed) for seed in range(4)], Model(model.head, LoadedBackbone(gate, 0, CAP)))
    await asyncio.sleep(0)
    asking[0].cancel()
    asking[2].cancel()
    await asyncio.sleep(0)
    busy.opened.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False, True, False]
    assert gate.passes == [2]


async def test_callers_that_went_away_make_room(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """A queue full of cancelled calls takes new ones."""
    asking = ask(batcher, [picture()] * QUEUE, model)
    await asyncio.sleep(0)
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    late = ask(batcher, [picture()] * QUEUE, model)
    await asyncio.sleep(0)
    busy.opened.set()
    assert not any(isinstance(answer, Exception) for answer in await asyncio.gather(*late, return_exceptions=True))


async def test_a_full_queue_refuses_and_recovers(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Beyond its length the queue refuses at once and says when to come back; those who wait are answered."""
    asking = ask(batcher, [picture()] * QUEUE, model)
    await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(ResourceExhausted) as caught:
            await batcher.answer(picture(), model)
        assert caught.value.reason == "OVERLOADED"
        assert 1 <= int(caught.value.facts["pushback_ms"]) < 10_000
    busy.opened.set()
    assert len(await asyncio.gather(*asking)) == QUEUE
    assert (await batcher.answer(picture(), model)).probabilities.shape == (3,)


async def test_pictures_that_are_asked_about_together_wait_together(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Where not all of them may wait none does, and the places are free for others; answers come in their order."""
    asking = ask(batcher, [picture()] * (QUEUE - 2), model)
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await batcher.answer_all([picture()] * 3, model)
    colours = [(230, 30, 30), (30, 230, 30)]
    together = asyncio.create_task(batcher.answer_all([picture(1, one) for one in colours], model))
    await asyncio.sleep(0)
    busy.opened.set()
    assert [answer.probabilities.argmax() for answer in await together] == [0, 1]
    await asyncio.gather(*asking)


async def test_one_that_is_bad_frees_those_that_were_asked_about_with_it(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Of pictures that are asked about together a bad one ends all: what is not yet being computed never is."""
    gate = Gate(mean_colour())
    together = asyncio.create_task(
        batcher.answer_all([b"", *[picture()] * 3], Model(model.head, LoadedBackbone(gate, 0)))
    )
    await asyncio.sleep(0)
    busy.opened.set()
    with pytest.raises(InvalidArgument, match="image 1 of 4: The file is empty"):
        await together
    gate.opened.set()
    assert (await batcher.answer(picture(), model)).probabilities.shape == (3,)
    assert len(gate.passes) <= 1


async def test_what_is_decoded_already_is_answered_the_same(
    batcher: Batcher, model: Model, picture: Callable[..., bytes]
) -> None:
    """Pixels as the model takes them have the answer of the file that they came from, bit for bit."""
    file = picture(1, (230, 30, 30))
    of_file, of_pixels = await batcher.answer_all([file, to_pixels(file, PREPROCESSING)], model)
    np.testing.assert_array_equal(of_file.probabilities, of_pixels.probabilities)


async def test_an_answer_says_where_its_time_went(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """Waiting, decoding, network and head took time; of pictures that shared a pass one counts it."""
    together = asyncio.create_task(batcher.answer_all([picture(seed) for seed in range(3)], model))
    await asyncio.sleep(0)
    busy.opened.set()
    spent = [answer.spent for answer in await together]
    assert all(min(one.queue, one.decode, one.network, one.head) > 0 for one in spent)
    assert 1 <= sum(one.passes for one in spent) <= 3


async def test_the_queue_is_bounded_in_bytes(
    batcher: Batcher, model: Model, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """A few large pictures fill the queue as many small ones do, and one large picture alone is always taken."""
    large = picture() + bytes(MAX_QUEUED_BYTES - 1000)
    asking = ask(batcher, [large], model)
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await batcher.answer(picture(), model)
    assert batcher.statistics.of(model.version).fail.count == 1
    busy.opened.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], InvalidArgument)
    assert (await batcher.answer(picture(), model)).probabilities.shape == (3,)


async def test_a_pass_that_fails_does_not_end_the_thread(
    batcher: Batcher, model: Model, picture: Callable[..., bytes]
) -> None:
    """Whoever waits for a pass that fails hears of it, and the next pass is made."""
    broken = Model(model.head, LoadedBackbone(Broken(mean_colour()), 0, CAP))
    answers = await asyncio.gather(*ask(batcher, [picture()] * 3, broken), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ArithmeticError] * 3
    assert (await batcher.answer(picture(), model)).probabilities.shape == (3,)


async def test_what_does_not_fit_together_is_answered_one_by_one(
    batcher: Batcher, store: FilesystemStore, busy: Gate, picture: Callable[..., bytes]
) -> None:
    """A pass that memory does not suffice for is made again, a picture at a time; one that does not fit even alone is
    told so, and nobody else is the worse for it.
    """
    model = await load(store, publish(store, graph=greedy()))
    grey = [picture(seed) for seed in range(3)]
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(white).save(buffer, "PNG")
    asking = ask(batcher, [*grey, buffer.getvalue()], model)
    await asyncio.sleep(0)
    busy.opened.set()
    *answers, refused = await asyncio.gather(*asking, return_exceptions=True)
    alone = [await batcher.answer(one, model) for one in grey]
    for answer, expected in zip(answers, alone, strict=True):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.probabilities, expected.probabilities)
    assert isinstance(refused, ResourceExhausted)
    assert refused.reason == "OUT_OF_MEMORY"


async def test_it_closes_after_the_pass_that_it_is_in(model: Model, picture: Callable[..., bytes]) -> None:
    """Whoever closes it waits for the pass that is under way, and no thread is left; what waits is not begun."""
    batcher, gate = Batcher(threads=1, queue=QUEUE), Gate(mean_colour("gate"))
    gated = Model(model.head, LoadedBackbone(gate, 0, 1))
    asking = ask(batcher, [picture(), picture()], gated)
    assert await asyncio.to_thread(gate.entered.wait, 30)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    gate.opened.set()
    await closing
    assert "predict" not in {thread.name for thread in threading.enumerate()}
    assert gate.passes == [1]
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_lone_picture_has_what_is_for_it(batcher: Batcher, model: Model, picture: Callable[..., bytes]) -> None:
    """A picture that is alone is run by what its backbone has for that, and those in company by what is for them."""
    gate, lone = Gate(mean_colour()), Gate(mean_colour())
    gate.opened.set()
    asking = ask(batcher, [picture()], Model(model.head, LoadedBackbone(gate, 0, CAP, lone=lone)))
    assert await asyncio.to_thread(lone.entered.wait, 30)
    asking += ask(
        batcher, [picture(seed) for seed in range(3)], Model(model.head, LoadedBackbone(gate, 0, 2, lone=lone))
    )
    await asyncio.sleep(0)
    lone.opened.set()
    await asyncio.gather(*asking)
    await batcher.close()  # it counts after it answers
    assert (lone.passes, gate.passes, batcher.num_wide) == ([1, 1], [2], 2)


async def test_a_lone_picture_that_falls_back_is_not_counted_as_one_on_several_threads(
    batcher: Batcher, model: Model
) -> None:
    """Where memory does not suffice for what is for it, what is for all answers it."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE, 3), 255, np.uint8)).save(buffer, "PNG")
    short = Model(model.head, LoadedBackbone(Backbone(mean_colour()), 0, CAP, lone=Backbone(greedy())))
    assert (await batcher.answer(buffer.getvalue(), short)).probabilities.shape == (3,)
    await batcher.close()  # it counts after it answers
    assert batcher.num_wide == 0
