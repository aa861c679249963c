"""What a model says of features: probabilities, and how far they are from what it was fitted on."""

from dataclasses import dataclass, field

from handful.bundle.heads import Floats
from services.inference.loading import LoadedHead


@dataclass(frozen=True)
class Spent:
    """Nanoseconds of one answer: waiting for a free thread, decoding, in the network, and from features to the answer;
    and, of a pass through the network that several share, 1 for one of each model and 0 for the others.
    """

    queue: int = 0
    decode: int = 0
    network: int = 0
    head: int = 0
    passes: int = 0


@dataclass(frozen=True)
class Answer:
    """To one picture or sound: float32[classes], and how far it is from what the model was fitted on, where known; and
    of a longer sound, its segments in order.
    """

    probabilities: Floats
    distance: float | None = None
    max_distance: float | None = None
    segments: tuple["Segment", ...] = ()
    spent: Spent = field(default=Spent(), compare=False)

    @property
    def unknown(self) -> bool:
        """Whether it is like nothing that the model was fitted on."""
        return self.distance is not None and self.max_distance is not None and self.distance > self.max_distance


@dataclass(frozen=True)
class Segment:
    """A part of a sound, in seconds from its start; no answer where nothing is heard."""

    start: float
    end: float
    answer: Answer | None


def say(model: LoadedHead, features: Floats) -> Answer:
    """The answer to float32[1, feature_width]."""
    probabilities, known = model.head.probabilities(features)[0], model.neighbours
    if known is None:
        return Answer(probabilities)
    return Answer(probabilities, float(known.distances(features)[0]), known.max_distance)
