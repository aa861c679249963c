"""How a request becomes a recipe, every field of its preset set or refused by name; and how presets are listed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

from handful.errors import InvalidArgument
from handful.recipe import as_dict
from handful.v1 import bundle_pb2, trainer_pb2
from handful.v1.bundle_pb2 import Recipe
from services.trainer import input_sizes
from services.trainer.architectures import ARCHITECTURES, NOT_OFFERED, ULTRALYTICS, ArchitectureRow
from services.trainer.choices import listed, not_one_of
from services.trainer.fields import Field, Preset
from services.trainer.head_fields import MIN_FOLDS
from services.trainer.presets import BASELINE, FAST, FINE_TUNE, PRESETS, QUALITY
from services.trainer.sound_architectures import AUTO, SOUND_ARCHITECTURES, modality

# Numbers of features, of training pictures and their views, that a worker holds at once: 1 GiB as float32, more while
# heads are fitted.
MAX_NUMBERS = 2**28


def resolve(asked: Recipe, default_architecture: str) -> Recipe:
    """The recipe with every field of its preset set; InvalidArgument naming every field that is not right."""
    preset = _preset(asked)
    recipe = Recipe(preset=preset.name)
    problems = [
        (f"recipe.{name}", f"preset {preset.name} has no such field; there is one in {_presets_with(name)}")
        for name in _given(asked)
        if preset.field(name) is None
    ]
    problems += [
        ("recipe", f"field number {unknown.field_number} is not known to this server") for unknown in _unknown(asked)
    ]
    for field in preset.fields:
        if field.name == "architecture" and field.default != AUTO and default_architecture in field.choices:
            field = replace(field, default=default_architecture)  # noqa: PLW2901 - the table's row, as this server has it
        value, problem = _value(asked, field, recipe)
        if problem:
            problems.append((f"recipe.{field.name}", problem))
        elif not (field.unwritten and value == _from_text(Recipe.DESCRIPTOR.fields_by_name[field.name], field.default)):
            setattr(recipe, field.name, value)
    row = ARCHITECTURES.get(recipe.architecture)
    if recipe.backbone_precision == bundle_pb2.BACKBONE_PRECISION_INT8:
        problems += _precision_problems(recipe)
    problems += input_sizes.settle(recipe)
    if row is not None:
        problems += _network_problems(asked, recipe, row)
    problems += _folding_problems(recipe)
    if preset.name == FINE_TUNE and not problems:
        problems += _conflicts(asked, recipe)
    if problems:
        raise InvalidArgument.fields(problems)
    return recipe


def fit(asked: Recipe, default_architecture: str, data: "bundle_pb2.Modality.ValueType") -> Recipe:
    """As `resolve`, for data of a modality; InvalidArgument naming every field that does not fit it."""
    of_sounds = data == bundle_pb2.MODALITY_SOUND
    recipe = resolve(asked, AUTO if of_sounds and _preset(asked).name == FAST else default_architecture)
    held, others = ("sounds", "pictures") if of_sounds else ("pictures", "sounds")
    problems = []
    if of_sounds and recipe.preset != FAST:
        why = "it tries several networks too" if recipe.preset == QUALITY else "their networks are not trained"
        problems.append(("recipe.preset", f"must be {FAST}: the dataset holds sounds, and {why}"))
    elif recipe.preset == QUALITY and recipe.architecture == AUTO:
        pass  # whatever the worker has for pictures
    elif recipe.architecture == AUTO and not of_sounds:
        problems.append(("recipe.architecture", f"{AUTO} is of sounds; preset {QUALITY} chooses for pictures"))
    elif modality(recipe.architecture) != data:
        there = listed((AUTO, *SOUND_ARCHITECTURES) if of_sounds else tuple(ARCHITECTURES))
        named = f"{recipe.architecture} is of {others}, and the dataset holds {held}; there are: {there}"
        problems.append(("recipe.architecture", named))
    elif of_sounds and recipe.weights != bundle_pb2.WEIGHTS_PRETRAINED:
        problems.append(("recipe.weights", "must be PRETRAINED: networks of sounds are not trained"))
    if of_sounds and recipe.fit:
        problems.append(("recipe.fit", "must be left out: only pictures are cropped or squashed"))
    if of_sounds and asked.input_size:
        problems.append(("recipe.input_size", "must be 0: only pictures have a size"))
    if of_sounds and recipe.views:
        problems.append(("recipe.views", "must be 0: only pictures have augmented views"))
    if problems:
        raise InvalidArgument.fields(problems)
    return recipe


def check_views(recipe: Recipe, num_train: int) -> None:
    """InvalidArgument where the features of so many training pictures and views are more than a worker shall hold."""
    row = ARCHITECTURES.get(recipe.architecture)
    if not recipe.views or row is None or num_train * (1 + recipe.views) * row.feature_width <= MAX_NUMBERS:
        return
    most = max(0, MAX_NUMBERS // (num_train * row.feature_width) - 1)
    why = f"each picture and each view has {row.feature_width} numbers, and {MAX_NUMBERS:,} in all is the limit"
    raise InvalidArgument.fields(
        [("recipe.views", f"must be at most {most} with {num_train} training pictures: {why}")]
    )


def message(preset: Preset, default_architecture: str) -> trainer_pb2.RecipePreset:
    """A preset as it is listed. A default is what the field has where only the preset is named."""
    return trainer_pb2.RecipePreset(
        name=preset.name,
        description=preset.description,
        is_default=preset.name == FAST,
        modalities=preset.modalities,
        fields=[
            trainer_pb2.RecipeField(
                name=field.name,
                description=_description(field),
                type=field.type,
                default_value=_default(preset, field, default_architecture),
                minimum=field.minimum,
                maximum=field.maximum,
                unit=field.unit,
                choices=field.choices,
                needed_field=field.needs.field if field.needs else "",
                needed_values=field.needs.values if field.needs else (),
                default_where_needed=_own_default(field, default_architecture),
                modalities=[one for one in field.modalities if one in preset.modalities],
            )
            for field in preset.fields
        ],
    )


def _description(field: Field) -> str:
    if field.needs is None:
        return field.description
    needed = f"{field.needs.field} {' or '.join(field.needs.values)}"
    return f"{field.description} Only with {needed}, where the default is {field.default}."


def _default(preset: Preset, field: Field, architecture: str) -> str:
    needs = field.needs
    other = preset.field(needs.field) if needs else None
    if needs is None or (other is not None and other.default in needs.values):
        return _own_default(field, architecture)
    return str(needs.otherwise)


def _own_default(field: Field, architecture: str) -> str:
    takes = field.name == "architecture" and field.default != AUTO and architecture in field.choices
    return architecture if takes else str(field.default)


def _conflicts(asked: Recipe, recipe: Recipe) -> list[tuple[str, str]]:
    """What makes no sense together in a recipe of `fine_tune` whose fields are right one by one. A warm-up that nobody
    asked for is shortened to what there is room for.
    """
    problems = []
    row = ARCHITECTURES.get(recipe.architecture)
    if recipe.freeze == bundle_pb2.FREEZE_FIRST_BLOCKS and row and not 0 < recipe.frozen_blocks < row.num_blocks:
        allowed = f"must be between 1 and {row.num_blocks - 1}, not {recipe.frozen_blocks}"
        problems.append(("recipe.frozen_blocks", f"{allowed}: {row.id} has {row.num_blocks} blocks"))
    if recipe.warmup_epochs >= recipe.num_epochs:
        if "warmup_epochs" in _given(asked):
            problems.append(("recipe.warmup_epochs", f"must be less than num_epochs, which is {recipe.num_epochs}"))
        recipe.warmup_epochs = recipe.num_epochs - 1
    if recipe.weights == bundle_pb2.WEIGHTS_RANDOM and recipe.freeze != bundle_pb2.FREEZE_NONE:
        problems.append(("recipe.freeze", "must be NONE where weights are RANDOM: random numbers have to be trained"))
    return problems


def _network_problems(asked: Recipe, recipe: Recipe, row: ArchitectureRow) -> list[tuple[str, str]]:
    """What is not there for a network, of a recipe whose fields are right one by one."""
    if row.network.library == ULTRALYTICS:
        problems = _yolo_problems(asked, recipe)
    else:
        problems = _members_problems(recipe) if row.members else []
    if not row.pinned and recipe.weights == bundle_pb2.WEIGHTS_PRETRAINED:
        problems.append(("recipe.weights", NOT_OFFERED.format(row.id)))
    return problems


def _yolo_problems(asked: Recipe, recipe: Recipe) -> list[tuple[str, str]]:
    """What Ultralytics' trainer cannot do, of a recipe for a YOLO whose fields are right one by one. Where nobody asked
    for it, it is left out.
    """
    if recipe.preset == FINE_TUNE:
        own = f"{recipe.architecture} is trained by Ultralytics' own trainer"
        return [("recipe.architecture", f"{own}: take preset baseline, or fast for a head on its features")]
    if recipe.challenger_epochs:
        return [("recipe.challenger_epochs", f"must be 0: {recipe.architecture} is not fine-tuned")]
    if recipe.preset != BASELINE:
        return []
    given, problems = _given(asked), []
    if recipe.frozen_mode == bundle_pb2.FROZEN_MODE_TRAIN:
        problems.append(("recipe.frozen_mode", "must be EVAL: Ultralytics keeps what is frozen in eval mode"))
    if "rotation_degrees" in given and recipe.rotation_degrees:
        problems.append(("recipe.rotation_degrees", "must be 0: Ultralytics does not rotate pictures to classify"))
    if "contrast" in given and recipe.HasField("brightness") and recipe.contrast != recipe.brightness:
        equal = f"must equal brightness, which is {_number(recipe.brightness)}"
        problems.append(("recipe.contrast", f"{equal}: Ultralytics has one strength for both"))
    if "fit" in given:
        problems.append(("recipe.fit", "must be left out: Ultralytics' trainer has its own way to cut pictures"))
    recipe.rotation_degrees, recipe.contrast = 0, recipe.brightness
    return problems


def _members_problems(recipe: Recipe) -> list[tuple[str, str]]:
    """What is not done with networks side by side, which are not trained."""
    problems = []
    if recipe.weights != bundle_pb2.WEIGHTS_PRETRAINED:
        problems.append(
            ("recipe.weights", f"must be PRETRAINED: the networks of {recipe.architecture} are not trained")
        )
    if recipe.challenger_epochs:
        problems.append(("recipe.challenger_epochs", f"must be 0: {recipe.architecture} is not fine-tuned"))
    return problems


def _precision_problems(recipe: Recipe) -> list[tuple[str, str]]:
    """Why there is no backbone in integers as a recipe asks for it."""
    offering = [row.id for row in ARCHITECTURES.values() if row.int8]
    if recipe.architecture not in offering:
        there = f"INT8 is there for {listed(offering)}"
        return [("recipe.backbone_precision", f"must be FLOAT32 with {recipe.architecture}: {there}")]
    if recipe.weights != bundle_pb2.WEIGHTS_PRETRAINED:
        return [("recipe.backbone_precision", "must be FLOAT32 unless weights are PRETRAINED")]
    return []


def _folding_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if 0 < recipe.num_folds < MIN_FOLDS:
        yield "recipe.num_folds", f"must be 0 or at least {MIN_FOLDS}: heads are fitted on the other folds"
    if recipe.num_repeats > 1 and recipe.challenger_epochs:
        yield "recipe.num_repeats", "must be 0 or 1 with challenger_epochs: a challenger answers once"


def _preset(asked: Recipe) -> Preset:
    if asked.preset:
        if asked.preset not in PRESETS:
            raise InvalidArgument.fields([("recipe.preset", not_one_of(asked.preset, tuple(PRESETS)))])
        return PRESETS[asked.preset]
    # Someone who sets a learning rate means gradient training.
    unknown_to_fast = [name for name in _given(asked) if PRESETS[FAST].field(name) is None]
    if any(PRESETS[BASELINE].field(name) is None for name in unknown_to_fast):
        return PRESETS[FINE_TUNE]
    return PRESETS[BASELINE if unknown_to_fast else FAST]


def _unknown(asked: Recipe) -> Iterable[Any]:
    return UnknownFieldSet(asked)  # type: ignore[return-value]


def _given(asked: Recipe) -> list[str]:
    return [descriptor.name for descriptor, _ in asked.ListFields() if descriptor.name != "preset"]


def _value(asked: Recipe, field: Field, resolved: Recipe) -> tuple[Any, str]:
    descriptor = Recipe.DESCRIPTOR.fields_by_name[field.name]
    if field.needs is not None and not matters(resolved, field):
        problem = f"only matters with {field.needs.field} {' or '.join(field.needs.values)}"
        otherwise = _from_text(descriptor, field.needs.otherwise)
        given = field.name in _given(asked) and getattr(asked, field.name) != otherwise
        return otherwise, problem if given else ""
    if field.name not in _given(asked):
        return _from_text(descriptor, field.default), ""
    value = getattr(asked, field.name)
    if field.choices:
        allowed = [_from_text(descriptor, choice) for choice in field.choices]
        return value, "" if value in allowed else not_one_of(as_dict(asked)[field.name], field.choices)
    in_range = math.isfinite(value) and field.minimum <= value <= field.maximum
    return (
        value,
        ""
        if in_range
        else f"must be between {_number(field.minimum)} and {_number(field.maximum)}, not {_number(value)}",
    )


def matters(recipe: Recipe, field: Field) -> bool:
    """Whether a recipe has what one of its fields needs to matter."""
    if field.needs is None:
        return True
    descriptor = Recipe.DESCRIPTOR.fields_by_name[field.needs.field]
    return getattr(recipe, field.needs.field) in [_from_text(descriptor, value) for value in field.needs.values]


def _presets_with(name: str) -> str:
    return ", ".join(preset.name for preset in PRESETS.values() if preset.field(name) is not None)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _from_text(descriptor: FieldDescriptor, value: Any) -> Any:
    if descriptor.enum_type is None:
        return value
    prefix = descriptor.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    return descriptor.enum_type.values_by_name[prefix + str(value)].number
