"""What the trainer asks of the dataset service, over its public contract, as any caller would."""

from collections.abc import Sequence

import grpc
from grpc import aio

from handful import names
from handful.errors import FailedPrecondition, HandfulError, NotFound, Unavailable, from_rpc_error
from handful.v1 import dataset_pb2, dataset_pb2_grpc
from services.shared.interceptors import REQUEST_ID, request_id

TIMEOUT_SECONDS = 5.0
SHOWN_CLASSES = 10


class Datasets:
    """A client of the dataset service."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = dataset_pb2_grpc.DatasetServiceStub(channel)

    async def version(self, project: str, name: str) -> dataset_pb2.DatasetVersion:
        """The named version, or the latest of the named dataset, which must be the project's."""
        names.match((names.DATASET_VERSION, names.DATASET), name, "dataset")
        if not name.startswith(f"projects/{project}/"):
            raise NotFound(f"There is no {name} in projects/{project}.")
        try:
            if "/versions/" in name:
                return await self._get(name)
            return await self._latest(name)
        except aio.AioRpcError as problem:
            raise _translated(problem) from None

    async def _get(self, name: str) -> dataset_pb2.DatasetVersion:
        request = dataset_pb2.GetDatasetVersionRequest(name=name)
        answer = await self._stub.GetDatasetVersion(request, timeout=TIMEOUT_SECONDS, metadata=_metadata())
        return answer.dataset_version

    async def _latest(self, name: str) -> dataset_pb2.DatasetVersion:
        request = dataset_pb2.ListDatasetVersionsRequest(parent=name, page_size=1)
        answer = await self._stub.ListDatasetVersions(request, timeout=TIMEOUT_SECONDS, metadata=_metadata())
        if not answer.dataset_versions:
            raise FailedPrecondition(
                f"{name} has no version yet. Seal it with CreateDatasetVersion.", reason="NO_DATASET_VERSION"
            )
        return answer.dataset_versions[0]


def some(labels: Sequence[str]) -> str:
    """The first of a version's classes, for a message."""
    more = f" and {len(labels) - SHOWN_CLASSES} more" if len(labels) > SHOWN_CLASSES else ""
    return ", ".join(labels[:SHOWN_CLASSES]) + more


def _metadata() -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID, request_id()),)


def _translated(problem: grpc.RpcError) -> HandfulError:
    error = from_rpc_error(problem)
    if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        # The words of the transport name addresses; they stay with us.
        return Unavailable("The dataset service cannot be reached. Try again.", reason="DEPENDENCY_DOWN")
    return error
