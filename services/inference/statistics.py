"""How often each version was asked, and where the time went, since this process started."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from handful.errors import ResourceExhausted
from services.inference.answering import Answer

# Of as many versions as this the counts are kept; then those of the one that was not asked for longest go.
MAX_VERSIONS = 10_000


@dataclass
class Duration:
    """How often something was done, and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass
class Counts:
    """Of one version: requests in `success` and `fail`, explanations and refusals among them; pictures and sounds that
    were predicted in the others.
    """

    last_ms: int = 0
    answers: int = 0
    passes: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    network: Duration = field(default_factory=Duration)
    head: Duration = field(default_factory=Duration)

    def add(self, answer: Answer) -> None:
        self.answers += 1
        self.passes += answer.spent.passes
        self.queue.add(answer.spent.queue)
        self.decode.add(answer.spent.decode)
        self.network.add(answer.spent.network)
        self.head.add(answer.spent.head)


class Statistics:
    """The counts of every version that was asked, by its name."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, Counts] = OrderedDict()
        # Of all versions together, by reason: requests for which there was no room.
        self.refused = Counter[str]()

    @contextmanager
    def counting(self, version: str) -> Iterator[list[Answer]]:
        """Counts a request: the answers that are put into the list, or the error that escapes. One that nobody waits
        for any more is not counted.
        """
        answers: list[Answer] = []
        started, counts = time.perf_counter_ns(), self._of(version)
        counts.last_ms = time.time_ns() // 1_000_000
        try:
            yield answers
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as problem:
            if isinstance(problem, ResourceExhausted):
                self.refused[problem.reason] += 1
            counts.fail.add(time.perf_counter_ns() - started)
            raise
        counts.success.add(time.perf_counter_ns() - started)
        for one in answers:
            counts.add(one)

    def versions(self) -> list[str]:
        """Those that were asked, the last one last."""
        return list(self._counts)

    def of(self, version: str) -> Counts:
        """The counts of a version; zeros where it was not asked."""
        return self._counts.get(version, Counts())

    def _of(self, version: str) -> Counts:
        counts = self._counts.setdefault(version, Counts())
        self._counts.move_to_end(version)
        if len(self._counts) > MAX_VERSIONS:
            self._counts.popitem(last=False)
        return counts
