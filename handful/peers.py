"""The services as a caller reaches them: whatever goes wrong comes as an error of `handful.errors`, and where a service
does not answer the error names it, its address, and what to do. It knows no calls.
"""

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from handful.channel import connect
from handful.errors import DeadlineExceeded, HandfulError, Unavailable, Unimplemented, from_rpc_error

UNREACHABLE = "SERVICE_UNREACHABLE"


def reach(service: str, address: str) -> grpc.Channel:
    """A channel to `dataset`, `trainer` or `inference`, whose calls raise HandfulError, never gRPC's own errors."""
    return grpc.intercept_channel(connect(address), _Translated(service, address))


class _Translated(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, service: str, address: str) -> None:
        self._service = service
        self._address = address

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._answer(continuation(client_call_details, request))

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._answer(continuation(client_call_details, request_iterator))

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _Stream(continuation(client_call_details, request), self._error)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return _Stream(continuation(client_call_details, request_iterator), self._error)

    def _answer(self, outcome: Any) -> Any:
        if isinstance(outcome, grpc.RpcError):  # a call that failed is its own error
            raise self._error(outcome)
        return outcome

    def _error(self, problem: grpc.RpcError) -> HandfulError:
        error = from_rpc_error(problem)
        if "request_id" in error.facts:
            return error  # the service's own words
        facts = {"service": self._service, "address": self._address, "transport": error.message}
        if isinstance(error, Unavailable):
            said = f"The {self._service} service does not answer at {self._address}. {self._advice()}"
            return Unavailable(said, reason=UNREACHABLE, facts=facts)
        if isinstance(error, DeadlineExceeded):
            said = f"The {self._service} service at {self._address} did not answer in time. It may be busy; try again."
            return DeadlineExceeded(said, facts=facts)
        if isinstance(error, Unimplemented):
            said = f"What listens on {self._address} is no {self._service} service of this version. {self._advice()}"
            return Unimplemented(said, facts=facts)
        return error

    def _advice(self) -> str:
        variable = f"HANDFUL_{self._service.upper()}"
        return f"Start all services here with `handful up`; if they run elsewhere, set {variable} to its host:port."


class _Stream:
    """The answers of a call, one after the other."""

    def __init__(self, call: Any, error: Callable[[grpc.RpcError], HandfulError]) -> None:
        self._call = call
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as problem:
            raise self._error(problem) from None

    def cancel(self) -> None:
        self._call.cancel()
