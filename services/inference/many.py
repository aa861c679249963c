"""Many questions in one call: so many of them at a time, and what is wrong with one is its own answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from handful.errors import HandfulError, Internal
from services.shared.deadlines import left, within
from services.shared.statuses import as_error

log = structlog.get_logger()

# Of one call; the others of a queue are for others.
AT_ONCE = 8
# As a call of its own would end.
CEILING_SECONDS = 30.0
# Kept of the call's time, so that what was answered until then is still sent.
RESERVE_SECONDS = 0.5

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Ask = Callable[[Question], Awaitable[Answer]]


async def in_order(questions: Sequence[Question], ask: Ask[Question, Answer]) -> list[Answer | HandfulError]:
    """An answer to each, in the order of the questions."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(question: Question) -> Answer | HandfulError:
        async with places:
            return await _patiently(question, ask)

    return await asyncio.gather(*map(one, questions))


async def as_they_come(
    questions: AsyncIterator[Question], ask: Ask[Question, Answer]
) -> AsyncGenerator[tuple[Question, Answer | HandfulError]]:
    """Each question with its answer, the first answered first. The next question is read when there is room."""
    asked: dict[asyncio.Task[Answer | HandfulError], Question] = {}
    reading: asyncio.Task[Question | None] | None = _next(questions)
    broken: HandfulError | None = None
    try:
        while reading or asked:
            room = {reading} if reading and len(asked) < AT_ONCE else set()
            await asyncio.wait({*room, *asked}, return_when=asyncio.FIRST_COMPLETED)
            for task in [one for one in asked if one.done()]:
                yield asked.pop(task), task.result()
            if reading and reading.done() and len(asked) < AT_ONCE:
                question, broken = _read(reading)
                if question is not None:
                    asked[asyncio.ensure_future(answered(question, ask))] = question
                reading = None if question is None else _next(questions)
    finally:
        for pending in (*asked, *([reading] if reading else [])):
            pending.cancel()
    if broken is not None:
        raise broken


async def _patiently(question: Question, ask: Ask[Question, Answer]) -> Answer | HandfulError:
    """As a channel asks: again after the pause that the refusal names, while there is time. Whoever waits for the whole
    call has nothing else to do, and others of the very call may be what was in the way.
    """
    while True:
        answer = await answered(question, ask)
        pause = int(answer.facts.get("pushback_ms", -1)) / 1e3 if isinstance(answer, HandfulError) else -1
        if pause < 0 or pause >= left() - RESERVE_SECONDS:
            return answer
        await asyncio.sleep(pause)


def _next(questions: AsyncIterator[Question]) -> "asyncio.Task[Question | None]":
    return asyncio.ensure_future(anext(questions, None))


def _read(reading: "asyncio.Task[Question | None]") -> tuple[Question | None, HandfulError | None]:
    """The next question, if there is one; and what is wrong with the stream, which ends it once all is answered."""
    try:
        return reading.result(), None
    except HandfulError as broken:
        return None, broken


async def answered(question: Question, ask: Ask[Question, Answer]) -> Answer | HandfulError:
    """The answer, or why there is none."""
    try:
        async with within(min(CEILING_SECONDS, max(0.0, left() - RESERVE_SECONDS))):
            return await ask(question)
    except Exception as problem:  # the other questions of the call have nothing to do with it
        error = as_error(problem)
        if isinstance(error, Internal) or error.__cause__ is not None:
            log.exception("no answer", reason=error.reason)
        return error
