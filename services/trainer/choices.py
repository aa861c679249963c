"""Words for a choice that is none of those there are: what was meant, and what there is, short enough not to be cut."""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate

# Letters of what was given, and of what might have been, that a message shows.
SHOWN_GIVEN, SHOWN_CHOICES = 40, 100


def not_one_of(given: str, choices: Sequence[str]) -> str:
    """What is wrong with a choice that is none of these; the choices are a field's, which ListRecipes has."""
    near = get_close_matches(given.lower(), [choice.lower() for choice in choices], 1)
    meant = next((choice for choice in choices if choice.lower() in near), None)
    shown = given if len(given) <= SHOWN_GIVEN else f"{given[:SHOWN_GIVEN]}..."
    if meant is None:
        return f"must be one of {listed(choices)}, not {shown}"
    return f"there is no {shown}; did you mean {meant}? There are {listed(choices)}"


def listed(choices: Sequence[str]) -> str:
    """The choices, as many as fit into a line."""
    num_shown = sum(end <= SHOWN_CHOICES for end in accumulate(len(choice) + 2 for choice in choices))
    more = len(choices) - num_shown
    return ", ".join(choices[:num_shown]) + (f" and {more} more, which ListRecipes has" if more else "")
