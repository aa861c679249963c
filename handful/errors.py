"""The errors of both ends: a service raises one, the wire carries it, the SDK raises the same one again.

HandfulError
├── InvalidArgument      the same request always fails
├── NotFound             absent, or not yours
├── AlreadyExists        the id is taken
├── Unauthenticated      nobody knows who is calling
├── PermissionDenied     known, but not allowed
├── FailedPrecondition   not in the state things are in now
├── Aborted              someone else was faster; read again
├── OutOfRange           a position that is gone, or not there yet
├── ResourceExhausted    too much, or too much at once
├── Unavailable          try again
├── DataLoss             a stored object is not what its hash says
├── DeadlineExceeded     it took too long
├── Cancelled            the caller went away
├── Unimplemented        this server has no such call
└── Internal             a fault of ours; its text says nothing but the request id

Messages are public: they are written for the caller. What only we should know stands in the exception's cause, which
is logged and never sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "handful"
DETAILS_KEY = "grpc-status-details-bin"
# Trailers are cut off at random between 8 and 16 KiB, so a status never lists more than this many fields.
MAX_VIOLATIONS = 20
MAX_FIELD = 128
MAX_VIOLATION = 240
MAX_MESSAGE = 1000


class HandfulError(Exception):
    """Base of everything a call can raise.

    `reason` is an upper-case id that programs can rely on, `violations` are (field, what is allowed) pairs, `facts` are
    further strings such as `oldest_sequence`.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Sequence[tuple[str, str]] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = _short(message, MAX_MESSAGE)
        self.reason = reason or self.default_reason
        self.violations = tuple(
            (_short(field, MAX_FIELD), _short(problem, MAX_VIOLATION)) for field, problem in violations[:MAX_VIOLATIONS]
        )
        self.facts = dict(facts or {})


class InvalidArgument(HandfulError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"

    @classmethod
    def fields(cls, violations: Sequence[tuple[str, str]]) -> "InvalidArgument":
        """One error for every bad field, each as (field, what is wrong and what is allowed)."""
        shown = violations[:MAX_VIOLATIONS]
        return cls("; ".join(f"{field}: {problem}" for field, problem in shown), violations=shown)


class NotFound(HandfulError):
    code = grpc.StatusCode.NOT_FOUND
    default_reason = "RESOURCE_NOT_FOUND"


class AlreadyExists(HandfulError):
    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "RESOURCE_EXISTS"


class Unauthenticated(HandfulError):
    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(HandfulError):
    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class FailedPrecondition(HandfulError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "ILLEGAL_STATE"


class Aborted(HandfulError):
    code = grpc.StatusCode.ABORTED
    default_reason = "CONFLICT"


class OutOfRange(HandfulError):
    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "OUT_OF_RANGE"


class ResourceExhausted(HandfulError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "QUOTA_EXCEEDED"


class Unavailable(HandfulError):
    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "DEPENDENCY_DOWN"


class DataLoss(HandfulError):
    code = grpc.StatusCode.DATA_LOSS
    default_reason = "BLOB_CORRUPT"


class DeadlineExceeded(HandfulError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(HandfulError):
    code = grpc.StatusCode.CANCELLED
    default_reason = "CANCELLED"


class Unimplemented(HandfulError):
    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


class Internal(HandfulError):
    code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


ERRORS: dict[grpc.StatusCode, type[HandfulError]] = {error.code: error for error in HandfulError.__subclasses__()}


def to_status(error: HandfulError, request_id: str) -> status_pb2.Status:
    """The google.rpc.Status in the trailers of a failed call: ErrorInfo, and BadRequest where fields are bad."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={**error.facts, "request_id": request_id}
    )
    status.details.add().Pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for field, problem in error.violations:
            bad.field_violations.add(field=field, description=problem)
        status.details.add().Pack(bad)
    return status


def from_rpc_error(error: grpc.RpcError) -> HandfulError:
    """The error that the server raised, from what the client's stub raised."""
    code, message = error.code(), error.details() or ""
    kind = ERRORS.get(code, HandfulError)
    info, bad = _details(error.trailing_metadata() or ())
    return kind(
        message,
        reason=info.reason or None,
        violations=[(violation.field, violation.description) for violation in bad.field_violations],
        facts=dict(info.metadata),
    )


def from_number(number: int, message: str, reason: str = "", facts: Mapping[str, str] | None = None) -> HandfulError:
    """The error of a status code by its number, as it stands in answers to many questions."""
    kind = next((error for code, error in ERRORS.items() if code.value[0] == number), HandfulError)
    return kind(message, reason=reason or None, facts=facts)


def _short(text: str, length: int) -> str:
    # A caller's own words stand in messages, and may be long.
    return text if len(text) <= length else text[: length - 1] + "…"


def _details(
    trailers: Iterable[Any],
) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):  # cut off on the way, or another's: the code and the text are enough
                for detail in status_pb2.Status.FromString(value).details:
                    for message in (info, bad):
                        if detail.Is(message.DESCRIPTOR):
                            detail.Unpack(message)
    return info, bad
