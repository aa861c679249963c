"""What the trainer keeps of an imported model, on either database."""

import hashlib
import uuid

from handful.v1 import model_pb2
from tests.rpc.test_exchange import MODEL, VERSION, answer, exported, parts, send
from tests.servers import TrainerService
from tests.whole_bundles import LABELS, Parts

__all__ = ["exported", "parts"]


async def test_a_zip_becomes_a_version(trainer_service: TrainerService, parts: Parts, exported: bytes) -> None:
    """An import says what it came from; the first is production, later ones where that is asked for."""
    first = await send(trainer_service, exported)
    assert (first.name, first.manifest_sha256) == (VERSION, parts.sha256)
    assert (first.training_run, first.dataset_version) == ("", "")
    assert first.imported_from_sha256 == hashlib.sha256(exported).hexdigest()
    assert (tuple(first.labels), first.recipe) == (LABELS, parts.model.recipe)
    assert {one.name: one.value for one in first.metrics} == {"val/accuracy": 1.0}
    found = await trainer_service.models.GetModelVersion(model_pb2.GetModelVersionRequest(name=first.name))
    assert found.model_version == first
    for promote, production in ((False, 1), (True, 3)):
        await send(trainer_service, exported, promote=promote)
        model = (await trainer_service.models.GetModel(model_pb2.GetModelRequest(name=MODEL))).model
        assert {one.alias: one.version for one in model.aliases} == {"production": production}
    listed = await trainer_service.models.ListModelVersions(model_pb2.ListModelVersionsRequest(parent=MODEL))
    assert [one.name for one in listed.model_versions] == [f"{MODEL}/versions/{number}" for number in (3, 2, 1)]


async def test_a_repeated_import_happens_once(trainer_service: TrainerService, exported: bytes) -> None:
    """The same zip under the same request_id is the same version; another zip or model under it is refused."""
    request_id = str(uuid.uuid4())
    first = await send(trainer_service, exported, request_id=request_id)
    assert await send(trainer_service, exported, request_id=request_id) == first
    digest = hashlib.sha256(exported).hexdigest()
    assert await send(trainer_service, exported, request_id=request_id, sha256=digest) == first
    other = await send(trainer_service, exported, request_id=str(uuid.uuid4()))
    assert other.name == f"{MODEL}/versions/2"
    for call in (
        send(trainer_service, exported + b"x", request_id=request_id),
        send(trainer_service, exported, request_id=request_id, promote=True),
    ):
        assert await answer(call) == "INVALID_ARGUMENT REQUEST_ID_REUSED"
