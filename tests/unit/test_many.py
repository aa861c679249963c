"""Many questions in one call, without a server: who is refused comes again, and who is slow is late alone."""

import asyncio
import time

from handful.errors import DeadlineExceeded, ResourceExhausted
from services.inference.many import AT_ONCE, RESERVE_SECONDS, in_order
from services.shared.deadlines import within

SECONDS = RESERVE_SECONDS + 1


async def test_what_is_refused_for_a_while_is_asked_again() -> None:
    """After the pause that the refusal names, until there is an answer; what is refused for good is not."""
    asked: dict[str, list[float]] = {"later": [], "never": []}

    async def ask(question: str) -> str:
        asked[question].append(time.monotonic())
        if len(asked["later"]) < 3 or question == "never":
            pause = "50" if question == "later" else "-1"
            raise ResourceExhausted("Too many wait.", reason="OVERLOADED", facts={"pushback_ms": pause})
        return "answered"

    async with within(SECONDS):
        later, never = await in_order(["later", "never"], ask)
    assert (later, isinstance(never, ResourceExhausted), len(asked["never"])) == ("answered", True, 1)
    first, second, third = asked["later"]
    assert min(second - first, third - second) >= 0.05


async def test_what_takes_too_long_is_late_alone() -> None:
    """The others of the call are answered, and there is time left to send that."""

    async def ask(question: int) -> int:
        await asyncio.sleep(10 * SECONDS if question == 1 else 0)
        return question

    began = time.monotonic()
    async with within(SECONDS):
        first, late, *rest = await in_order(list(range(2 * AT_ONCE)), ask)
    assert (first, rest, isinstance(late, DeadlineExceeded)) == (0, list(range(2, 2 * AT_ONCE)), True)
    assert time.monotonic() - began < SECONDS


async def test_a_pause_that_is_too_long_is_not_waited_for() -> None:
    """The refusal is the answer, at once, and says when to come again."""

    async def ask(question: int) -> int:
        raise ResourceExhausted("Too many wait.", facts={"pushback_ms": str(round(1e3 * SECONDS * question))})

    began = time.monotonic()
    async with within(SECONDS):
        (refused,) = await in_order([1], ask)
    assert isinstance(refused, ResourceExhausted)
    assert time.monotonic() - began < SECONDS / 2
