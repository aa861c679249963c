"""What waits and where: a line of each project, or of a backbone that it has for itself, and what is taken of them at
once. Which line is next, and who is let in, is for the queue (`queueing`).
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from handful.bundle.predictor import Pixels
from services.inference.answering import Answer
from services.inference.loading import Model
from services.inference.runtimes import Body

# The first guess of how long a picture takes; measured from then on.
FIRST_GUESS_SECONDS = 0.02
# So long after it was found full fewer may wait.
CROWDED_SECONDS = 1.0


class Line:
    """What a project waits for: its shared backbones, or one of its own. `seconds` are those that all who wait are
    expected to take, `used` those that were taken, for its weight.
    """

    def __init__(self, project: str, *, private: bool) -> None:
        self.project = project
        self.private = private
        self.waiting: deque[Waiting] = deque()
        self.num_bytes = 0
        self.seconds = 0.0
        self.used = 0.0
        self.crowded_at = -CROWDED_SECONDS


@dataclass(eq=False)
class Waiting:
    """One picture or sound whose answer someone awaits: a file, or a picture as its model takes it."""

    data: bytes | Pixels
    model: Model
    answer: "asyncio.Future[Answer]"
    # What it is called in an error.
    name: str = ""
    # When nobody wants the answer any more, by `time.monotonic`.
    end: float = math.inf
    since_ns: int = field(default_factory=time.perf_counter_ns)
    # Nanoseconds that it waited, and that it took to decode.
    queue: int = 0
    decode: int = 0
    # Where it was let in, and the seconds that it is expected to take.
    line: Line | None = None
    seconds: float = FIRST_GUESS_SECONDS

    @property
    def num_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes

    @property
    def body(self) -> Body:
        return self.model.backbone.backbone


@dataclass(frozen=True)
class Batch:
    """What is answered in one pass: of the line whose turn it was, and of others that wait for the same backbone.
    `alone` where it is one, nothing else waits in the lines, and every other thread that takes from them is free.
    """

    line: Line
    waiting: Sequence[Waiting]
    alone: bool

    @property
    def wide(self) -> Body | None:
        """What runs it on more threads than the one that took it; None where that one does."""
        return self.waiting[0].model.backbone.lone if self.alone else None
