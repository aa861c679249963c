"""The client: datasets, runs, models and predictions of one project, in plain blocking calls.

Every method raises the errors of `handful.errors`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from handful import names, predictions
from handful.calls import call, new_request_id, pages
from handful.channel import Addresses, project_from_env
from handful.errors import AlreadyExists
from handful.exchange import Exported, OnBytes, fetch, ignored, send
from handful.folders import LabelledFile, find, modality_of
from handful.peers import reach
from handful.predictions import Answer, File
from handful.recipe import recipe
from handful.run import Run
from handful.thumbnails import thumbnails
from handful.uploads import Pushed, check_modality, upload
from handful.v1 import bundle_pb2, dataset_pb2, model_pb2, trainer_pb2
from handful.v1.dataset_pb2 import UploadExamplesResponse
from handful.v1.dataset_pb2_grpc import DatasetServiceStub
from handful.v1.inference_pb2 import ExplainResponse, PredictResponse
from handful.v1.inference_pb2_grpc import InferenceServiceStub
from handful.v1.model_pb2_grpc import ModelServiceStub
from handful.v1.trainer_pb2_grpc import TrainerServiceStub


class Client:
    """A caller of the three services. Close it, or use it as a context."""

    def __init__(self, addresses: Addresses | None = None, project: str = "default") -> None:
        addresses = addresses or Addresses()
        names.check_id(project, "project")
        self.parent = f"projects/{project}"
        self._channels = [reach(service, address) for service, address in vars(addresses).items()]
        dataset, trainer, inference = self._channels
        self._datasets = DatasetServiceStub(dataset)
        self._trainer = TrainerServiceStub(trainer)
        self._models = ModelServiceStub(trainer)
        self._inference = InferenceServiceStub(inference)

    @classmethod
    def from_env(cls) -> "Client":
        """HANDFUL_DATASET, HANDFUL_TRAINER, HANDFUL_INFERENCE (host:port) and HANDFUL_PROJECT; all have defaults."""
        return cls(Addresses.from_env(), project_from_env())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    # Datasets

    def create_dataset(
        self, dataset: str, modality: "bundle_pb2.Modality.ValueType" = bundle_pb2.MODALITY_IMAGE
    ) -> dataset_pb2.Dataset:
        """An empty dataset; where the id is taken that one, or FailedPrecondition where it is of the other modality."""
        request = dataset_pb2.CreateDatasetRequest(
            parent=self.parent, dataset_id=dataset, modality=modality, request_id=new_request_id()
        )
        try:
            created: dataset_pb2.Dataset = call(self._datasets.CreateDataset, request).dataset
        except AlreadyExists:
            created = self.dataset(dataset)
        check_modality(created, modality)
        return created

    def dataset(self, dataset: str) -> dataset_pb2.Dataset:
        request = dataset_pb2.GetDatasetRequest(name=self._dataset_name(dataset))
        found: dataset_pb2.Dataset = call(self._datasets.GetDataset, request).dataset
        return found

    def datasets(self) -> Iterator[dataset_pb2.Dataset]:
        return pages(
            self._datasets.ListDatasets, dataset_pb2.ListDatasetsRequest(parent=self.parent), lambda page: page.datasets
        )

    def examples(self, dataset: str) -> Iterator[dataset_pb2.Example]:
        """Every example of a dataset, newest first."""
        request = dataset_pb2.ListExamplesRequest(parent=self._dataset_name(dataset))
        return pages(self._datasets.ListExamples, request, lambda page: page.examples)

    def thumbnails(
        self, dataset: str, content_sha256s: Iterable[str], side: int = 0
    ) -> dict[str, dataset_pb2.Thumbnail]:
        """Small pictures of a dataset's examples by their content, of those that it has; by default 128 pixels wide.
        One that cannot be made has a `problem` instead of a `jpeg`.
        """
        return thumbnails(self._datasets, self._dataset_name(dataset), content_sha256s, side)

    def upload(self, dataset: str, files: Iterable[LabelledFile]) -> Iterator[UploadExamplesResponse]:
        """Sends files; yields a verdict for each, in order, whose client_ref is the file's path.

        OSError where a file cannot be read, after the verdicts on those before it.
        """
        return upload(self._datasets, self._dataset_name(dataset), files)

    def push(
        self,
        dataset: str,
        folder: Path | str,
        on_verdict: Callable[[UploadExamplesResponse], None] | None = None,
        groups: str = "",
    ) -> Pushed:
        """Creates the dataset where it is new, sends a folder of class folders, and seals a version.

        Files that are there already are not stored twice. `on_verdict` hears of every file as it is answered. `groups`
        says what files belong to, which is never divided: a pattern or a CSV file, as in `handful.groups.groups_of`.
        """
        files, rejected = find(Path(folder), groups), []
        self.create_dataset(dataset, modality_of(files))
        for verdict in self.upload(dataset, files):
            if on_verdict:
                on_verdict(verdict)
            if verdict.HasField("rejected"):
                rejected.append(verdict)
        return Pushed(self.seal(dataset), rejected)

    def seal(self, dataset: str) -> dataset_pb2.DatasetVersion:
        """A version of what the dataset holds now; the same one again where nothing changed."""
        request = dataset_pb2.CreateDatasetVersionRequest(
            parent=self._dataset_name(dataset), request_id=new_request_id()
        )
        sealed: dataset_pb2.DatasetVersion = call(self._datasets.CreateDatasetVersion, request).dataset_version
        return sealed

    # Runs

    def train(
        self, dataset: str, *, model: str = "", promote: bool = False, request_id: str = "", **fields: object
    ) -> Run:
        """Queues a run on a dataset's latest version, or on a version by its full name.

        `fields` are those of Recipe, `preset` among them; see `recipes`. The result is a new version of `model`, by
        default the model of the dataset's name; `promote` moves its alias `production` there. Asked for again within a
        day with the same `request_id`, a UUID, it gives the same run; without one, another.
        """
        request = self._to_train(dataset, model, fields)
        request.promote, request.request_id = promote, request_id or new_request_id()
        return Run(self._trainer, call(self._trainer.CreateTrainingRun, request).training_run)

    def validate(self, dataset: str, *, model: str = "", **fields: object) -> trainer_pb2.TrainingRun:
        """What `train` would queue, checked and with its recipe resolved; nothing is queued, and it has no name."""
        request = self._to_train(dataset, model, fields)
        request.validate_only = True
        checked: trainer_pb2.TrainingRun = call(self._trainer.CreateTrainingRun, request).training_run
        return checked

    def continue_training(
        self,
        run: str,
        num_additional_epochs: int,
        *,
        dataset: str = "",
        model: str = "",
        promote: bool = False,
        **fields: object,
    ) -> Run:
        """Queues a run that goes on from the last checkpoint of one that is over, by its id or full name.

        `fields` are those of Recipe that shall be other than in that run. `dataset` is one of the same classes, whose
        latest version is taken, or a version by its full name; by default both data and model are those of the run.
        """
        request = trainer_pb2.ContinueTrainingRunRequest(
            name=self._run_name(run),
            num_additional_epochs=num_additional_epochs,
            recipe=recipe(fields),
            dataset=self._dataset_name(dataset) if dataset else "",
            model_id=model,
            promote=promote,
            request_id=new_request_id(),
        )
        return Run(self._trainer, call(self._trainer.ContinueTrainingRun, request).training_run)

    def compare(self, runs: Iterable[str]) -> trainer_pb2.CompareTrainingRunsResponse:
        """Training runs side by side, by their full names."""
        request = trainer_pb2.CompareTrainingRunsRequest(parent=self.parent, training_runs=runs)
        found: trainer_pb2.CompareTrainingRunsResponse = call(self._trainer.CompareTrainingRuns, request)
        return found

    def run(self, run: str) -> Run:
        """A run by its id or full name."""
        request = trainer_pb2.GetTrainingRunRequest(name=self._run_name(run))
        return Run(self._trainer, call(self._trainer.GetTrainingRun, request).training_run)

    def runs(self) -> Iterator[trainer_pb2.TrainingRun]:
        """Newest first."""
        request = trainer_pb2.ListTrainingRunsRequest(parent=self.parent)
        return pages(self._trainer.ListTrainingRuns, request, lambda page: page.training_runs)

    def architectures(self) -> Sequence[trainer_pb2.Architecture]:
        request = trainer_pb2.ListArchitecturesRequest()
        return list(call(self._trainer.ListArchitectures, request).architectures)

    def recipes(self) -> Sequence[trainer_pb2.RecipePreset]:
        return list(call(self._trainer.ListRecipes, trainer_pb2.ListRecipesRequest()).presets)

    # Models

    def models(self) -> Iterator[model_pb2.Model]:
        """Newest first."""
        request = model_pb2.ListModelsRequest(parent=self.parent)
        return pages(self._models.ListModels, request, lambda page: page.models)

    def model_versions(self, model: str) -> Iterator[model_pb2.ModelVersion]:
        """Newest first."""
        request = model_pb2.ListModelVersionsRequest(parent=self._model_name(model))
        return pages(self._models.ListModelVersions, request, lambda page: page.model_versions)

    def set_alias(self, model: str, alias: str, version: int) -> model_pb2.Model:
        """Points an alias at a version; servers follow within 2 s."""
        request = model_pb2.SetModelAliasRequest(name=self._model_name(model), alias=alias, version=version)
        changed: model_pb2.Model = call(self._models.SetModelAlias, request).model
        return changed

    def evaluate(self, model_version: str, dataset: str) -> Run:
        """Queues a run that measures a version on a dataset's latest version, without what it was trained on."""
        request = model_pb2.EvaluateModelVersionRequest(
            name=self._model_name(model_version), dataset=self._dataset_name(dataset), request_id=new_request_id()
        )
        return Run(self._trainer, call(self._models.EvaluateModelVersion, request).training_run)

    def evaluation(self, model_version: str, dataset_version: str = "") -> model_pb2.GetEvaluationResponse:
        """How a version did, with plots, on its validation examples or on a dataset version it was evaluated on.

        The version by its full name, or `flowers@production`; the dataset version by its full name.
        """
        request = model_pb2.GetEvaluationRequest(name=self._model_name(model_version), dataset_version=dataset_version)
        found: model_pb2.GetEvaluationResponse = call(self._models.GetEvaluation, request)
        return found

    def export_formats(self, model_version: str = "") -> list[model_pb2.ExportFormat]:
        """The formats to export in, the default one first; `refusal` says why the version, or any, cannot be had."""
        request = model_pb2.ListExportFormatsRequest(name=model_version and self._model_name(model_version))
        return list(call(self._models.ListExportFormats, request).export_formats)

    def export(
        self, model_version: str, to: Path | str = ".", on_bytes: OnBytes = ignored, format_name: str = ""
    ) -> Exported:
        """Writes a version as a zip that runs without Handful, to a file or into a folder, in one of `export_formats`.

        The version by its full name, or `flowers@production`. `on_bytes` hears how many bytes of how many are here.
        """
        request = model_pb2.ExportModelVersionRequest(name=self._model_name(model_version), format=format_name)
        return fetch(self._models, request, Path(to), on_bytes)

    def import_model(
        self, file: Path | str, model: str, *, promote: bool = False, on_bytes: OnBytes = ignored
    ) -> model_pb2.ModelVersion:
        """An exported zip as the next version of a model, which is created where it is new."""
        opened = model_pb2.ImportModelVersionRequest.Open(
            parent=self.parent, model_id=model, promote=promote, request_id=new_request_id()
        )
        return send(self._models, opened, Path(file), on_bytes)

    # Predictions

    def predict(self, model: str, file: File, top_k: int = 0, max_error_rate: float | None = None) -> PredictResponse:
        """What a picture shows or a sound is, best first. `model` is `flowers`, `flowers@staging`, or a full name. With
        `max_error_rate` 0.05 at most 5 % of all that is asked is answered wrongly: what is `unsure` or `unknown` is not
        answered. FailedPrecondition where the model cannot promise that.
        """
        return predictions.predict(self._inference, self._model_name(model), file, top_k, max_error_rate)

    def predict_many(
        self, model: str, files: Iterable[File], top_k: int = 0, max_error_rate: float | None = None
    ) -> Iterator[Answer]:
        """The same of each of many files, in order, some at a time; where one cannot be answered, its error instead."""
        return predictions.predict_many(self._inference, self._model_name(model), files, top_k, max_error_rate)

    def explain(self, model: str, file: File, label: str = "") -> ExplainResponse:
        """Which places of a picture or sound speak for a class, by default the most probable one, and which training
        examples are nearest. ResourceExhausted where many ask at once.
        """
        return predictions.explain(self._inference, self._model_name(model), file, label)

    def _to_train(self, dataset: str, model: str, fields: dict[str, object]) -> trainer_pb2.CreateTrainingRunRequest:
        return trainer_pb2.CreateTrainingRunRequest(
            parent=self.parent, dataset=self._dataset_name(dataset), model_id=model, recipe=recipe(fields)
        )

    def _dataset_name(self, dataset: str) -> str:
        return dataset if dataset.startswith("projects/") else f"{self.parent}/datasets/{dataset}"

    def _run_name(self, run: str) -> str:
        return run if run.startswith("projects/") else f"{self.parent}/trainingRuns/{run}"

    def _model_name(self, model: str) -> str:
        return model if model.startswith("projects/") else f"{self.parent}/models/{model}"
