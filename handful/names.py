"""Names, taken apart and checked in one place: of resources, `projects/{project}/datasets/{dataset}` and their like; of
classes.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from handful.errors import InvalidArgument

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_RUN = re.compile(r"[0-9a-z]([0-9a-z-]{0,62})?")

PROJECT = "projects/{project}"
DATASET = "projects/{project}/datasets/{dataset}"
DATASET_VERSION = "projects/{project}/datasets/{dataset}/versions/{number}"
TRAINING_RUN = "projects/{project}/trainingRuns/{run}"
MODEL = "projects/{project}/models/{model}"
MODEL_VERSION = "projects/{project}/models/{model}/versions/{number}"
MODEL_ALIAS = "projects/{project}/models/{model}@{alias}"

MAX_LABEL = 128
# Control characters, halves of characters, invisible formats such as those that turn text around, line ends.
_CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# They join or part letters in Persian, Hindi and emoji, and belong to words.
_JOINERS = {"\u200c", "\u200d"}

_PARTS = {"number": _NUMBER, "run": _RUN}


def match(patterns: str | Sequence[str], name: str, field: str) -> dict[str, str]:
    """The parts of a name that has one of the patterns; InvalidArgument naming the field where it has none."""
    allowed = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in allowed:
        found = _compiled(pattern).fullmatch(name)
        if found:
            return found.groupdict()
    raise InvalidArgument.fields([(field, f"must look like {' or '.join(allowed)}")])


def check_id(value: str, field: str) -> str:
    """The id itself; InvalidArgument where it is not one."""
    if not ID.fullmatch(value):
        raise InvalidArgument.fields([(field, f"must match {ID.pattern}, such as flowers or cats-and-dogs")])
    return value


def is_label(text: str) -> bool:
    """Whether a text can name a class: 1 to 128 characters, without controls, invisible formats or spaces around it."""
    controls = any(unicodedata.category(letter) in _CONTROLS and letter not in _JOINERS for letter in text)
    return 0 < len(text) <= MAX_LABEL and not controls and text.strip() == text


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{_PARTS.get(part[1], ID).pattern})", pattern))
