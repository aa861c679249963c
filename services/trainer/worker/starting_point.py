"""What a run starts from: its pretrained weights are here before anything else is done, or it is settled that it goes
without them.
"""

from functools import partial

import structlog

from handful.v1.bundle_pb2 import (
    FREEZE_BODY,
    FREEZE_NONE,
    INITIAL_HEAD_RANDOM,
    MODALITY_SOUND,
    WEIGHTS_AUTO,
    WEIGHTS_PRETRAINED,
    WEIGHTS_RANDOM,
    ImagePreprocessing,
    Recipe,
)
from services.trainer import input_sizes
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS
from services.trainer.presets import BASELINE, FINE_TUNE, OF_FEATURES
from services.trainer.recipes import resolve
from services.trainer.sound_architectures import AUTO, modality
from services.trainer.worker import backbones
from services.trainer.worker.pretrained import WeightsUnavailable
from services.trainer.worker.work import Work

log = structlog.get_logger()


def settle(work: Work) -> None:
    """Fetches the weights that the recipe wants. WeightsUnavailable, or, where the recipe leaves it open, a recipe that
    trains the whole network from random numbers, with a notice: a head on a random body would be worth nothing.
    """
    architecture = work.recipe.architecture
    if work.recipe.weights == WEIGHTS_RANDOM or architecture == AUTO or modality(architecture) == MODALITY_SOUND:
        return  # there is nothing to fetch, or it is here, or comes in packages, and is missed when the graph is built
    try:
        _fetch(work)
    except WeightsUnavailable as problem:
        if work.recipe.weights != WEIGHTS_AUTO:
            raise
        work.notice(
            "WEIGHTS_FALLBACK",
            f"{problem} This run trains the whole network from random numbers instead, which needs far more examples.",
        )
        log.warning("trained without pretrained weights", architecture=work.recipe.architecture, problem=str(problem))
        work.settle(_from_nothing(work.recipe))
    else:
        if work.recipe.weights == WEIGHTS_AUTO:
            settled = Recipe()
            settled.CopyFrom(work.recipe)
            settled.weights = WEIGHTS_PRETRAINED
            work.settle(settled)


def _fetch(work: Work) -> None:
    row = input_sizes.row(work.recipe)
    if work.recipe.preset not in OF_FEATURES or not backbones.is_stored(work.store, row):
        work.wait("weights", partial(backbones.fetch, work.weights, row, work.children))


def _from_nothing(recipe: Recipe) -> Recipe:
    """The recipe as gradient training of everything; of one that fits a head alone, what it shares with that."""
    asked = Recipe(preset=BASELINE, architecture=recipe.architecture, seed=recipe.seed)
    if recipe.preset in OF_FEATURES and ARCHITECTURES[recipe.architecture].network.library != ULTRALYTICS:
        # The default of features is not written down, and another than this preset's.
        asked.fit = recipe.fit or ImagePreprocessing.FIT_CENTER_CROP
    asked.input_size = recipe.input_size
    if recipe.preset == BASELINE:
        asked.CopyFrom(recipe)
        asked.ClearField("frozen_mode")  # nothing is frozen
    if recipe.preset == FINE_TUNE:
        asked.CopyFrom(recipe)
        asked.initial_head = INITIAL_HEAD_RANDOM
        asked.frozen_blocks = 0
        if recipe.freeze == FREEZE_BODY:  # then these say nothing
            asked.ClearField("learning_rate")
            asked.ClearField("layer_decay")
    asked.weights, asked.freeze = WEIGHTS_RANDOM, FREEZE_NONE
    return resolve(asked, recipe.architecture)
