"""Models: what runs publish, which version an alias means, how versions did, and what inference is told of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from handful.bundle.manifest import bundle_key, pointer_key
from handful.errors import DataLoss, HandfulError, InvalidArgument, NotFound, Unavailable
from handful.v1 import model_pb2
from handful.v1.bundle_pb2 import Metric
from services.shared.objects import ObjectStore
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.pointers import Pointers
from tests.playing_worker import (
    LABELS,
    PROJECT,
    bundle,
    changed,
    claim,
    create,
    mended,
    read,
    refusal,
    removed,
    seal,
    unreadable,
    unwritable,
)
from tests.servers import DatasetService, TrainerService

MODEL = f"{PROJECT}/models/flowers"


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


class Publisher:
    """Trains and publishes in no time."""

    def __init__(self, service: TrainerService, store: FilesystemStore, version: str) -> None:
        self._service = service
        self._store = store
        self._version = version
        self._number = 0

    async def __call__(self, **wanted: object) -> model_pb2.ModelVersion:
        """The version that a new run published; each is a bundle of its own."""
        self._number += 1
        digest = bundle(self._store, accuracy=self._number / 100)
        run = await create(self._service, self._version, **wanted)
        await (await claim(self._service)).succeed(digest)
        published = (await read(self._service, run.name)).model_version
        found = await self._service.models.GetModelVersion(model_pb2.GetModelVersionRequest(name=published))
        assert found.model_version.manifest_sha256 == digest
        return found.model_version

    async def model(self, name: str = MODEL) -> model_pb2.Model:
        return (await self._service.models.GetModel(model_pb2.GetModelRequest(name=name))).model

    async def aliases(self, name: str = MODEL) -> dict[str, int]:
        return {one.alias: one.version for one in (await self.model(name)).aliases}

    async def point(self, alias: str, number: int) -> model_pb2.Model:
        request = model_pb2.SetModelAliasRequest(name=MODEL, alias=alias, version=number)
        return (await self._service.models.SetModelAlias(request)).model

    def pointer(self) -> dict[str, Any]:
        """What inference reads."""
        stored: dict[str, Any] = json.loads(self._store.get(pointer_key("default")))
        return stored


@pytest.fixture
def publish(trainer_service: TrainerService, store: FilesystemStore, version: str) -> Publisher:
    return Publisher(trainer_service, store, version)


async def test_a_run_publishes_a_version(trainer_service: TrainerService, publish: Publisher, version: str) -> None:
    """A version says which run made it, from what data, how, for which classes, and how it did."""
    made = await publish()
    run = await read(trainer_service, made.training_run)
    assert (made.name, made.dataset_version) == (f"{MODEL}/versions/1", version)
    assert (run.model_version, made.recipe) == (made.name, run.recipe)
    assert (tuple(made.labels), list(made.metrics)) == (LABELS, [Metric(name="val/accuracy", value=0.01)])
    assert made.HasField("create_time")
    assert (await publish.model()).HasField("create_time")


async def test_only_a_first_or_promoted_version_is_production(publish: Publisher) -> None:
    """The first success sets `production`; later ones move it where the run asked for it, and not otherwise."""
    moved = []
    for promote in (False, False, True, False):
        await publish(promote=promote)
        moved.append(await publish.aliases())
    assert moved == [{"production": 1}, {"production": 1}, {"production": 3}, {"production": 3}]
    assert (await publish.model()).latest_version == 4


async def test_models_number_their_versions_apart(publish: Publisher) -> None:
    """Runs of different models add to their own model, and each first version is its model's production."""
    names = [(await publish(model_id=model)).name for model in ("roses", "daisies", "roses")]
    expected = ("roses/versions/1", "daisies/versions/1", "roses/versions/2")
    assert names == [f"{PROJECT}/models/{tail}" for tail in expected]
    assert await publish.aliases(f"{PROJECT}/models/daisies") == {"production": 1}
    assert await publish.aliases(f"{PROJECT}/models/roses") == {"production": 1}


async def test_an_alias_goes_where_it_is_pointed(trainer_service: TrainerService, publish: Publisher) -> None:
    """Aliases are made and moved by whoever asks, forth and back, and a version can be had by each."""
    first, second = await publish(), await publish()
    await publish.point("staging", 2)
    await publish.point("production", 2)
    model = await publish.point("production", 1)
    assert model == await publish.model()
    assert [(one.alias, one.version) for one in model.aliases] == [("production", 1), ("staging", 2)]
    for alias, expected in (("production", first), ("staging", second)):
        request = model_pb2.GetModelVersionRequest(name=f"{MODEL}@{alias}")
        assert (await trainer_service.models.GetModelVersion(request)).model_version == expected


async def test_what_inference_is_told_is_what_there_is(publish: Publisher) -> None:
    """After every change the pointer object has all versions and aliases, and a higher generation."""
    changes: list[Callable[[], Awaitable[object]]] = [
        publish,
        publish,
        lambda: publish.point("staging", 2),
        lambda: publish.point("production", 2),
        lambda: publish(model_id="roses"),
    ]
    generations = []
    for change in changes:
        await change()
        generations.append(publish.pointer()["generation"])
    assert generations == sorted(set(generations))
    versions = [await publish(), await publish(model_id="roses", promote=True)]
    told = publish.pointer()
    assert told["generation"] > generations[-1]
    assert told["models"]["flowers"]["aliases"] == {"production": 2, "staging": 2}
    assert told["models"]["roses"]["aliases"] == {"production": 2}
    assert list(told["models"]["flowers"]["versions"]) == ["1", "2", "3"]
    assert told["models"]["flowers"]["versions"]["3"] == versions[0].manifest_sha256
    assert told["models"]["roses"]["versions"]["2"] == versions[1].manifest_sha256
    assert set(told) == {"generation", "models"}


async def test_runs_that_end_together_publish_one_by_one(
    trainer_service: TrainerService, store: FilesystemStore, version: str, publish: Publisher
) -> None:
    """However many runs of a model end at once, each is a version, and the pointer has all of them."""
    holds = []
    for _ in range(6):
        await create(trainer_service, version)
        holds.append(await claim(trainer_service))
    digests = [bundle(store, accuracy=number / 100) for number in range(6)]
    await asyncio.gather(*(hold.succeed(digest) for hold, digest in zip(holds, digests, strict=True)))
    made = [(await read(trainer_service, hold.run)).model_version for hold in holds]
    assert sorted(made) == [f"{MODEL}/versions/{number}" for number in range(1, 7)]
    told = publish.pointer()
    assert told["generation"] == 6
    assert told["models"]["flowers"]["aliases"] == {"production": 1}
    versions = {f"{MODEL}/versions/{number}": one for number, one in told["models"]["flowers"]["versions"].items()}
    assert versions == dict(zip(made, digests, strict=True))


async def test_a_pointer_that_could_not_be_written_is_written_later(
    trainer_service: TrainerService, store: FilesystemStore, publish: Publisher
) -> None:
    """Where the store is away a success still counts, and inference is told once the store is back."""
    await publish()
    key = pointer_key("default")
    data = store.get(key)
    unwritable(store, key)
    await publish(promote=True)
    assert await publish.aliases() == {"production": 2}
    mended(store, key, data)
    reconciling = asyncio.create_task(Pointers(trainer_service.database, store).reconcile())
    async with asyncio.timeout(5):
        while publish.pointer()["generation"] < 2:  # noqa: ASYNC110 - what is waited for is in another's files
            await asyncio.sleep(0.02)
    reconciling.cancel()
    assert publish.pointer()["models"]["flowers"]["aliases"] == {"production": 2}


async def test_runs_without_success_publish_nothing(
    trainer_service: TrainerService, store: ObjectStore, version: str
) -> None:
    """A failed and a cancelled run leave no model, no version and no pointer."""
    for end in ("fail", "stop"):
        await create(trainer_service, version)
        await getattr(await claim(trainer_service), end)()
    models = await trainer_service.models.ListModels(model_pb2.ListModelsRequest(parent=PROJECT))
    assert list(models.models) == []
    assert list(store.keys(pointer_key("default"))) == []


async def test_an_evaluation_is_what_the_bundle_says(trainer_service: TrainerService, publish: Publisher) -> None:
    """How a version did, with its plots by name, by version and by alias."""
    made = await publish()
    for name in (made.name, f"{MODEL}@production"):
        found = await trainer_service.models.GetEvaluation(model_pb2.GetEvaluationRequest(name=name))
        assert list(found.evaluation.metrics) == [Metric(name="val/accuracy", value=0.01)]
        assert {plot.name: plot.png for plot in found.plots} == {"confusion_matrix": b"a matrix", "loss": b"a curve"}


DAMAGES = [(changed, DataLoss), (removed, DataLoss), (unreadable, Unavailable)]


@pytest.mark.parametrize(("damage", "kind"), DAMAGES, ids=["changed", "removed", "unreadable"])
async def test_a_damaged_bundle_has_no_evaluation(
    trainer_service: TrainerService,
    store: FilesystemStore,
    publish: Publisher,
    damage: Callable[[FilesystemStore, str], None],
    kind: type[HandfulError],
) -> None:
    """A file of a bundle that is gone or damaged is DATA_LOSS, one that cannot be read UNAVAILABLE; no key is told."""
    made = await publish()
    for path in ("manifest.json", "evaluation.json", "plots/loss.png"):
        key = bundle_key("default", made.manifest_sha256, path)
        data = store.get(key)
        damage(store, key)
        error = await refusal(trainer_service.models.GetEvaluation(model_pb2.GetEvaluationRequest(name=made.name)))
        assert isinstance(error, kind)
        assert made.manifest_sha256 not in error.message
        mended(store, key, data)


async def pages(service: TrainerService, method: str, parent: str) -> list[Any]:
    """Every page of a list, two rows each."""
    request = getattr(model_pb2, f"{method}Request")(parent=parent, page_size=2)
    found: list[Any] = []
    while not found or request.page_token:
        found.append(await getattr(service.models, method)(request))
        request.page_token = found[-1].next_page_token
    return found


async def test_models_and_versions_are_listed_newest_first(trainer_service: TrainerService, publish: Publisher) -> None:
    """Pages hold every model, and every version of a model, once."""
    for model in ("a", "b", "c", "c", "c"):
        await publish(model_id=model)
    models = [model.name for page in await pages(trainer_service, "ListModels", PROJECT) for model in page.models]
    assert models == [f"{PROJECT}/models/{model}" for model in ("c", "b", "a")]
    found = await pages(trainer_service, "ListModelVersions", models[0])
    versions = [version.name for page in found for version in page.model_versions]
    assert versions == [f"{models[0]}/versions/{number}" for number in (3, 2, 1)]


async def test_what_is_not_there_is_not_found(trainer_service: TrainerService, publish: Publisher) -> None:
    """NOT_FOUND names what was asked for, and for an alias what there is instead; other projects see nothing."""
    await publish()
    models, other = trainer_service.models, MODEL.replace(PROJECT, "projects/elsewhere")
    asked: dict[str, Awaitable[object]] = {
        f"There is no model {PROJECT}/models/trees.": models.GetModel(
            model_pb2.GetModelRequest(name=f"{PROJECT}/models/trees")
        ),
        f"There is no model {other}.": models.GetModel(model_pb2.GetModelRequest(name=other)),
        f"There is no model {PROJECT}/models/bushes.": models.ListModelVersions(
            model_pb2.ListModelVersionsRequest(parent=f"{PROJECT}/models/bushes")
        ),
        f"There is no model version {MODEL}/versions/2.": models.GetModelVersion(
            model_pb2.GetModelVersionRequest(name=f"{MODEL}/versions/2")
        ),
        f"There is no model version {other}/versions/1.": models.GetEvaluation(
            model_pb2.GetEvaluationRequest(name=f"{other}/versions/1")
        ),
        f"{MODEL} has no alias best; it has: production.": models.GetEvaluation(
            model_pb2.GetEvaluationRequest(name=f"{MODEL}@best")
        ),
        f"There is no model version {MODEL}/versions/9.": publish.point("production", 9),
        f"There is no model version {MODEL}/versions/0.": publish.point("production", 0),
    }
    for message, call in asked.items():
        error = await refusal(call)
        assert isinstance(error, NotFound)
        assert error.message == message
    assert await publish.aliases() == {"production": 1}


async def test_names_and_aliases_that_are_none(trainer_service: TrainerService, publish: Publisher) -> None:
    """What is no name of a version is INVALID_ARGUMENT and says what one looks like; so is an alias that is no id."""
    for name in ("", "flowers", MODEL, f"{MODEL}/versions/0", f"{MODEL}/versions/x", f"{MODEL}@A", f"{MODEL}@"):
        for call in (
            trainer_service.models.GetModelVersion(model_pb2.GetModelVersionRequest(name=name)),
            trainer_service.models.GetEvaluation(model_pb2.GetEvaluationRequest(name=name)),
        ):
            error = await refusal(call)
            assert isinstance(error, InvalidArgument)
            assert "versions/{number}" in error.message
    await publish()
    for alias in ("", "Production", "1", "a@b", "a" * 64):
        error = await refusal(publish.point(alias, 1))
        assert isinstance(error, InvalidArgument)
        assert [field for field, _ in error.violations] == ["alias"]
    assert await publish.aliases() == {"production": 1}
