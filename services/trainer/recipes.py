"""The catalogue of recipes: presets and their fields with defaults and ranges; and how a request becomes one.

Constants of `fast` and `baseline`, with the measurements behind them, are explained in docs/why.md.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

from handful.errors import InvalidArgument
from handful.v1 import trainer_pb2
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, NOT_OFFERED

FAST = "fast"
BASELINE = "baseline"


@dataclass(frozen=True)
class Field:
    """A field that a preset has. `choices` makes it a choice, a whole `default` a whole number."""

    name: str
    description: str
    default: float | int | str
    minimum: float = 0.0
    maximum: float = 0.0
    unit: str = ""
    choices: tuple[str, ...] = ()

    @property
    def type(self) -> "trainer_pb2.RecipeField.Type.ValueType":
        if self.choices:
            return trainer_pb2.RecipeField.TYPE_CHOICE
        whole = isinstance(self.default, int)
        return trainer_pb2.RecipeField.TYPE_INTEGER if whole else trainer_pb2.RecipeField.TYPE_NUMBER


@dataclass(frozen=True)
class Preset:
    name: str
    description: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


_COMMON = (
    Field("architecture", "Which network.", DEFAULT_ARCHITECTURE, choices=tuple(ARCHITECTURES)),
    Field(
        "weights",
        "What the network starts from. AUTO: pretrained weights where they can be had, else random ones, all trained.",
        "PRETRAINED",
        choices=("PRETRAINED", "RANDOM", "AUTO"),
    ),
    Field("seed", "Seed of everything random.", 0, 0, 2**31 - 1),
)
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            FAST,
            "Seconds on a CPU, and the most accurate for a few examples: every picture goes through the network once, "
            "then a convex head is fitted to the optimum.",
            (
                *_COMMON,
                Field(
                    "num_epochs", "Most passes of the solver; it stops when it has converged.", 200, 1, 10_000, "epochs"
                ),
                Field("regularization_c", "Inverse strength of the L2 penalty of the head.", 1.0, 1e-4, 1e4),
            ),
        ),
        Preset(
            BASELINE,
            "The textbook recipe, to compare with: a new linear head on a frozen body, by Adam, on augmented views.",
            (
                *_COMMON,
                Field("num_epochs", "Passes over the training examples.", 10, 1, 1000, "epochs"),
                Field("learning_rate", "Step size of Adam.", 1e-4, 1e-8, 1.0),
                Field("batch_size", "Examples per step.", 8, 1, 512, "examples"),
                Field("weight_decay", "L2 penalty of Adam, added to the gradient.", 1e-4, 0.0, 1.0),
                Field("freeze", "What training leaves alone.", "BODY", choices=("BODY", "NONE")),
                Field("frozen_mode", "How a frozen body runs.", "EVAL", choices=("EVAL", "TRAIN")),
                Field(
                    "target_size", "Smaller classes are topped up with repeats to this many.", 50, 0, 10_000, "examples"
                ),
                Field("horizontal_flip", "Probability of a flip.", 0.5, 0.0, 1.0),
                Field("rotation_degrees", "Largest rotation either way.", 15.0, 0.0, 180.0, "degrees"),
                Field("brightness", "Largest relative change.", 0.2, 0.0, 1.0),
                Field("contrast", "Largest relative change.", 0.2, 0.0, 1.0),
                Field("saturation", "Largest relative change.", 0.2, 0.0, 1.0),
            ),
        ),
    )
}


def resolve(asked: Recipe, default_architecture: str) -> Recipe:
    """The recipe with every field of its preset set; InvalidArgument naming every field that is not right."""
    preset = _preset(asked)
    recipe = Recipe(preset=preset.name)
    problems = [
        (
            f"recipe.{name}",
            f"preset {preset.name} has no such field; it has: {', '.join(f.name for f in preset.fields)}",
        )
        for name in _given(asked)
        if preset.field(name) is None
    ]
    problems += [
        ("recipe", f"field number {unknown.field_number} is not known to this server") for unknown in _unknown(asked)
    ]
    for field in preset.fields:
        if field.name == "architecture":
            field = replace(field, default=default_architecture)  # noqa: PLW2901 - the table's row, as this server has it
        value, problem = _value(asked, field)
        if problem:
            problems.append((f"recipe.{field.name}", problem))
        else:
            setattr(recipe, field.name, value)
    row = ARCHITECTURES.get(recipe.architecture)
    if row is not None and row.weights is None and recipe.weights == WEIGHTS_PRETRAINED:
        problems.append(("recipe.weights", NOT_OFFERED.format(row.id)))
    if problems:
        raise InvalidArgument.fields(problems)
    return recipe


def message(preset: Preset, default_architecture: str) -> trainer_pb2.RecipePreset:
    return trainer_pb2.RecipePreset(
        name=preset.name,
        description=preset.description,
        is_default=preset.name == FAST,
        fields=[
            trainer_pb2.RecipeField(
                name=field.name,
                description=field.description,
                type=field.type,
                default_value=default_architecture if field.name == "architecture" else str(field.default),
                minimum=field.minimum,
                maximum=field.maximum,
                unit=field.unit,
                choices=field.choices,
            )
            for field in preset.fields
        ],
    )


def _preset(asked: Recipe) -> Preset:
    if asked.preset:
        if asked.preset not in PRESETS:
            raise InvalidArgument.fields(
                [("recipe.preset", f"{asked.preset!r} is unknown; there are: {', '.join(PRESETS)}")]
            )
        return PRESETS[asked.preset]
    # Someone who sets a learning rate means gradient training.
    only_gradient = any(PRESETS[FAST].field(name) is None and PRESETS[BASELINE].field(name) for name in _given(asked))
    return PRESETS[BASELINE if only_gradient else FAST]


def _unknown(asked: Recipe) -> Iterable[Any]:
    return UnknownFieldSet(asked)  # type: ignore[return-value]


def _given(asked: Recipe) -> list[str]:
    return [descriptor.name for descriptor, _ in asked.ListFields() if descriptor.name != "preset"]


def _value(asked: Recipe, field: Field) -> tuple[Any, str]:
    descriptor = Recipe.DESCRIPTOR.fields_by_name[field.name]
    if field.name not in _given(asked):
        return _from_text(descriptor, field.default), ""
    value = getattr(asked, field.name)
    if field.choices:
        allowed = [_from_text(descriptor, choice) for choice in field.choices]
        shown = descriptor.enum_type.values_by_number.get(value) if descriptor.enum_type else value
        shown = getattr(shown, "name", shown or value)
        return value, "" if value in allowed else f"must be one of {', '.join(field.choices)}, not {shown}"
    in_range = math.isfinite(value) and field.minimum <= value <= field.maximum
    return (
        value,
        ""
        if in_range
        else f"must be between {_number(field.minimum)} and {_number(field.maximum)}, not {_number(value)}",
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _from_text(descriptor: FieldDescriptor, value: Any) -> Any:
    if descriptor.enum_type is None:
        return value
    prefix = descriptor.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    return descriptor.enum_type.values_by_name[prefix + str(value)].number
