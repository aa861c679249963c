"""Files that a model is asked about: what they show or are of, and why it says so."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from handful.calls import call
from handful.channel import MEBIBYTE
from handful.errors import HandfulError, InvalidArgument, Unimplemented, from_number
from handful.folders import is_sound
from handful.v1.inference_pb2 import (
    ExplainRequest,
    ExplainResponse,
    PredictBatchRequest,
    PredictBatchResponse,
    PredictError,
    PredictRequest,
    PredictResponse,
)
from handful.v1.inference_pb2_grpc import InferenceServiceStub


class Stored(Protocol):
    """What the services have already: an Example of a dataset, a WrongAnswer of an evaluation, a NearestExample."""

    @property
    def content_sha256(self) -> str: ...


File = PathLike[str] | str | bytes | Stored
# What became of one of many: the answer, or why there is none.
Answer = PredictResponse | HandfulError | OSError
# As the service takes them.
MAX_BYTES = 32 * MEBIBYTE
# In one call of many, fewer than the service takes: all must be answered before the call's time is up.
BATCH_FILES = {"image": 16, "sound": 4, "content_sha256": 4}
BATCH_BYTES = 16 * MEBIBYTE
# What a server says of no bytes, as of a file; none that is stored has none.
_EMPTY = ": The file is empty."


def predict(
    stub: InferenceServiceStub, model: str, file: File, top_k: int, max_error_rate: float | None
) -> PredictResponse:
    request = PredictRequest(model=model, top_k=top_k, max_error_rate=max_error_rate, **_content(file))
    with _known(request.content_sha256):
        answer = call(stub.Predict, request)
    return _promised(answer, max_error_rate)


def predict_many(
    stub: InferenceServiceStub, model: str, files: Iterable[File], top_k: int, max_error_rate: float | None
) -> Iterator[Answer]:
    """In order. What is wrong with one file is its answer; what is wrong with all of them is raised."""
    asked = PredictBatchRequest(model=model, top_k=top_k, max_error_rate=max_error_rate)
    batch = _Batch()
    for file in files:
        try:
            content = _content(file)
        except (OSError, InvalidArgument) as problem:
            yield from batch.answers(stub, asked)
            batch = _Batch()
            yield problem
            continue
        if not batch.has_room(content):
            yield from batch.answers(stub, asked)
            batch = _Batch()
        batch.add(content)
    yield from batch.answers(stub, asked)


def explain(stub: InferenceServiceStub, model: str, file: File, label: str) -> ExplainResponse:
    request = ExplainRequest(model=model, label=label, **_content(file))
    with _known(request.content_sha256):
        answer: ExplainResponse = call(stub.Explain, request)
    return answer


@dataclass
class _Batch:
    """Pictures, sounds, or what is stored, of one call."""

    kind: str = ""
    files: list[bytes | str] = field(default_factory=list)

    def has_room(self, content: dict[str, Any]) -> bool:
        ((kind, data),) = content.items()
        num_bytes = sum(map(len, self.files)) + len(data)
        return not self.files or (
            kind == self.kind and len(self.files) < BATCH_FILES[kind] and num_bytes <= BATCH_BYTES
        )

    def add(self, content: dict[str, Any]) -> None:
        ((self.kind, data),) = content.items()
        self.files.append(data)

    def answers(self, stub: InferenceServiceStub, asked: PredictBatchRequest) -> Iterator[Answer]:
        """To the files, asked as the request that has none yet."""
        if not self.files:
            return
        kind = f"{self.kind}s"
        request = PredictBatchRequest()
        request.CopyFrom(asked)
        getattr(request, kind).extend(self.files)
        try:
            with _known(*request.content_sha256s):
                answered: PredictBatchResponse = call(stub.PredictBatch, request)
        except InvalidArgument as other:
            if [named for named, _ in other.violations] != [kind]:
                raise
            yield from [other] * len(self.files)  # of the kind that the model does not understand
            return
        for one in answered.results:
            rate = asked.max_error_rate if asked.HasField("max_error_rate") else None
            yield _error(one.error) if one.HasField("error") else _promised(one.prediction, rate)


def _promised(answer: PredictResponse, max_error_rate: float | None) -> PredictResponse:
    """The answer. Unimplemented where a rate was asked for and the server did not look at it: then none is unsure."""
    if max_error_rate is not None and not answer.HasField("min_confidence"):
        raise _too_old("max_error_rate")
    return answer


@contextmanager
def _known(*content_sha256s: str) -> Iterator[None]:
    """Unimplemented where examples were asked about, and the server says that there is no file: it did not see them."""
    try:
        yield
    except InvalidArgument as missing:
        fields = {field for field, _ in missing.violations}
        if any(content_sha256s) and (fields & {"images", "sounds"} or missing.message.endswith(_EMPTY)):
            raise _too_old("content_sha256") from missing
        raise


def _too_old(field: str) -> Unimplemented:
    return Unimplemented(f"{field}: The inference service is of an older release, which does not know it.")


def _error(error: PredictError) -> HandfulError:
    facts = {"pushback_ms": str(error.retry_after_milliseconds)} if error.retry_after_milliseconds else None
    return from_number(error.code, error.message, error.reason, facts)


def _content(file: File) -> dict[str, Any]:
    """The field of a request that takes the file, and its bytes; of what is stored, its hash."""
    if hasattr(file, "content_sha256"):
        return {"content_sha256": file.content_sha256}
    if not isinstance(file, bytes | str | PathLike):
        kind = type(file).__name__
        raise TypeError(f"A file is a path, the bytes of a file, or an Example or other that is stored; not {kind}.")
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    field = "sound" if is_sound(data) else "image"
    if len(data) > MAX_BYTES:
        message = f"{field}: The file has {len(data) / MEBIBYTE:.0f} MiB; at most {MAX_BYTES // MEBIBYTE} are taken."
        raise InvalidArgument(message, reason="FILE_TOO_LARGE")
    return {field: data}
