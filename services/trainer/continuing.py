"""Runs that go on from the last checkpoint of others: what a checkpoint fixes and what may be other, field by field. It
knows no gRPC.
"""

import asyncio

from handful import names
from handful.errors import FailedPrecondition, InvalidArgument
from handful.history import History
from handful.recipe import as_dict
from handful.v1.bundle_pb2 import FREEZE_BODY, FROZEN_MODE_TRAIN, MODALITY_SOUND, Recipe
from handful.v1.dataset_pb2 import DatasetVersion
from handful.v1.trainer_pb2 import ContinueTrainingRunRequest
from handful.v1.worker_pb2 import Checkpoint
from services.shared.database import Database
from services.shared.identifiers import new_id
from services.shared.interceptors import request_id
from services.shared.objects import ObjectStore
from services.trainer import events, recipes, runs
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS
from services.trainer.datasets import Datasets, some
from services.trainer.presets import OF_FEATURES, PRESETS
from services.trainer.records import TERMINAL, Continued, NewRun, RunKey, RunRecord

Problems = list[tuple[str, str]]

# What the weights of a checkpoint are of, or came from.
_FIXED = ("preset", "architecture", "weights", "seed", "initial_head")


class Continuing:
    """Makes new runs of what is kept of others."""

    def __init__(self, database: Database, store: ObjectStore, datasets: Datasets) -> None:
        self._database = database
        self._store = store
        self._datasets = datasets

    async def new_run(self, request: ContinueTrainingRunRequest) -> NewRun:
        """The run that a request asks for; InvalidArgument naming every field that is not right, or FailedPrecondition
        ILLEGAL_STATE or CHECKPOINT_MISSING.
        """
        key = RunKey(**names.match(names.TRAINING_RUN, request.name, "name"))
        model = names.check_id(request.model_id, "model_id") if request.model_id else ""
        async with self._database.read() as connection:
            run = await runs.get(connection, key)
            told = await events.after(connection, key, 0)
        checkpoint = _checkpoint(run)
        recipe = _recipe(request, run.recipe, checkpoint)
        data = await self._data(run, request.dataset)
        await self._look(run, checkpoint)
        learnt_from = (*(run.continued.earlier_manifests if run.continued else ()), run.dataset_manifest_sha256)
        earlier = tuple(one for one in dict.fromkeys(learnt_from) if one != data.manifest_sha256)
        return NewRun(
            key=RunKey(key.project, new_id()),
            model=model or run.model,
            dataset_version=data.name,
            dataset_manifest_sha256=data.manifest_sha256,
            recipe=recipe,
            promote=request.promote,
            request_id=request_id(),
            continued=Continued(key.run, checkpoint.epoch, earlier),
            checkpoint=checkpoint,
            history=tuple(one for one in History(told).events if one.epoch <= checkpoint.epoch),
        )

    async def _data(self, run: RunRecord, dataset: str) -> DatasetVersion:
        """The dataset version to train on, whose classes must be those of the run."""
        known = await self._datasets.version(run.key.project, run.dataset_version)
        if not dataset:
            return known
        data = await self._datasets.version(run.key.project, dataset)
        if data.modality != known.modality:
            held = "sounds" if known.modality == MODALITY_SOUND else "pictures"
            raise InvalidArgument.fields([("dataset", f"must hold {held}, as the run's does")])
        needed, there = ([one.label for one in version.classes] for version in (known, data))
        if needed != there:
            problem = f"must have the classes of the run, which are {some(needed)}; it has {some(there)}"
            raise InvalidArgument.fields([("dataset", problem)])
        return data

    async def _look(self, run: RunRecord, checkpoint: Checkpoint) -> None:
        """FailedPrecondition where the checkpoint is not in the store: releases before this one kept none."""
        if checkpoint.key not in await asyncio.to_thread(lambda: list(self._store.keys(checkpoint.key))):
            raise FailedPrecondition(
                f"The checkpoint of {run.key.name} is not in the store any more. Train anew, with CreateTrainingRun.",
                reason="CHECKPOINT_MISSING",
            )


def _checkpoint(run: RunRecord) -> Checkpoint:
    """The last one of a run that is over; InvalidArgument where it never has one, FailedPrecondition before its end."""
    problem = ""
    if run.evaluated_version:
        problem = "measures a model and trains none; name a training run"
    elif run.recipe.preset in OF_FEATURES:
        kind = run.recipe.preset
        problem = f"was trained with preset {kind}, which has no checkpoints and takes seconds: train again instead"
    elif ARCHITECTURES[run.recipe.architecture].network.library == ULTRALYTICS:
        problem = "was trained by Ultralytics, whose trainer keeps no checkpoints here: train again instead"
    elif run.state not in TERMINAL:
        raise FailedPrecondition(f"{run.key.name} is not over. Wait for its end, or cancel it.", reason="ILLEGAL_STATE")
    elif run.checkpoint is None:
        problem = "has no checkpoint: the run ended before one of its epochs was kept"
    else:
        return run.checkpoint
    raise InvalidArgument.fields([("name", problem)])


def _recipe(request: ContinueTrainingRunRequest, base: Recipe, checkpoint: Checkpoint) -> Recipe:
    epoch, field = checkpoint.epoch, PRESETS[base.preset].field("num_epochs")
    most = int(field.maximum) if field else epoch
    problems: Problems = []
    if not 1 <= request.num_additional_epochs <= most - epoch:
        allowed = f"must be between 1 and {most - epoch}, not {request.num_additional_epochs}"
        problems.append(("num_additional_epochs", f"{allowed}: the run has {epoch} epochs already"))
    if request.checkpoint_sha256 not in ("", checkpoint.sha256):
        last = f"its last is that of epoch {epoch}, {checkpoint.sha256}"
        problems.append(("checkpoint_sha256", f"is no checkpoint of this run that can be gone on from; {last}"))
    num_epochs = most if problems else epoch + request.num_additional_epochs
    try:
        recipe = continued(base, request.recipe, num_epochs)
    except InvalidArgument as bad:
        raise InvalidArgument.fields([*problems, *bad.violations]) from None
    if problems:
        raise InvalidArgument.fields(problems)
    return recipe


def continued(base: Recipe, asked: Recipe, num_epochs: int) -> Recipe:
    """A run's recipe with what is asked to be other; InvalidArgument naming every field that cannot be."""
    preset, given = PRESETS[base.preset], {descriptor.name for descriptor, _ in asked.ListFields()}
    changed = {name for name in given if getattr(asked, name) != getattr(base, name)}
    shown = as_dict(base)
    problems: Problems = [
        (f"recipe.{name}", f"is fixed by the checkpoint: it is {shown[name]}")
        for name in _FIXED
        if name in changed and name in shown
    ]
    if "num_epochs" in given:
        problems.append(("recipe.num_epochs", "follows from num_additional_epochs; leave it out"))
    wanted = Recipe()
    wanted.CopyFrom(base)
    wanted.MergeFrom(asked)
    for field in preset.fields:
        # What hangs on a field that is other now has its default again. What says nothing, earlier releases took.
        hangs = field.needs is not None and field.needs.field in changed and field.name not in given
        if hangs or (field.name not in changed and not recipes.matters(wanted, field)):
            wanted.ClearField(field.name)  # type: ignore[arg-type]
    for name in (name for name in _FIXED if name in shown):
        setattr(wanted, name, getattr(base, name))
    wanted.num_epochs = num_epochs
    if "warmup_epochs" not in given and wanted.warmup_epochs >= num_epochs:
        wanted.warmup_epochs = num_epochs - 1
    try:
        recipe = recipes.resolve(wanted, base.architecture)
    except InvalidArgument as bad:
        raise InvalidArgument.fields([*problems, *bad.violations]) from None
    if _changes_body(base) and not _changes_body(recipe):
        field_name = "recipe.freeze" if base.freeze != FREEZE_BODY else "recipe.frozen_mode"
        problems.append((field_name, "must leave the body to training: it is another than the pretrained one already"))
    if problems:
        raise InvalidArgument.fields(problems)
    return recipe


def _changes_body(recipe: Recipe) -> bool:
    return recipe.freeze != FREEZE_BODY or recipe.frozen_mode == FROZEN_MODE_TRAIN
