"""Files on their way into a dataset: one stream, a verdict for each."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handful.errors import FailedPrecondition
from handful.folders import LabelledFile
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND, Modality
from handful.v1.dataset_pb2 import Dataset, DatasetVersion, UploadExamplesRequest, UploadExamplesResponse
from handful.v1.dataset_pb2_grpc import DatasetServiceStub

CHUNK_BYTES = 256 * 1024
_PLURALS = {MODALITY_IMAGE: "pictures", MODALITY_SOUND: "sounds"}


@dataclass(frozen=True)
class Pushed:
    """What became of a folder: the sealed version, and the verdicts on files that were refused and are not in it."""

    version: DatasetVersion
    rejected: list[UploadExamplesResponse]


def upload(stub: DatasetServiceStub, dataset: str, files: Iterable[LabelledFile]) -> Iterator[UploadExamplesResponse]:
    """Sends files; yields the verdicts in order. OSError where a file cannot be read, after those before it."""
    unreadable: list[OSError] = []
    yield from stub.UploadExamples(_steps(dataset, files, unreadable))
    if unreadable:
        raise unreadable[0]


def _steps(dataset: str, files: Iterable[LabelledFile], unreadable: list[OSError]) -> Iterator[UploadExamplesRequest]:
    yield UploadExamplesRequest(open=UploadExamplesRequest.Open(dataset=dataset))
    for file in files:
        try:
            data = file.path.read_bytes()
        except OSError as problem:  # gRPC would end the stream with words that do not name the file
            unreadable.append(problem)
            return
        yield UploadExamplesRequest(
            begin=UploadExamplesRequest.Begin(
                client_ref=str(file.path)[-256:],
                label=file.label,
                filename=file.path.name[-256:],
                split=file.split,
                group=file.group,
                upload_sha256=hashlib.sha256(data).hexdigest(),
            )
        )
        for start in range(0, len(data), CHUNK_BYTES):
            yield UploadExamplesRequest(chunk=UploadExamplesRequest.Chunk(data=data[start : start + CHUNK_BYTES]))
        yield UploadExamplesRequest(commit=UploadExamplesRequest.Commit())


def check_modality(dataset: Dataset, given: "Modality.ValueType") -> None:
    """FailedPrecondition where a dataset holds pictures and sounds are to come, or the other way round."""
    if dataset.modality != given:
        held, come = (_PLURALS[each] for each in (dataset.modality, given))
        raise FailedPrecondition(f"{dataset.name} holds {held}, and these are {come}. Take another dataset.")
