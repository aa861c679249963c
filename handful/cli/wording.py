"""Words of the services, for people at a terminal: commands where they name calls of the API, as is right for programs.
It knows no message.
"""

import re

_COMMANDS = {
    "ListRecipes": "recipes",
    "ListArchitectures": "architectures",
    "CreateDatasetVersion": "push",
    "CreateTrainingRun": "train",
    "EvaluateModelVersion": "evaluate",
}
_CALLS = re.compile(rf"\b({'|'.join(_COMMANDS)})\b")


def for_people(text: str) -> str:
    """The text with `handful recipes` for ListRecipes, and so on."""
    return _CALLS.sub(lambda call: f"`handful {_COMMANDS[call[0]]}`", text)
