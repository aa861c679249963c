"""Recipes from names and values: `recipe({"num_epochs": 10, "learning_rate": "1e-3"})`."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import Recipe

_WHOLE = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)


def recipe(fields: Mapping[str, object]) -> Recipe:
    """The message; values may be text. InvalidArgument names every field that is unknown or cannot be read."""
    made, problems = Recipe(), []
    for name, value in fields.items():
        descriptor = Recipe.DESCRIPTOR.fields_by_name.get(name)
        if descriptor is None:
            known = list(Recipe.DESCRIPTOR.fields_by_name)
            near = get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}?" if near else "`handful recipes` lists them, and so does Client.recipes"
            problems.append((f"recipe.{name}", f"there is no such field; {meant}"))
            continue
        try:
            setattr(made, name, _value(descriptor, value))
        except (ValueError, TypeError) as problem:
            problems.append((f"recipe.{name}", str(problem)))
    if problems:
        raise InvalidArgument.fields(problems)
    return made


def as_dict(message: Recipe) -> dict[str, Any]:
    """The fields that are set, by name, choices as words; one that a newer release knows as its number, as text."""
    return {descriptor.name: _plain(descriptor, value) for descriptor, value in message.ListFields()}


def _value(descriptor: FieldDescriptor, value: object) -> Any:
    if descriptor.enum_type is not None:
        prefix = _prefix(descriptor)
        choice = descriptor.enum_type.values_by_name.get(prefix + str(value).upper())
        if choice is None or choice.number == 0:
            choices = [one.name.removeprefix(prefix) for one in descriptor.enum_type.values[1:]]
            raise ValueError(f"must be one of {', '.join(choices)}, not {value}")
        return choice.number
    if descriptor.type == FieldDescriptor.TYPE_STRING:
        return str(value)
    try:
        return int(str(value)) if descriptor.type in _WHOLE else float(str(value))
    except ValueError:
        kind = "a whole number" if descriptor.type in _WHOLE else "a number"
        raise ValueError(f"must be {kind}, not {value}") from None


def _plain(descriptor: FieldDescriptor, value: Any) -> object:
    if descriptor.enum_type is None:
        return value
    choice = descriptor.enum_type.values_by_number.get(value)
    return str(value) if choice is None else choice.name.removeprefix(_prefix(descriptor))


def _prefix(descriptor: FieldDescriptor) -> str:
    if descriptor.enum_type is None:
        raise TypeError(descriptor.name)
    return descriptor.enum_type.values[0].name.removesuffix("UNSPECIFIED")
