"""From a sound to an answer: cut into the pieces that its model takes, each answered by itself."""

from collections.abc import Callable

import numpy as np

from handful.bundle import recordings
from handful.bundle.predictor import spectrograms
from handful.bundle.sounds import Samples, inputs, pieces
from services.inference.answering import Answer, Segment, say
from services.inference.loading import Model

# Lower than what a dataset takes: someone waits, and a file of some kilobytes can hold this much.
MAX_SECONDS = 120.0
MAX_SAMPLES = 12_000_000


def listen(sound: bytes, model: Model, gone: Callable[[], bool]) -> Answer | None:
    """The answer to a WAV, FLAC, OGG or MP3 file: of several pieces, the mean of their probabilities and the smallest
    of their distances. BadSound where it is none, or too long, or where nothing is heard. None as soon as whoever asked
    is gone, which is looked up before every piece.
    """
    recording = recordings.decode(sound, MAX_SECONDS, MAX_SAMPLES)
    recordings.check_heard(recording)
    how, rate = model.head.described.sound_preprocessing, recording.rate
    segments = []
    for first, last in pieces(len(recording.samples), rate, how.piece_seconds):
        if gone():
            return None
        segments.append(Segment(first / rate, last / rate, _hear(recording.samples[first:last], rate, model)))
    heard = [one.answer for one in segments if one.answer is not None]
    if not heard:  # it is loud where it is cut alone
        raise recordings.silent()
    distances = [one.distance for one in heard if one.distance is not None]
    return Answer(
        np.mean([one.probabilities for one in heard], axis=0),
        min(distances, default=None),
        heard[0].max_distance,
        tuple(segments) if len(segments) > 1 else (),
    )


def _hear(samples: Samples, rate: int, model: Model) -> Answer | None:
    if recordings.is_silent(samples):
        return None
    taken = inputs(samples, rate, spectrograms(model.head.described.sound_preprocessing))
    return say(model.head, model.backbone.backbone.of(taken))
