"""What happens around every call: a request id, a deadline, a log line, and errors turned into statuses.

This is the one place that ends a call with a status. Servicers raise the errors of `handful.errors`; anything else that
escapes them is a fault of ours and reaches the caller as a bare INTERNAL with the request id.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from handful import errors
from services.shared.deadlines import within
from services.shared.identifiers import new_id
from services.shared.statuses import as_error

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
PUSHBACK, NEVER = "grpc-retry-pushback-ms", "-1"
# A unary call without a deadline of its own ends here.
UNARY_CEILING_SECONDS = 30.0
_MAX_REQUEST_ID = 128

# Of a call that ended: its method, its status by name, and the seconds that it took.
Observe = Callable[[str, str, float], None]

if TYPE_CHECKING:
    Context = aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Begin = Callable[[Context], "_call"]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class _Malformed:
    """Stands for a request whose bytes are no message of the method's kind."""


class Edge(aio.ServerInterceptor):
    """The interceptor that every server of ours has. `observe` hears of every call's end."""

    def __init__(
        self, slow_reader_seconds: float, guards: Mapping[str, Callable[[bytes], None]], observe: Observe
    ) -> None:
        self.slow_reader_seconds = slow_reader_seconds
        self._guards = guards
        self._observe = observe

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return None
        method = handler_call_details.method
        begin = partial(_call, method=method, observe=self._observe)
        parse = _tolerant(handler.request_deserializer, self._guards.get(method))
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            handle = _streaming(behaviour, begin, self.slow_reader_seconds)
            return make(handle, parse, handler.response_serializer)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                _gathering(handler.stream_unary, begin), parse, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, begin), parse, handler.response_serializer
        )


def request_id() -> str:
    """The id of the call being served, to send downstream."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _tolerant(parse: Callable[[bytes], Any] | None, guard: Callable[[bytes], None] | None) -> Callable[[bytes], Any]:
    # gRPC answers unparsable bytes with UNKNOWN and the parser's words; this lets the handler answer instead.
    def tolerant(data: bytes) -> Any:
        try:
            if guard:
                guard(data)
            return parse(data) if parse else data
        except DecodeError:
            return _Malformed()

    return tolerant


def _unary(behaviour: Any, begin: Begin) -> Any:
    async def handle(request: Any, context: Context) -> Any:
        async with begin(context) as call:
            try:
                _check(request)
                async with within(min(context.time_remaining() or UNARY_CEILING_SECONDS, UNARY_CEILING_SECONDS)):
                    answer = await behaviour(request, context)
            finally:
                del request  # see `_let_go`
            call.tell()
            return answer

    return handle


def _gathering(behaviour: Any, begin: Begin) -> Any:
    async def handle(requests: AsyncIterator[Any], context: Context) -> Any:
        async with begin(context) as call:
            # Without a ceiling: how long a stream in may take hangs on its size, and is its method's business.
            answer = await behaviour(_checked(requests), context)
            call.tell()
            return answer

    return handle


def _streaming(behaviour: Any, begin: Begin, slow_reader_seconds: float) -> Any:
    async def handle(request: Any, context: Context) -> None:
        async with begin(context) as call:
            incoming = _checked(request) if hasattr(request, "__aiter__") else request
            _check(incoming)
            given = behaviour(incoming, context)
            if inspect.isawaitable(given):  # gRPC's own health service writes its answers itself
                await call.begin()
                await given
                return
            async with aclosing(given) as answers:
                async for answer in answers:
                    await call.begin()
                    await _write(context, answer, slow_reader_seconds)
            await call.begin()

    return handle


def _let_go(problem: BaseException | None) -> None:
    """Of everything that was on the way to an error. gRPC keeps what ended a call with the call, in a ring that only
    Python's collector opens, perhaps minutes later: a server that refuses large files would hold many of them.
    """
    left, seen = [problem], set[int]()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:  # an error may come of itself, by way of others
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__]


async def _write(context: Context, answer: Any, slow_reader_seconds: float) -> None:
    # gRPC takes some megabytes for a reader that does not read; when it takes no more for this long, the reader goes.
    try:
        async with asyncio.timeout(slow_reader_seconds):
            await context.write(answer)
    except TimeoutError:
        raise errors.Unavailable(
            "The answers were not read fast enough. Call again from where you are.", reason="WATCHER_TOO_SLOW"
        ) from None
    except aio.InternalError:  # the caller went away while this was written
        raise asyncio.CancelledError from None


def _check(request: Any) -> None:
    if isinstance(request, _Malformed):
        raise errors.InvalidArgument("The request is not a message of this method's kind.", reason="MALFORMED")


async def _checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _check(request)
        yield request


class _call:  # noqa: N801 - used as a statement, `async with _call(...)`
    """Binds the request id, logs the call's end, and turns what escapes into a status."""

    def __init__(self, context: Context, method: str, observe: Observe) -> None:
        self.context = context
        self.method = method
        self.observe = observe
        self.started = time.perf_counter()
        self.request_id = ""
        self.begun = False

    async def __aenter__(self) -> Self:
        metadata = dict(self.context.invocation_metadata() or ())
        given = metadata.get(REQUEST_ID, "")
        usable = isinstance(given, str) and given.isprintable() and 0 < len(given) <= _MAX_REQUEST_ID
        self.request_id = str(given) if usable else new_id()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        return self

    def tell(self) -> None:
        """Sends the request id with the one answer, in the trailing metadata, where errors have it: anything that went
        ahead would cost the call another turn through gRPC.
        """
        self.context.set_trailing_metadata(((REQUEST_ID, self.request_id),))

    async def begin(self) -> None:
        """Sends the request id ahead of a stream's first answer: not before, since a call that has sent anything is
        never tried again by its caller's channel.
        """
        if not self.begun:
            self.begun = True
            await self.context.send_initial_metadata(((REQUEST_ID, self.request_id),))

    async def __aexit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if problem is None:
            self._log("OK")
            return
        if isinstance(problem, aio.AbortError):  # gRPC's own health service ends its calls itself
            self._log("ABORTED")
            return
        if isinstance(problem, (asyncio.CancelledError, GeneratorExit)):
            self._log("CANCELLED")
            return
        error = as_error(problem)
        self._log(error.code.name, error=error, problem=problem)
        trailers: list[tuple[str, str | bytes]] = [
            (REQUEST_ID, self.request_id),
            (errors.DETAILS_KEY, errors.to_status(error, self.request_id).SerializeToString()),
        ]
        if "pushback_ms" in error.facts:
            trailers.append((PUSHBACK, error.facts["pushback_ms"]))
        elif error.code == grpc.StatusCode.RESOURCE_EXHAUSTED:  # a full disk has no time to name
            trailers.append((PUSHBACK, NEVER))
        del trace
        _let_go(error)
        _let_go(problem)
        await self.context.abort(error.code, error.message, tuple(trailers))

    def _log(self, code: str, error: errors.HandfulError | None = None, problem: BaseException | None = None) -> None:
        seconds = time.perf_counter() - self.started
        self.observe(self.method, code, seconds)
        line: dict[str, Any] = {"method": self.method, "code": code, "ms": round(1e3 * seconds, 1)}
        if error is not None:
            line |= {"reason": error.reason, "message": error.message}
        if isinstance(error, errors.Internal) or (error is not None and error.__cause__ is not None):
            log.error("call", **line, exc_info=problem)
        else:
            # Health is asked every few seconds, for ever.
            say = log.debug if self.method.startswith("/grpc.health.") else log.info
            say("call", **line)
