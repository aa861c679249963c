"""Evaluations of model versions: asked for as runs that train nothing, and read from the store. It knows no gRPC."""

import asyncio

from handful.bundle import manifest
from handful.errors import FailedPrecondition, InvalidArgument
from handful.v1 import bundle_pb2
from handful.v1.dataset_pb2 import DatasetVersion
from services.shared.database import Database
from services.shared.identifiers import new_id
from services.shared.interceptors import request_id
from services.shared.objects import ObjectStore
from services.trainer import runs
from services.trainer.datasets import Datasets, some
from services.trainer.records import ModelVersionRecord, NewRun, RunKey
from services.trainer.sound_architectures import modality

Files = dict[str, bytes]


class Evaluations:
    """How versions did, on their own validation examples or on other data."""

    def __init__(self, database: Database, store: ObjectStore, datasets: Datasets) -> None:
        self._database = database
        self._store = store
        self._datasets = datasets

    async def new_run(self, version: ModelVersionRecord, dataset: str) -> NewRun:
        """A run that measures a version on a dataset's; FailedPrecondition where they have no class in common."""
        project = version.key.project
        data = await self._datasets.version(project, dataset)
        if modality(version.recipe.architecture) != data.modality:
            held = "sounds" if data.modality == bundle_pb2.MODALITY_SOUND else "pictures"
            raise InvalidArgument.fields([("dataset", f"holds {held}, which the model does not understand")])
        _check_classes(version, data)
        return NewRun(
            key=RunKey(project, new_id()),
            model=version.key.model,
            dataset_version=data.name,
            dataset_manifest_sha256=data.manifest_sha256,
            # Only what is needed to read it: there is nothing to train, and no weights are asked for.
            recipe=bundle_pb2.Recipe(architecture=version.recipe.architecture),
            promote=False,
            request_id=request_id(),
            evaluated=version,
        )

    async def own(self, version: ModelVersionRecord) -> tuple[bundle_pb2.Evaluation, Files]:
        """A version on the validation examples of its run, and the plots by name."""
        return await asyncio.to_thread(self._own, version)

    async def on(self, version: ModelVersionRecord, dataset_version: str) -> tuple[bundle_pb2.Evaluation, Files]:
        """A version on other data, and the plots by name. NotFound where it was not evaluated there."""
        async with self._database.read() as connection:
            sha256 = await runs.evaluation(connection, version, dataset_version)
        return await asyncio.to_thread(self._read, version.key.project, sha256)

    def _own(self, version: ModelVersionRecord) -> tuple[bundle_pb2.Evaluation, Files]:
        project, digest = version.key.project, version.manifest_sha256
        data = self._store.get(manifest.bundle_key(project, digest, "manifest.json"), digest)
        model = manifest.from_bytes(bundle_pb2.ModelManifest, data)
        files = {
            file.path: self._store.get(manifest.bundle_key(project, digest, file.path), file.sha256)
            for file in model.files
            if file.path == "evaluation.json" or file.path.startswith("plots/")
        }
        return manifest.from_bytes(bundle_pb2.Evaluation, files.pop("evaluation.json")), _named(files)

    def _read(self, project: str, sha256: str) -> tuple[bundle_pb2.Evaluation, Files]:
        data = self._store.get(manifest.evaluation_key(project, sha256, "evaluation.json"), sha256)
        evaluation = manifest.from_bytes(bundle_pb2.Evaluation, data)
        files = {
            plot.path: self._store.get(manifest.evaluation_key(project, sha256, plot.path), plot.sha256)
            for plot in evaluation.plots
        }
        return evaluation, _named(files)


def _check_classes(version: ModelVersionRecord, data: DatasetVersion) -> None:
    there = [one.label for one in data.classes]
    if not set(there) & set(version.labels):
        raise FailedPrecondition(
            f"{data.name} has no class that {version.name} knows. It knows: {some(version.labels)}. "
            f"There are: {some(there)}.",
            reason="NO_COMMON_CLASS",
        )


def _named(files: Files) -> Files:
    return {path.removeprefix("plots/").removesuffix(".png"): data for path, data in files.items()}
