"""Recipes: every preset, field and limit of the catalogue; and recipes made from words."""

import json
import math
from typing import Any

import pytest

from handful.errors import InvalidArgument
from handful.recipe import as_dict, recipe
from handful.v1 import trainer_pb2
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Freeze, Recipe, Weights
from services.trainer import recipes
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.fields import Field, Preset
from services.trainer.presets import PRESETS

NUMBERS = (trainer_pb2.RecipeField.TYPE_INTEGER, trainer_pb2.RecipeField.TYPE_NUMBER)
MATTERS_WITH: dict[str, dict[str, object]] = {
    # Of the network with the most, whether its weights can be had or not.
    "frozen_blocks": {"freeze": "FIRST_BLOCKS", "architecture": "efficientnet_b7", "weights": "AUTO"},
    "momentum": {"optimizer": "SGD"},
    "warmup_epochs": {"num_epochs": 1000},
}
presets = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


def resolve(asked: Recipe) -> Recipe:
    return recipes.resolve(asked, DEFAULT_ARCHITECTURE)


def refused(asked: Recipe) -> dict[str, str]:
    """The fields that are refused, each with what is wrong and allowed."""
    with pytest.raises(InvalidArgument) as caught:
        resolve(asked)
    return dict(caught.value.violations)


def asking(preset: Preset, field: Field, value: float) -> Recipe:
    """A recipe of a preset with one field set, and what it needs to matter."""
    made = recipe(MATTERS_WITH.get(field.name, {}) if preset.name == "fine_tune" and value != 0 else {})
    made.preset = preset.name
    setattr(made, field.name, value)
    return made


def each_number() -> list[Any]:
    """Every field of every preset that is a number."""
    return [
        pytest.param(preset, field, id=f"{preset.name}-{field.name}")
        for preset in PRESETS.values()
        for field in preset.fields
        if field.type in NUMBERS
    ]


@presets
def test_a_preset_alone_resolves_to_every_field_it_has(preset: Preset) -> None:
    """A resolved recipe has exactly the fields of its preset, and resolving it again changes nothing. No views, and
    what releases before a field did, is not written down: their workers train such runs.
    """
    resolved = resolve(Recipe(preset=preset.name))
    assert {descriptor.name for descriptor, _ in resolved.ListFields()} == {
        "preset",
        *(field.name for field in preset.fields if field.name != "views" and not field.unwritten),
    }
    assert resolve(resolved) == resolved


@presets
def test_the_defaults_that_are_listed_are_those_that_are_used(preset: Preset) -> None:
    """Whoever sends every default as it is written in the catalogue gets what the preset alone gives."""
    listed = recipes.message(preset, DEFAULT_ARCHITECTURE)
    written = recipe({"preset": preset.name, **{field.name: field.default_value for field in listed.fields}})
    assert resolve(written) == resolve(Recipe(preset=preset.name))


def test_the_baseline_is_the_recipe_of_the_textbook() -> None:
    """The constants that published results were made with stay what they are."""
    expected = {
        "preset": "baseline",
        "architecture": DEFAULT_ARCHITECTURE,
        "weights": "PRETRAINED",
        "seed": 0,
        "num_epochs": 10,
        "learning_rate": 1e-4,
        "batch_size": 8,
        "weight_decay": 1e-4,
        "freeze": "BODY",
        "frozen_mode": "EVAL",
        "target_size": 50,
        "horizontal_flip": 0.5,
        "rotation_degrees": 15.0,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    }
    assert as_dict(resolve(Recipe(preset="baseline"))) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "fast"),
        ({"seed": 1, "num_epochs": 3, "weights": "random"}, "fast"),
        ({"regularization_c": 2}, "fast"),
        ({"learning_rate": 1e-3}, "baseline"),
        ({"freeze": "none"}, "baseline"),
        ({"horizontal_flip": 0}, "baseline"),
        ({"layer_decay": 0.8}, "fine_tune"),
        ({"learning_rate": 1e-3, "optimizer": "SGD"}, "fine_tune"),
        ({"preset": "fast", "seed": 1}, "fast"),
        ({"preset": "baseline", "num_epochs": 3}, "baseline"),
    ],
    ids=str,
)
def test_the_preset_follows_from_the_fields(asked: dict[str, object], expected: str) -> None:
    """Where none is named it is `fast`, `baseline` where that lacks a field, and `fine_tune` where both do."""
    assert resolve(recipe(asked)).preset == expected


@pytest.mark.parametrize(("preset", "field"), each_number())
def test_limits_belong_to_the_range(preset: Preset, field: Field) -> None:
    """The smallest and the largest value that are listed are taken as they are."""
    whole = field.type == trainer_pb2.RecipeField.TYPE_INTEGER
    for limit in (field.minimum, field.maximum):
        value = int(limit) if whole else limit
        assert getattr(resolve(asking(preset, field, value)), field.name) == value


@pytest.mark.parametrize(("preset", "field"), each_number())
def test_what_is_out_of_range_is_refused(preset: Preset, field: Field) -> None:
    """Values beyond the limits, and those that are no numbers, are refused with the limits."""
    if field.type == trainer_pb2.RecipeField.TYPE_INTEGER:
        wrong: list[float] = [int(field.minimum) - 1, int(field.maximum) + 1]
    else:
        below, above = math.nextafter(field.minimum, -math.inf), math.nextafter(field.maximum, math.inf)
        wrong = [below, above, -1.0, math.nan, math.inf, -math.inf]
    for value in wrong:
        problems = refused(asking(preset, field, value))
        assert list(problems) == [f"recipe.{field.name}"]
        for limit in (field.minimum, field.maximum):
            assert (str(limit) if isinstance(limit, int) else f"{limit:g}") in problems[f"recipe.{field.name}"]


SENSELESS: list[tuple[dict[str, object], str, str]] = [
    ({"frozen_blocks": 3}, "frozen_blocks", "only matters with freeze FIRST_BLOCKS"),
    ({"freeze": "FIRST_BLOCKS", "frozen_blocks": 0}, "frozen_blocks", "between 1 and 17, not 0"),
    ({"freeze": "FIRST_BLOCKS", "frozen_blocks": 18}, "frozen_blocks", "between 1 and 17, not 18"),
    ({"freeze": "BODY", "layer_decay": 0.9}, "layer_decay", "only matters with freeze NONE or FIRST_BLOCKS"),
    ({"freeze": "BODY", "learning_rate": 1e-3}, "learning_rate", "only matters with freeze NONE or FIRST_BLOCKS"),
    ({"momentum": 0.9}, "momentum", "only matters with optimizer SGD"),
    ({"warmup_epochs": 20}, "warmup_epochs", "must be less than num_epochs, which is 20"),
    ({"schedule": "ONE_CYCLE", "warmup_epochs": 1}, "warmup_epochs", "only matters with schedule CONSTANT or COSINE"),
    ({"weights": "RANDOM", "freeze": "BODY"}, "freeze", "must be NONE where weights are RANDOM"),
    ({"weights": "RANDOM", "initial_head": "FAST"}, "initial_head", "only matters with weights PRETRAINED or AUTO"),
    ({"frozen_mode": "TRAIN"}, "frozen_mode", "has no such field"),
    ({"preset": "baseline", "freeze": "NONE", "frozen_mode": "TRAIN"}, "frozen_mode", "only matters with freeze BODY"),
]


@pytest.mark.parametrize(("fields", "field", "words"), SENSELESS, ids=str)
def test_what_makes_no_sense_together_is_refused(fields: dict[str, object], field: str, words: str) -> None:
    """Fields that are right one by one are refused by name where others make them senseless."""
    problems = refused(recipe({"preset": "fine_tune", **fields}))
    assert list(problems) == [f"recipe.{field}"]
    assert words in problems[f"recipe.{field}"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"freeze": "BODY"}, {"learning_rate": 0.0, "layer_decay": 1.0, "frozen_blocks": 0}),
        ({"freeze": "FIRST_BLOCKS"}, {"frozen_blocks": 5, "layer_decay": 0.9}),
        ({"optimizer": "SGD"}, {"momentum": 0.9}),
        ({"schedule": "ONE_CYCLE"}, {"warmup_epochs": 0}),
        ({"num_epochs": 1}, {"warmup_epochs": 0}),
        ({"weights": "RANDOM"}, {"initial_head": "RANDOM", "freeze": "NONE"}),
        ({"mixup": 0.2, "cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}),
    ],
    ids=str,
)
def test_what_was_not_asked_for_follows(fields: dict[str, object], expected: dict[str, object]) -> None:
    """One field is enough: those that hang on it take the default that makes sense with it, or say nothing."""
    resolved = resolve(recipe({"preset": "fine_tune", **fields}))
    assert as_dict(resolved).items() >= expected.items()
    assert resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"preset": "fine_tune"}, "architecture", "Ultralytics' own trainer: take preset baseline, or fast"),
        ({"rotation_degrees": 5}, "rotation_degrees", "must be 0"),
        ({"frozen_mode": "TRAIN"}, "frozen_mode", "must be EVAL"),
        ({"fit": "CENTER_CROP"}, "fit", "must be left out"),
        ({"fit": "SQUASH"}, "fit", "must be left out"),
        ({"brightness": 0.4, "contrast": 0.2}, "contrast", "must equal brightness, which is 0.4"),
        ({"contrast": 0.3}, "contrast", "must equal brightness, which is 0.2"),
    ],
    ids=str,
)
def test_what_ultralytics_cannot_do_is_refused(fields: dict[str, object], field: str, words: str) -> None:
    """A YOLO is trained by Ultralytics' trainer: what that has not is refused by the field's name."""
    problems = refused(recipe({"preset": "baseline", "architecture": "yolo11s_cls", **fields}))
    assert list(problems) == [f"recipe.{field}"]
    assert words in problems[f"recipe.{field}"]


def test_what_ultralytics_has_not_is_left_out() -> None:
    """Where nobody asked, a YOLO's pictures are not rotated, and their contrast changes as their brightness does."""
    resolved = resolve(recipe({"architecture": "yolo11n_cls", "freeze": "NONE", "brightness": 0.4}))
    assert (resolved.preset, resolved.rotation_degrees, resolved.contrast) == ("baseline", 0, 0.4)
    assert resolve(resolved) == resolved


def test_a_listed_field_says_what_it_hangs_on() -> None:
    """The default that is listed is the one that a preset alone gives; the other one is said in words too."""
    listed = {field.name: field for field in recipes.message(PRESETS["fine_tune"], DEFAULT_ARCHITECTURE).fields}
    assert listed["momentum"].default_value == "0.0"
    assert listed["momentum"].description == "Momentum. Only with optimizer SGD, where the default is 0.9."
    assert listed["learning_rate"].default_value == "0.0001"


def test_a_choice_that_this_server_does_not_know_is_refused() -> None:
    """A number of an enumeration that is not in the catalogue is refused, naming what there is."""
    asked = Recipe.FromString(Recipe(preset="baseline").SerializeToString() + b"\x50\x63")
    assert int(asked.freeze) == 99
    assert refused(asked) == {"recipe.freeze": "must be one of BODY, NONE, not 99"}


def test_a_choice_that_is_not_set_takes_the_default() -> None:
    """UNSPECIFIED is no choice of its own."""
    asked = Recipe(preset="baseline", weights=Weights.WEIGHTS_UNSPECIFIED, freeze=Freeze.FREEZE_UNSPECIFIED)
    assert (resolve(asked).weights, resolve(asked).freeze) == (Weights.WEIGHTS_PRETRAINED, Freeze.FREEZE_BODY)


def test_every_wrong_field_is_named_at_once() -> None:
    """Nobody has to mend a recipe one answer at a time."""
    asked = recipe({"preset": "fast", "num_epochs": -1, "regularization_c": "nan", "learning_rate": 1, "seed": -1})
    expected = {"recipe.num_epochs", "recipe.regularization_c", "recipe.learning_rate", "recipe.seed"}
    assert set(refused(asked)) == expected


def test_the_default_architecture_is_the_servers() -> None:
    """A recipe that names no architecture takes the one that this server was told to take, where its preset has it,
    and the list says so: networks side by side are not trained, and `quality` chooses.
    """
    own = "efficientnet_lite0_and_lite2"
    expected = {"fast": own, "quality": "auto", "fine_tune": DEFAULT_ARCHITECTURE, "baseline": DEFAULT_ARCHITECTURE}
    for preset in PRESETS.values():
        assert recipes.resolve(Recipe(preset=preset.name), own).architecture == expected[preset.name]
        listed = {field.name: field for field in recipes.message(preset, own).fields}
        assert listed["architecture"].default_value == expected[preset.name]


def test_the_hyperparameter_file_is_taken_as_it_is() -> None:
    """The four fields that hyperparameter files have are a recipe."""
    file = json.loads('{"num_epochs": 12, "learning_rate": 0.001, "batch_size": 16, "weight_decay": 0}')
    resolved = as_dict(resolve(recipe(file)))
    assert resolved == {**as_dict(resolve(Recipe(preset="baseline"))), **file}


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"epochs": 3}, "recipe.epochs", "num_epochs"),
        ({"num_epochs": "ten"}, "recipe.num_epochs", "must be a whole number, not ten"),
        ({"num_epochs": 1.5}, "recipe.num_epochs", "must be a whole number, not 1.5"),
        ({"num_epochs": 2**40}, "recipe.num_epochs", ""),
        ({"learning_rate": "fast"}, "recipe.learning_rate", "must be a number, not fast"),
        ({"learning_rate": None}, "recipe.learning_rate", "must be a number, not None"),
        ({"freeze": "head"}, "recipe.freeze", "must be one of BODY, NONE, FIRST_BLOCKS, not head"),
        ({"weights": "unspecified"}, "recipe.weights", "must be one of PRETRAINED, RANDOM, AUTO, not unspecified"),
    ],
    ids=str,
)
def test_words_that_are_no_recipe_are_refused(asked: dict[str, object], field: str, words: str) -> None:
    """What cannot be read names the field and what is allowed."""
    with pytest.raises(InvalidArgument) as caught:
        recipe(asked)
    ((named, problem),) = caught.value.violations
    assert named == field
    assert words in problem


def test_words_come_back_as_they_went_in() -> None:
    """A recipe made from names and values gives them back, choices as words."""
    fields = {"preset": "baseline", "weights": "RANDOM", "seed": 0, "learning_rate": 0.5, "freeze": "NONE"}
    assert as_dict(recipe(fields)) == fields


def test_views_are_bounded_by_memory() -> None:
    """More pictures take fewer views, and the refusal says how many; without views there is no such limit."""
    recipe = recipes.resolve(Recipe(preset="fast", views=16), DEFAULT_ARCHITECTURE)
    recipes.check_views(recipe, 12_000)
    with pytest.raises(InvalidArgument) as caught:
        recipes.check_views(recipe, 20_000)
    ((field, problem),) = caught.value.violations
    assert field == "recipe.views"
    assert problem.startswith("must be at most 9 with 20000 training pictures")
    recipe.views = 9
    recipes.check_views(recipe, 20_000)
    recipe.views = 0
    recipes.check_views(recipe, 1_000_000)


def test_of_pictures_a_network_is_chosen_by_quality() -> None:
    """`fast` chooses among networks of sounds only; who asks it to for pictures is told what does."""
    with pytest.raises(InvalidArgument) as caught:
        recipes.fit(Recipe(preset="fast", architecture="auto"), DEFAULT_ARCHITECTURE, MODALITY_IMAGE)
    assert caught.value.violations == (
        ("recipe.architecture", "auto is of sounds; preset quality chooses for pictures"),
    )


def test_only_pictures_have_views() -> None:
    """Of sounds augmented views are refused by field; of pictures there may be up to sixteen."""
    asked = Recipe(preset="fast", views=4)
    assert recipes.fit(asked, DEFAULT_ARCHITECTURE, MODALITY_IMAGE).views == 4
    with pytest.raises(InvalidArgument) as caught:
        recipes.fit(asked, DEFAULT_ARCHITECTURE, MODALITY_SOUND)
    assert caught.value.violations == (("recipe.views", "must be 0: only pictures have augmented views"),)
    assert recipes.fit(Recipe(preset="fast"), DEFAULT_ARCHITECTURE, MODALITY_SOUND).views == 0


def test_sounds_have_no_size() -> None:
    """What is there for pictures alone is refused by field."""
    with pytest.raises(InvalidArgument) as caught:
        recipes.fit(Recipe(input_size=160), DEFAULT_ARCHITECTURE, MODALITY_SOUND)
    assert caught.value.violations == (("recipe.input_size", "must be 0: only pictures have a size"),)
