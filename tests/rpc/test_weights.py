"""Which weights workers have and may download: what is refused, what the catalogue says, and what AUTO becomes."""

from collections.abc import Callable

import pytest

from handful.errors import InvalidArgument
from handful.v1 import trainer_pb2
from handful.v1.bundle_pb2 import FREEZE_NONE, WEIGHTS_AUTO, WEIGHTS_RANDOM, Notice, Recipe
from handful.v1.trainer_pb2 import Architecture, RecipeSettled, TrainingRunEvent
from handful.v1.worker_pb2 import ClaimTrainingRunRequest
from services.trainer.architectures import ARCHITECTURES
from services.trainer.recipes import resolve
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from tests.playing_worker import asking, claim, create, lose, refusal, seal
from tests.servers import DatasetService, TrainerService

WeightsState = Architecture.WeightsState


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


async def weights_states(service: TrainerService) -> dict[str, "WeightsState.ValueType"]:
    listed = await service.trainer.ListArchitectures(trainer_pb2.ListArchitecturesRequest())
    return {one.id: one.weights_state for one in listed.architectures}


async def test_what_a_worker_may_download_is_not_refused(trainer_service: TrainerService, version: str) -> None:
    """A run is queued, and given to a worker, where no worker has its weights and one may download them."""

    def able() -> ClaimTrainingRunRequest:
        return asking("able", pretrained=(), fetchable=["efficientnet_b0"])

    await create(trainer_service, version, recipe=Recipe(weights=WEIGHTS_RANDOM))
    await trainer_service.workers.ClaimTrainingRun(able())
    wanted = await create(trainer_service, version, recipe=Recipe(architecture="efficientnet_b0"))
    error = await refusal(create(trainer_service, version, recipe=Recipe(architecture="efficientnet_b7")))
    assert error.reason == "WEIGHTS_UNAVAILABLE"
    answer = await trainer_service.workers.ClaimTrainingRun(able())
    assert answer.claim.training_run == wanted.name


async def test_auto_is_refused_by_nobody(trainer_service: TrainerService, version: str) -> None:
    """A run that leaves its weights open goes to a worker that has none."""
    await create(trainer_service, version, recipe=Recipe(weights=WEIGHTS_AUTO))
    poor = await trainer_service.workers.ClaimTrainingRun(asking("poor", pretrained=()))
    assert poor.claim.recipe.weights == WEIGHTS_AUTO


async def test_the_catalogue_says_which_weights_can_be_had(trainer_service: TrainerService, version: str) -> None:
    """Without workers nothing is known; else weights are there, can be downloaded, or neither: the best of all."""
    unknown, never = WeightsState.WEIGHTS_STATE_UNSPECIFIED, WeightsState.WEIGHTS_STATE_NOT_OFFERED
    states = await weights_states(trainer_service)
    assert states == {
        **{row.id: unknown if row.pinned else never for row in ARCHITECTURES.values()},
        **dict.fromkeys(SOUND_ARCHITECTURES, unknown),
        "log_mel_statistics": WeightsState.WEIGHTS_STATE_NOT_NEEDED,
    }
    for _ in range(2):
        await create(trainer_service, version, recipe=Recipe(weights=WEIGHTS_RANDOM))
    both = ["efficientnet_lite0", "efficientnet_b0", "vgg16"]
    await trainer_service.workers.ClaimTrainingRun(asking("one", pretrained=["efficientnet_lite0"]))
    await trainer_service.workers.ClaimTrainingRun(asking("two", pretrained=(), fetchable=both))
    states = await weights_states(trainer_service)
    assert states["efficientnet_lite0"] == WeightsState.WEIGHTS_STATE_PRESENT
    assert states["efficientnet_b0"] == WeightsState.WEIGHTS_STATE_FETCHABLE
    assert states["efficientnet_b7"] == WeightsState.WEIGHTS_STATE_ABSENT
    assert states["vgg16"] == never  # whatever a worker of another version says


async def test_yolo_is_for_workers_that_have_it(trainer_service: TrainerService, version: str) -> None:
    """A YOLO is refused where workers were heard of and none has Ultralytics, which the catalogue says; it is left to a
    worker that has it.
    """
    yolo = Recipe(architecture="yolo11n_cls", weights=WEIGHTS_RANDOM)
    waiting = await create(trainer_service, version, recipe=yolo)
    other = await create(trainer_service, version, recipe=Recipe(weights=WEIGHTS_RANDOM))
    answer = await trainer_service.workers.ClaimTrainingRun(asking("plain"))
    assert answer.claim.training_run == other.name
    for recipe in (yolo, Recipe(architecture="yolo11n_cls", preset="baseline")):
        error = await refusal(create(trainer_service, version, recipe=recipe))
        assert (error.reason, "AGPL-3.0" in error.message) == ("NO_YOLO", True)
    listed = (await trainer_service.trainer.ListArchitectures(trainer_pb2.ListArchitecturesRequest())).architectures
    assert {one.id for one in listed if one.lacks_extra} == {one.id for one in listed if one.extra == "yolo"}
    assert {one.code_license for one in listed if one.extra} == {"AGPL-3.0-only"}
    able = asking("able")
    able.capabilities.has_yolo = True
    assert (await trainer_service.workers.ClaimTrainingRun(able)).claim.training_run == waiting.name
    listed = (await trainer_service.trainer.ListArchitectures(trainer_pb2.ListArchitecturesRequest())).architectures
    assert not any(one.lacks_extra for one in listed)


async def test_weights_that_are_not_offered_are_refused_at_once(trainer_service: TrainerService, version: str) -> None:
    """PRETRAINED, the default, is refused by the field's name, with what to do, before any worker is asked."""
    error = await refusal(create(trainer_service, version, recipe=Recipe(architecture="vgg16")))
    assert isinstance(error, InvalidArgument)
    ((field, what),) = error.violations
    assert field == "recipe.weights"
    assert "weights=RANDOM" in what
    for weights in (WEIGHTS_AUTO, WEIGHTS_RANDOM):
        run = await create(trainer_service, version, recipe=Recipe(architecture="vgg16", weights=weights))
        assert run.recipe.weights == weights


async def test_a_settled_recipe_is_the_runs_from_then_on(trainer_service: TrainerService, version: str) -> None:
    """What a worker settles stands in the run, and a later attempt gets it, with what the first one noted."""
    run = await create(trainer_service, version, recipe=Recipe(weights=WEIGHTS_AUTO, seed=3))
    assert (run.recipe.preset, run.recipe.weights) == ("fast", WEIGHTS_AUTO)
    asked = Recipe(preset="baseline", weights=WEIGHTS_RANDOM, freeze=FREEZE_NONE, seed=3)
    settled = resolve(asked, run.recipe.architecture)
    notice = Notice(reason="WEIGHTS_FALLBACK", message="There are none.")
    first = await claim(trainer_service)
    await first.report(TrainingRunEvent(notice=notice))
    await first.report(TrainingRunEvent(recipe_settled=RecipeSettled(recipe=settled)))
    found = await trainer_service.trainer.GetTrainingRun(trainer_pb2.GetTrainingRunRequest(name=run.name))
    assert found.training_run.recipe == settled
    await lose(trainer_service, first)
    second = await claim(trainer_service, "another")
    assert second.claim.recipe == settled
    assert list(second.claim.notices) == [notice]
