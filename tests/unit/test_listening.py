"""From waiting sounds to answers: what is too long for one who waits, who went away, and what memory does not hold."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import numpy as np
import pytest

from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone
from handful.bundle.sounds import Inputs
from handful.errors import InvalidArgument, ResourceExhausted
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from services.inference.backbones import Graph, LoadedBackbone
from services.inference.batching import Batcher
from services.inference.loading import Model
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from tests.bundles import Gate, mean_colour, publish
from tests.unit.test_batching import load
from tests.unit.test_recordings import file, tone

PREPROCESSING = SOUND_ARCHITECTURES["log_mel_statistics"].preprocessing


class Ear(Backbone):
    """Hears mean loudness once it is opened, and counts pieces; without memory it hears nothing."""

    def __init__(self) -> None:
        super().__init__(mean_colour("ear"))
        self.entered, self.opened = threading.Event(), threading.Event()
        self.num_pieces = 0
        self.memory = True

    def of(self, inputs: Inputs) -> Floats:
        if not self.memory:
            raise MemoryError
        self.num_pieces += 1
        self.entered.set()
        assert self.opened.wait(30)
        return np.full((1, 3), np.mean(inputs["statistics"]), np.float32)


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    batcher = Batcher(threads=1, queue=8)
    yield batcher
    await batcher.close()


@pytest.fixture
async def pictures(store: FilesystemStore) -> Model:
    return await load(store, publish(store))


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def sounds(pictures: Model, ear: Ear) -> Model:
    """A model of sounds."""
    described = BackboneMessage(sound_preprocessing=PREPROCESSING)
    return Model(replace(pictures.head, described=described, graph=Graph((), "ear")), LoadedBackbone(ear, 0))


async def test_a_sound_that_is_too_long_is_refused_before_it_is_heard(
    batcher: Batcher, sounds: Model, ear: Ear
) -> None:
    """Lower limits hold than for a dataset: a few kilobytes may hold ten minutes, or eight channels at a high rate."""
    for sound, says in (
        (file(np.full(125 * 8000, 0.1), 8000, "FLAC"), "sound: The sound is longer than 120 seconds."),
        (file(np.full((9 * 192_000, 8), 0.1), 192_000, "FLAC"), "sound: The sound has more than 12,000,000 samples"),
    ):
        assert len(sound) < 100_000
        with pytest.raises(InvalidArgument) as caught:
            await batcher.answer(sound, sounds)
        assert caught.value.reason == "SOUND_TOO_LONG"
        assert caught.value.message.startswith(says)
    assert ear.num_pieces == 0


async def test_nobody_is_listened_for_who_went_away(batcher: Batcher, sounds: Model, ear: Ear) -> None:
    """Of a long sound only the piece is finished that was begun; the next caller has its answer."""
    asking = asyncio.create_task(batcher.answer(file(tone(60.0, 8000), 8000), sounds))
    assert await asyncio.to_thread(ear.entered.wait, 30)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    ear.opened.set()
    assert (await batcher.answer(file(tone()), sounds)).probabilities.shape == (3,)
    assert ear.num_pieces == 2


async def test_sounds_are_taken_one_by_one(
    batcher: Batcher, pictures: Model, sounds: Model, ear: Ear, picture: Callable[..., bytes]
) -> None:
    """A picture that came between two sounds is answered between them, not after both."""
    asking = [asyncio.create_task(batcher.answer(file(tone()), sounds))]
    assert await asyncio.to_thread(ear.entered.wait, 30)
    gate = Gate(mean_colour())
    asking.append(asyncio.create_task(batcher.answer(file(tone()), sounds)))
    asking.append(asyncio.create_task(batcher.answer(picture(), Model(pictures.head, LoadedBackbone(gate, 0)))))
    asking.append(asyncio.create_task(batcher.answer(file(tone()), sounds)))
    await asyncio.sleep(0)
    ear.opened.set()
    assert await asyncio.to_thread(gate.entered.wait, 30)
    heard = ear.num_pieces
    gate.opened.set()
    await asyncio.gather(*asking)
    assert (heard, ear.num_pieces) == (2, 3)


async def test_a_sound_without_memory_fails_alone(batcher: Batcher, sounds: Model, ear: Ear) -> None:
    """It is told so, with a status that is no bug, and the next one is answered."""
    ear.memory = False
    with pytest.raises(ResourceExhausted) as caught:
        await batcher.answer(file(tone()), sounds)
    assert caught.value.reason == "OUT_OF_MEMORY"
    ear.memory = True
    ear.opened.set()
    assert (await batcher.answer(file(tone()), sounds)).probabilities.shape == (3,)
