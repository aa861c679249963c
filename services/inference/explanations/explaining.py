"""From a file to an explanation, on a thread of its own, so that predictions do not wait for it."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from handful.bundle import recordings, sounds
from handful.bundle.heads import Floats
from handful.bundle.images import BadImage
from handful.bundle.neighbours import Near
from handful.bundle.predictor import Pixels, spectrograms, to_pixels
from handful.bundle.recordings import BadSound, Recording
from handful.bundle.sounds import Samples
from handful.errors import InvalidArgument
from services.inference.admission import has_room, overloaded
from services.inference.answering import Answer, say
from services.inference.explanations import overlay
from services.inference.explanations.cells import Bands, covered
from services.inference.explanations.places import class_activation, evidence, occlusion
from services.inference.listening import MAX_SAMPLES, MAX_SECONDS
from services.inference.loading import Model
from services.shared import deadlines

MAX_WAITING = 4
# After which those who are refused may try again.
PAUSE_SECONDS = 1.0
# Cells of the grid that is covered piece by piece.
GRID = 7
TIMES, BANDS = 8, 4
NEAREST = 3


@dataclass(frozen=True)
class Places:
    """Which places speak for a class, float32[rows, columns] in units of evidence: of a picture the first row is above;
    of a sound rows are bands, the lowest first, between `hertz`, and columns are times between `seconds`.
    """

    values: Floats
    exact: bool
    png: bytes
    seconds: tuple[float, float] = (0.0, 0.0)
    hertz: tuple[float, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Why a model says what it says of one input, or of the piece of a sound that speaks most for the class."""

    answer: Answer
    label: int
    places: Places
    nearest: tuple[Near, ...]


class Explainer:
    """Explains one input at a time, and refuses where some wait already."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "explain")
        self._waiting = Counter[str]()

    async def explain(self, data: bytes, model: Model, label: int | None) -> Explanation:
        """Why a class, by default the most probable one. InvalidArgument where the file is none."""
        if not has_room(self._waiting, model.project, 1, MAX_WAITING):
            told = f"{self._waiting.total()} explanations are being made already."
            raise overloaded(told, PAUSE_SECONDS, deadlines.left())
        self._waiting[model.project] += 1
        gone = threading.Event()
        work = partial(_explain, data, model, label, gone.is_set)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (BadImage, BadSound) as bad:
            field = "sound" if model.head.of_sounds else "image"
            raise InvalidArgument(f"{field}: {bad.message}", reason=bad.reason) from bad
        finally:
            gone.set()
            self._waiting -= Counter([model.project])  # which keeps no zeros
        assert found is not None  # noqa: S101 - nobody was gone
        return found

    @property
    def num_waiting(self) -> int:
        return self._waiting.total()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _explain(data: bytes, model: Model, label: int | None, gone: Callable[[], bool]) -> Explanation | None:
    return (_sound if model.head.of_sounds else _picture)(data, model, label, gone)


def _picture(data: bytes, model: Model, label: int | None, gone: Callable[[], bool]) -> Explanation | None:
    head, backbone = model.head.head, model.backbone.backbone
    pixels = to_pixels(data, model.head.described.preprocessing)
    features, feature_map = backbone.mapped(pixels[None])
    answer = say(model.head, features)
    chosen = int(answer.probabilities.argmax()) if label is None else label
    values = None if feature_map is None else class_activation(head, features[0], feature_map[0], chosen)
    exact = values is not None
    if values is None:
        cells = [partial(_logits_of, model, pixels, row, column) for row in range(GRID) for column in range(GRID)]
        lost = occlusion(head.logits(features), cells, chosen, gone)
        if lost is None:
            return None
        values = lost.reshape(GRID, GRID)
    places = Places(values, exact, overlay.over_picture(pixels, values))
    return Explanation(answer, chosen, places, _nearest(model, features))


def _logits_of(model: Model, pixels: Pixels, row: int, column: int) -> Floats:
    return model.head.head.logits(model.backbone.backbone.features(covered(pixels, row, column, GRID)[None]))


@dataclass(frozen=True)
class _Piece:
    """A piece of a recording, the seconds between which it lies, and how much speaks for the class asked about."""

    samples: Samples
    seconds: tuple[float, float]
    features: Floats
    label: int
    evidence: float


def _sound(data: bytes, model: Model, label: int | None, gone: Callable[[], bool]) -> Explanation | None:
    recording = recordings.decode(data, MAX_SECONDS, MAX_SAMPLES)
    recordings.check_heard(recording)
    pieces = list(_pieces(recording, model, label, gone))
    if gone():
        return None
    if not pieces:  # it is loud where it is cut alone
        raise recordings.silent()
    piece, rate = max(pieces, key=lambda one: one.evidence), recording.rate
    highest = max(one.high_hz for one in model.head.described.sound_preprocessing.spectrograms)
    bands = Bands(piece.samples, rate, highest, TIMES, BANDS)
    cells = [partial(_without, model, bands, rate, time, band) for band in range(BANDS) for time in range(TIMES)]
    lost = occlusion(model.head.head.logits(piece.features), cells, piece.label, gone)
    if lost is None:
        return None
    values = lost.reshape(BANDS, TIMES)
    png = overlay.over_sound(bands.loudness(), values)
    places = Places(values, exact=False, png=png, seconds=piece.seconds, hertz=tuple(bands.hertz))
    return Explanation(say(model.head, piece.features), piece.label, places, _nearest(model, piece.features))


def _pieces(recording: Recording, model: Model, label: int | None, gone: Callable[[], bool]) -> Iterator[_Piece]:
    """Those in which something is heard, each with the evidence for the class, or for its own most probable one."""
    samples, rate = recording.samples, recording.rate
    for first, last in sounds.pieces(len(samples), rate, model.head.described.sound_preprocessing.piece_seconds):
        piece = samples[first:last]
        if gone():
            return
        if recordings.is_silent(piece):
            continue
        features = _heard(model, piece, rate)
        logits = model.head.head.logits(features)
        chosen = int(logits.argmax()) if label is None else label
        yield _Piece(piece, (first / rate, last / rate), features, chosen, float(evidence(logits, chosen)[0]))


def _heard(model: Model, samples: Samples, rate: int) -> Floats:
    how = model.head.described.sound_preprocessing
    return model.backbone.backbone.of(sounds.inputs(samples, rate, spectrograms(how)))


def _without(model: Model, bands: Bands, rate: int, time: int, band: int) -> Floats:
    return model.head.head.logits(_heard(model, bands.without(time, band), rate))


def _nearest(model: Model, features: Floats) -> tuple[Near, ...]:
    known = model.head.neighbours
    return () if known is None else known.nearest_to(features[0], NEAREST)
