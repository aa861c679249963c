"""The error hierarchy: complete, small enough for the wire, and the same at both ends."""

import grpc
import pytest
from grpc import aio

from handful import errors
from handful.errors import MAX_VIOLATIONS, HandfulError, InvalidArgument, from_rpc_error, to_status

KINDS = HandfulError.__subclasses__()


def test_every_error_has_a_code_of_its_own() -> None:
    """Each class stands for one status code and has a reason that programs can read; the tree in the file lists all."""
    assert len({kind.code for kind in KINDS}) == len({kind.default_reason for kind in KINDS}) == len(KINDS)
    assert {code: kind.__name__ for code, kind in errors.ERRORS.items()} == {kind.code: kind.__name__ for kind in KINDS}
    drawn = [line.split()[1] for line in (errors.__doc__ or "").splitlines() if line.startswith(("├── ", "└── "))]
    assert drawn == [kind.__name__ for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_says_code_message_and_reason(kind: type[HandfulError]) -> None:
    """The status of an error has its code and its message, and ErrorInfo with reason and request id."""
    status = to_status(kind("what happened", facts={"oldest_sequence": "7"}), "id-1")
    assert (status.code, status.message, len(status.details)) == (kind.code.value[0], "what happened", 1)
    assert kind.default_reason.encode() in status.details[0].value
    assert all(fact in status.details[0].value for fact in (b"oldest_sequence", b"request_id", b"id-1"))


def test_a_status_fits_into_trailers() -> None:
    """Of hundreds of bad fields, so few are listed that the status stays below the 8 KiB where trailers are cut."""
    error = InvalidArgument.fields([(f"recipe.field_{number}", "must be between 0 and 1") for number in range(300)])
    assert len(error.violations) == MAX_VIOLATIONS
    assert len(to_status(error, "x" * 128).SerializeToString()) + len(error.message) < 8192


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    """Where nothing listens, the caller gets Unavailable, from the blocking stub as from the other."""
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/a/B", bytes, bytes)(b"", timeout=10)
    assert isinstance(from_rpc_error(refused.value), errors.Unavailable)
    async with aio.insecure_channel("127.0.0.1:1") as other:
        with pytest.raises(aio.AioRpcError) as failure:
            await other.unary_unary("/a/B", bytes, bytes)(b"")
    assert isinstance(from_rpc_error(failure.value), errors.Unavailable)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.NOT_FOUND, b"\xff no status"),
        (grpc.StatusCode.NOT_FOUND, b""),
        (grpc.StatusCode.PERMISSION_DENIED, b""),
        (grpc.StatusCode.UNKNOWN, b"\xff"),
    ],
)
def test_what_others_answer_becomes_an_error_too(code: grpc.StatusCode, details: bytes) -> None:
    """A proxy's status, without details or with broken ones, is still an error of its code, with its message."""
    trailers = aio.Metadata((errors.DETAILS_KEY, details))
    error = from_rpc_error(aio.AioRpcError(code, aio.Metadata(), trailers, details="from a proxy"))
    assert type(error) is errors.ERRORS.get(code, HandfulError)
    assert (error.code, error.message, error.violations) == (code, "from a proxy", ())
