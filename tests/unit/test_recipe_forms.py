"""What ListRecipes says of when a field may be set, alone and with the field that it hangs on: whoever goes by it asks
nothing that is refused. Of architectures it takes ListArchitectures too.
"""

from typing import Any

import pytest

from handful.errors import InvalidArgument
from handful.recipe import as_dict, recipe
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Modality
from handful.v1.trainer_pb2 import RecipeField, RecipePreset
from services.trainer import recipes
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, ULTRALYTICS
from services.trainer.presets import FAST, FINE_TUNE, PRESETS, QUALITY
from services.trainer.sound_architectures import AUTO, modality

LISTED = [recipes.message(preset, DEFAULT_ARCHITECTURE) for preset in PRESETS.values()]
# What a field is set to where its range alone does not say what would be another value than nothing.
OTHER = {
    "frozen_blocks": 3,
    "layer_decay": 0.5,
    "warmup_epochs": 1,
    "max_gflops": 2.0,
    "architecture": "efficientnet_lite2",
    "initial_head": "FAST",
}


def each_field(*, hanging: bool = False) -> list[Any]:
    return [
        pytest.param(preset, field, id=f"{preset.name}-{field.name}")
        for preset in LISTED
        for field in preset.fields
        if field.needed_field or not hanging
    ]


def another(field: RecipeField) -> object:
    """A value of a field that is not its default."""
    if field.name in OTHER:
        return OTHER[field.name]
    if field.choices:
        return next(one for one in field.choices if one != field.default_value)
    return int(field.maximum) if field.type == RecipeField.TYPE_INTEGER else field.maximum


def problems(asked: dict[str, object], data: "Modality.ValueType" = MODALITY_IMAGE) -> dict[str, str]:
    """The fields that are refused."""
    try:
        recipes.fit(recipe(asked), DEFAULT_ARCHITECTURE, data)
    except InvalidArgument as refused:
        return dict(refused.violations)
    return {}


@pytest.mark.parametrize(("preset", "field"), each_field(hanging=True))
def test_a_field_matters_where_the_list_says(preset: RecipePreset, field: RecipeField) -> None:
    """With the values it needs it may be set and has the default that is listed; with any other it is refused."""
    other = next(one for one in preset.fields if one.name == field.needed_field)
    value = another(field)
    for choice in other.choices:
        asked: dict[str, object] = {"preset": preset.name, "weights": "PRETRAINED", other.name: choice}
        if choice in field.needed_values:
            assert not problems(asked | {field.name: value})
            settled = as_dict(recipes.resolve(recipe(asked), DEFAULT_ARCHITECTURE))
            assert str(settled[field.name]) == field.default_where_needed
        else:
            assert f"recipe.{field.name}" in problems(asked | {field.name: value})


@pytest.mark.parametrize("preset", LISTED, ids=lambda one: one.name)
def test_a_preset_trains_what_the_list_says(preset: RecipePreset) -> None:
    """Alone it is taken for data of the modalities that are listed, and refused by its name for others."""
    for data in (MODALITY_IMAGE, MODALITY_SOUND):
        refused = problems({"preset": preset.name}, data)
        assert list(refused) == ([] if data in preset.modalities else ["recipe.preset"])


@pytest.mark.parametrize(("preset", "field"), each_field())
def test_a_field_fits_the_data_that_the_list_says(preset: RecipePreset, field: RecipeField) -> None:
    """Of a preset for sounds too, a field that is not listed for them is refused by name, and every other is taken."""
    assert set(field.modalities) <= set(preset.modalities)
    if MODALITY_SOUND not in preset.modalities:
        return
    value = "speech_embedding" if field.name == "architecture" else another(field)
    refused = problems({"preset": preset.name, field.name: value}, MODALITY_SOUND)
    assert list(refused) == ([] if MODALITY_SOUND in field.modalities else [f"recipe.{field.name}"])


def fits(preset: str, architecture: str, data: "Modality.ValueType") -> bool:
    """What RecipeField.choices says of architectures, and ListArchitectures of each."""
    if architecture == AUTO:
        return preset == (FAST if data == MODALITY_SOUND else QUALITY)
    row = ARCHITECTURES.get(architecture)
    trained_elsewhere = row is not None and row.network.library == ULTRALYTICS and preset == FINE_TUNE
    return modality(architecture) == data and not trained_elsewhere and (row is None or bool(row.pinned))


@pytest.mark.parametrize(("preset", "field"), each_field())
def test_every_value_that_is_listed_is_taken(preset: RecipePreset, field: RecipeField) -> None:
    """Each choice and both defaults, with data of each modality and what the field needs; of architectures those, and
    only those, that the comments in trainer.proto speak of.
    """
    needed = {field.needed_field: field.needed_values[0]} if field.needed_field else {}
    for data in field.modalities:
        for value in (*field.choices, field.default_where_needed):
            refused = problems({"preset": preset.name, **needed, field.name: value}, data)
            assert bool(refused) != (field.name != "architecture" or fits(preset.name, value, data)), (value, refused)
        if field.name != "architecture":
            assert not problems({"preset": preset.name, field.name: field.default_value}, data)
