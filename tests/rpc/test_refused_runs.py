"""What can be asked of a run, and how the trainer refuses what cannot: by field, with what is allowed."""

import math
import re
import socket
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from handful.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from handful.recipe import recipe
from handful.v1 import dataset_pb2, trainer_pb2
from handful.v1.bundle_pb2 import (
    BACKBONE_PRECISION_INT8,
    FREEZE_FIRST_BLOCKS,
    MODALITY_IMAGE,
    MODALITY_SOUND,
    WEIGHTS_PRETRAINED,
    WEIGHTS_RANDOM,
    Recipe,
)
from handful.v1.trainer_pb2 import Architecture
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES
from services.trainer.presets import PRESETS
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from tests.playing_worker import PROJECT, asking, create, refusal, run_names, seal
from tests.servers import DatasetService, TrainerService, running_trainer

UNKNOWN_RUN = f"{PROJECT}/trainingRuns/{uuid.UUID(int=0)}"
SHA256 = re.compile(r"[0-9a-f]{64}")


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture(scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TrainerService]:
    """A trainer without a dataset service: there is nobody at the address it has."""
    folder = tmp_path_factory.mktemp("alone")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{bound.getsockname()[1]}"
        async with running_trainer(str(folder / "trainer.sqlite"), FilesystemStore(folder), nobody) as service:
            yield service


# A field of the wire that this server does not know: number 1000, a varint.
FROM_THE_FUTURE = Recipe.FromString(b"\xc0\x3e\x01")
WRONG_RECIPES = {
    "no epochs": (Recipe(num_epochs=-1), "recipe.num_epochs", "between 1 and 10000"),
    "zero epochs": (Recipe(num_epochs=0), "recipe.num_epochs", "between 1 and 10000"),
    "lr is no number": (Recipe(learning_rate=math.nan), "recipe.learning_rate", "between 1e-08 and 1"),
    "lr is infinite": (Recipe(learning_rate=math.inf), "recipe.learning_rate", "between 1e-08 and 1"),
    "lr is minus infinite": (Recipe(learning_rate=-math.inf), "recipe.learning_rate", "between 1e-08 and 1"),
    "batch of none": (Recipe(batch_size=0), "recipe.batch_size", "between 1 and 512"),
    "architecture": (Recipe(architecture="resnet5"), "recipe.architecture", "did you mean resnet50?"),
    "no architecture at all": (
        Recipe(architecture="qwerty" * 99),
        "recipe.architecture",
        "must be one of alexnet,",
    ),
    "another case": (Recipe(architecture="ResNet-18"), "recipe.architecture", "did you mean resnet18?"),
    "nearly a preset": (Recipe(preset="fien_tune"), "recipe.preset", "did you mean fine_tune?"),
    "preset": (Recipe(preset="magic"), "recipe.preset", "must be one of fast, "),
    "not the preset's": (
        Recipe(preset="fast", learning_rate=1),
        "recipe.learning_rate",
        "there is one in fine_tune, baseline",
    ),
    "not the baseline's": (Recipe(preset="baseline", regularization_c=1), "recipe.regularization_c", "in fast"),
    "blocks that are not there": (
        Recipe(preset="fine_tune", freeze=FREEZE_FIRST_BLOCKS, frozen_blocks=18),
        "recipe.frozen_blocks",
        "between 1 and 17",
    ),
    "pictures beyond all networks": (Recipe(input_size=1024), "recipe.input_size", "between 0 and 640, not 1024"),
    "pictures of less than nothing": (Recipe(input_size=-32), "recipe.input_size", "between 0 and 640, not -32"),
    "pictures too small": (
        Recipe(input_size=32),
        "recipe.input_size",
        "multiple of 32 between 64 and 640 with efficientnet_lite0, or 0 for its own, 224; not 32",
    ),
    "pictures too small for this one": (
        Recipe(input_size=96, architecture="inception_v3", weights=WEIGHTS_RANDOM),
        "recipe.input_size",
        "between 128 and 640 with inception_v3, or 0 for its own, 299; not 96",
    ),
    "repeats of a challenger": (
        Recipe(preset="quality", num_repeats=2, challenger_epochs=1),
        "recipe.num_repeats",
        "must be 0 or 1 with challenger_epochs",
    ),
    "a size that does not halve": (Recipe(preset="baseline", input_size=200), "recipe.input_size", "multiple of 32"),
    "a transformer's size": (
        Recipe(preset="fine_tune", architecture="vit_b_16", input_size=256),
        "recipe.input_size",
        "must be 0 or 224, not 256: vit_b_16 knows places in pictures of that size alone; ListArchitectures says",
    ),
    "another size in integers": (
        Recipe(backbone_precision=BACKBONE_PRECISION_INT8, input_size=160),
        "recipe.input_size",
        "must be 0 or 224, not 160: backbone_precision INT8 is there at that size alone; take FLOAT32",
    ),
    "another size side by side": (
        Recipe(architecture="efficientnet_lite0_and_lite2", input_size=160),
        "recipe.input_size",
        "side by side; take one of efficientnet_lite0, efficientnet_lite2",
    ),
    "another size of whatever is best": (
        Recipe(preset="quality", input_size=160),
        "recipe.input_size",
        "there is one in fast, fine_tune, baseline",
    ),
    "unknown field number": (FROM_THE_FUTURE, "recipe", "1000"),
}


@pytest.mark.parametrize(("wrong", "field", "allowed"), WRONG_RECIPES.values(), ids=WRONG_RECIPES)
async def test_wrong_hyperparameters_are_refused(
    alone: TrainerService, wrong: Recipe, field: str, allowed: str
) -> None:
    """A recipe that cannot be used is INVALID_ARGUMENT, naming the field and what is allowed, and queues nothing."""
    error = await refusal(create(alone, f"{PROJECT}/datasets/flowers", recipe=wrong))
    assert isinstance(error, InvalidArgument)
    ((named, problem),) = error.violations
    assert named == field
    assert allowed in problem
    assert "…" not in problem
    assert field in error.message
    assert await run_names(alone) == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"parent": "projects"}, "parent"),
        ({"dataset": "flowers"}, "dataset"),
        ({"dataset": f"{PROJECT}/datasets/flowers/versions/0"}, "dataset"),
        ({"dataset": ""}, "dataset"),
        ({"model_id": "Roses!"}, "model_id"),
    ],
    ids=str,
)
async def test_names_that_are_none_are_refused(alone: TrainerService, asked: dict[str, object], field: str) -> None:
    """A name of another form than the contract's is INVALID_ARGUMENT, naming the field."""
    request = {"dataset": f"{PROJECT}/datasets/flowers", **asked}
    error = await refusal(create(alone, **request))  # type: ignore[arg-type]
    assert isinstance(error, InvalidArgument)
    assert [named for named, _ in error.violations] == [field]


async def test_data_that_is_not_there_is_refused(
    trainer_service: TrainerService, dataset_service: DatasetService, version: str
) -> None:
    """A missing dataset or version is NOT_FOUND, also another project's; a dataset without a version cannot be used."""
    missing = [f"{PROJECT}/datasets/trees", f"{PROJECT}/datasets/trees/versions/1", version[:-1] + "2"]
    foreign = version.replace(PROJECT, "projects/elsewhere")
    for name in [*missing, foreign]:
        error = await refusal(create(trainer_service, name))
        assert isinstance(error, NotFound), name
        _, project, _, dataset, *_ = name.split("/")
        assert {project, dataset} <= set(re.split(r"[^a-z]+", error.message)), error.message
    empty = dataset_pb2.CreateDatasetRequest(parent=PROJECT, dataset_id="empty")
    await dataset_service.stub.CreateDataset(empty)
    error = await refusal(create(trainer_service, f"{PROJECT}/datasets/empty"))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "NO_DATASET_VERSION"
    assert await run_names(trainer_service) == []


async def test_without_the_dataset_service_creates_are_unavailable(alone: TrainerService) -> None:
    """A dataset service that is away is UNAVAILABLE, in words of ours, without its address."""
    error = await refusal(create(alone, f"{PROJECT}/datasets/flowers"))
    assert isinstance(error, Unavailable)
    assert error.reason == "DEPENDENCY_DOWN"
    assert error.message == "The dataset service cannot be reached. Try again."
    assert await run_names(alone) == []


@pytest.mark.parametrize("method", ["GetTrainingRun", "CancelTrainingRun"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (UNKNOWN_RUN, NotFound),
        (UNKNOWN_RUN.replace(PROJECT, "projects/elsewhere"), NotFound),
        ("", InvalidArgument),
        (f"{PROJECT}/runs/1", InvalidArgument),
        (f"{UNKNOWN_RUN}\x00", InvalidArgument),
        (f"{UNKNOWN_RUN}/../1", InvalidArgument),
    ],
)
async def test_runs_that_are_not_there(alone: TrainerService, method: str, name: str, kind: type) -> None:
    """An unknown run is NOT_FOUND by its name; what is no run's name is INVALID_ARGUMENT."""
    request = getattr(trainer_pb2, f"{method}Request")(name=name)
    error = await refusal(getattr(alone.trainer, method)(request))
    assert isinstance(error, kind)
    assert (name if kind is NotFound else "projects/{project}/trainingRuns/{run}") in error.message


async def test_what_no_worker_can_do_is_refused_at_once(trainer_service: TrainerService, version: str) -> None:
    """Weights that none of the workers has are refused; where there is no worker at all, the run waits for one."""
    random = Recipe(weights=WEIGHTS_RANDOM)
    await create(trainer_service, version)
    await create(trainer_service, version, recipe=random)
    poor = await trainer_service.workers.ClaimTrainingRun(asking("poor", pretrained=()))
    assert poor.claim.recipe.weights == WEIGHTS_RANDOM
    error = await refusal(create(trainer_service, version))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "WEIGHTS_UNAVAILABLE"
    assert "efficientnet_lite0" in error.message
    await create(trainer_service, version, recipe=random)
    rich = await trainer_service.workers.ClaimTrainingRun(asking("rich"))
    assert rich.claim.recipe.weights == WEIGHTS_PRETRAINED
    await create(trainer_service, version)


async def test_the_architectures_are_listed_in_full(trainer_service: TrainerService, version: str) -> None:
    """Every architecture says what it is and where its weights come from, and can be asked for; one is the default."""
    listed = await trainer_service.trainer.ListArchitectures(trainer_pb2.ListArchitecturesRequest())
    for one in (each for each in listed.architectures if each.modality == MODALITY_IMAGE and not each.members):
        assert not one.HasField("sound_preprocessing")
        filled = {descriptor.name for descriptor, _ in one.ListFields()}
        filled |= {"is_default", "weights_license_note", "weights_state", "lacks_extra", "sound_preprocessing"}
        offered = one.weights_state != Architecture.WEIGHTS_STATE_NOT_OFFERED
        if not offered:
            filled |= {"weights_source", "weights_license", "weights_sha256", "weights_max_bytes"}
        assert bool(one.extra) == bool(one.code_license)
        filled |= {"extra", "code_license", "members"}
        assert filled == set(one.DESCRIPTOR.fields_by_name)
        assert bool(SHA256.fullmatch(one.weights_sha256)) == bool(one.weights_source) == offered
        assert one.training_memory_bytes > 16 * one.num_parameters
        assert (
            await create(trainer_service, version, recipe=Recipe(architecture=one.id, weights=WEIGHTS_RANDOM))
        ).recipe.architecture == one.id
    joined = {one.id: one.members for one in listed.architectures if one.members}
    assert joined == {row.id: [member.id for member in row.members] for row in ARCHITECTURES.values() if row.members}
    of_sounds = [one for one in listed.architectures if one.modality == MODALITY_SOUND]
    assert [one.id for one in of_sounds] == list(SOUND_ARCHITECTURES)
    assert all(one.description and one.feature_width and one.sound_preprocessing.spectrograms for one in of_sounds)
    default = (await create(trainer_service, version)).recipe.architecture
    assert [one.id for one in listed.architectures if one.is_default] == [default]


async def test_the_recipes_are_listed_in_full(trainer_service: TrainerService, version: str) -> None:
    """Every field of every preset is one of Recipe, with what a form needs; every field of Recipe is in some preset."""
    listed = await trainer_service.trainer.ListRecipes(trainer_pb2.ListRecipesRequest())
    assert [preset.name for preset in listed.presets] == list(PRESETS)
    assert [preset.name for preset in listed.presets if preset.is_default] == ["fast"]
    known = set(Recipe.DESCRIPTOR.fields_by_name) - {"preset"}
    assert {field.name for preset in listed.presets for field in preset.fields} == known
    for preset in listed.presets:
        assert preset.description
        assert len({field.name for field in preset.fields}) == len(preset.fields)
        for field in preset.fields:
            assert field.description
            assert field.default_value
            if field.type == trainer_pb2.RecipeField.TYPE_CHOICE:
                assert field.default_value in field.choices
            else:
                assert field.minimum <= float(field.default_value) <= field.maximum
        defaults = recipe({"preset": preset.name, **{field.name: field.default_value for field in preset.fields}})
        alone = await create(trainer_service, version, recipe=Recipe(preset=preset.name))
        assert (await create(trainer_service, version, recipe=defaults)).recipe == alone.recipe
