"""Answers kept for a day, so that a create that is asked for twice happens once."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection

from handful.errors import InvalidArgument
from services.shared.database import alone, text
from services.shared.identifiers import now_us

_MAX_REQUEST_ID = 64
_KEPT_US = 24 * 3600 * 1_000_000

Response = TypeVar("Response", bound=Message)


def requests_table(metadata: sa.MetaData) -> sa.Table:
    """The table of answers kept for repeated requests; every service that creates things has one."""
    return sa.Table(
        "requests",
        metadata,
        sa.Column("method", text(64), primary_key=True),
        sa.Column("parent", text(256), primary_key=True),
        sa.Column("request_id", text(_MAX_REQUEST_ID), primary_key=True),
        sa.Column("request_sha256", text(64), nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
    )


async def kept(
    connection: AsyncConnection, requests: sa.Table, request: Any, response: type[Response]
) -> Response | None:
    """The answer that an equal request got within a day; None where there was none.

    InvalidArgument REQUEST_ID_REUSED where the id came with another body.
    """
    if not request.request_id:
        return None
    query = sa.select(requests).filter_by(**_key(request)).where(requests.c.create_time_us >= now_us() - _KEPT_US)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    if found.request_sha256 != _digest(request):
        raise InvalidArgument("request_id: was used for another request; make a new one", reason="REQUEST_ID_REUSED")
    return response.FromString(found.response)


async def once(
    connection: AsyncConnection,
    requests: sa.Table,
    request: Any,
    response: type[Response],
    effect: Callable[[], Awaitable[Response]],
) -> Response:
    """The effect's answer, kept under the request's `request_id`: a repeat within a day gets it again.

    In the transaction of the effect, so that both happen or neither. Equal requests at once wait for the first.
    """
    if request.request_id:
        await alone(connection, *_key(request).values())
    known = await kept(connection, requests, request, response)
    if known is not None:
        return known
    answer = await effect()
    if request.request_id:
        await connection.execute(sa.delete(requests).where(requests.c.create_time_us < now_us() - _KEPT_US))
        row = {"request_sha256": _digest(request), "response": answer.SerializeToString(), "create_time_us": now_us()}
        await connection.execute(sa.insert(requests).values(**_key(request), **row))
    return answer


def _key(request: Any) -> dict[str, str]:
    if len(request.request_id) > _MAX_REQUEST_ID or not request.request_id.isprintable():
        allowed = f"must be a UUID, or at most {_MAX_REQUEST_ID} printable characters"
        raise InvalidArgument.fields([("request_id", allowed)])
    # What is asked of a resource has its name, what makes a new one its parent's.
    parent = request.parent if "parent" in request.DESCRIPTOR.fields_by_name else request.name
    return {"method": type(request).__name__, "parent": parent, "request_id": request.request_id}


def _digest(request: Any) -> str:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
