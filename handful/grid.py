"""Grids of recipes: `preset=fast,baseline architecture=a,b` means four. It calls nobody."""

import uuid
from collections.abc import Iterable, Sequence
from itertools import groupby, product

from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import Recipe

# What can be compared at once.
MAX_RUNS = 100
_NAMESPACE = uuid.UUID("a5d3a0a4-64c7-4a52-9f0f-52a8c5c2a7be")

Fields = dict[str, str]


def parse(words: Sequence[str]) -> tuple[list[str], list[Fields]]:
    """Datasets, and the combinations of fields: `flowers preset=fast + preset=baseline num_epochs=5,10` has one dataset
    and three. A `+` begins another grid; an empty one is the default recipe. InvalidArgument.
    """
    datasets = list(dict.fromkeys(word for word in words if word != "+" and "=" not in word))
    if not datasets:
        raise InvalidArgument("Name a dataset first: handful sweep flowers preset=fast,baseline")
    fields = [word for word in words if word == "+" or "=" in word]
    grids = [list(some) for plus, some in groupby(fields, lambda word: word == "+") if not plus]
    if "+" in fields and (fields[0] == "+" or fields[-1] == "+"):
        grids.insert(0 if fields[0] == "+" else len(grids), [])
    found: list[Fields] = []
    for combination in (one for words in grids or [[]] for one in _product(words)):
        if combination not in found:
            found.append(combination)
    if len(datasets) * len(found) > MAX_RUNS:
        raise InvalidArgument(f"These are {len(datasets) * len(found)} runs; at most {MAX_RUNS} can be compared.")
    return datasets, found


def _product(words: Iterable[str]) -> Iterable[Fields]:
    choices: dict[str, list[str]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name in choices or not name or not all(values.split(",")):
            raise InvalidArgument(f"Write each field once, as FIELD=VALUE or FIELD=VALUE,VALUE; not: {word}")
        choices[name] = values.split(",")
    return (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


def said(fields: Fields) -> str:
    """As it was written."""
    return " ".join(f"{name}={value}" for name, value in fields.items()) or "the default recipe"


def request_id(dataset_version: str, model: str, recipe: Recipe, after: str = "") -> str:
    """The request id of a run of a sweep, the same whenever the same is asked for: a resolved recipe on a dataset
    version, for a model; if wanted `after` a run of that which came to nothing.
    """
    what = (dataset_version, model, recipe.SerializeToString(deterministic=True).hex(), after)
    return str(uuid.uuid5(_NAMESPACE, "\n".join(what)))
