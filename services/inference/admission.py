"""Who is let in where much is asked: each project its share of the places, and nobody who would wait too long."""

import random
from collections.abc import Mapping

from handful.errors import ResourceExhausted

# Nobody is asked to wait longer, however late the deadline.
MAX_WAIT_SECONDS = 10.0
# Pauses differ by so much, so that those who were refused together do not come back together.
_SPREAD = 0.2


def has_room(taken: Mapping[str, int], project: str, more: int, limit: int) -> bool:
    """Whether a project may take so many more places, given what each project has: any that are free, and those of its
    equal share whether or not others have taken them. So where `n` projects ask, at most 1 + 1/2 + ... + 1/n times
    the limit are taken.
    """
    share = limit // len({*taken, project})
    return sum(taken.values()) + more <= limit or taken.get(project, 0) + more <= share


def overloaded(told: str, wait: float, left: float) -> ResourceExhausted:
    """The refusal of a call that would have to wait so many seconds, with so many left until its deadline. It is told
    to try again after about that wait, or, where that is too late, not to.
    """
    milliseconds = max(1, round(1e3 * wait * random.uniform(1 - _SPREAD, 1 + _SPREAD)))  # noqa: S311 - no secret
    if max(1e3 * wait, milliseconds) >= 1e3 * left:
        return ResourceExhausted(f"{told} It is too late for this call.", reason="OVERLOADED", facts=_pushback(-1))
    message = f"{told} Try again in {milliseconds} ms."
    return ResourceExhausted(message, reason="OVERLOADED", facts=_pushback(milliseconds))


def _pushback(milliseconds: int) -> dict[str, str]:
    return {"pushback_ms": str(milliseconds)}
