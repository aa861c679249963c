"""Keyset pages: a token holds the sort key of the last row and a hash of what was asked, nothing else."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from handful.errors import InvalidArgument

DEFAULT_SIZE = 50
MAX_SIZE = 1000

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page:
    """What a list request asks for: rows after the one whose sort key is `before`, `limit` of them to be read."""

    question: str
    size: int
    before: list[Any] | None

    @classmethod
    def of(cls, request: Any, kinds: list[type]) -> "Page":
        """The page that a request with `parent`, `page_size` and `page_token` asks for; `kinds` are the sort key's."""
        if request.page_size < 0:
            raise InvalidArgument.fields([("page_size", "must not be negative")])
        question = hashlib.sha256(f"{type(request).__name__} {request.parent}".encode()).hexdigest()[:16]
        return cls(
            question, min(request.page_size or DEFAULT_SIZE, MAX_SIZE), _read(question, request.page_token, kinds)
        )

    @property
    def limit(self) -> int:
        """One row more than the page has: whether it is there says whether a page follows."""
        return self.size + 1

    def cut(self, rows: Sequence[Row], key: Callable[[Row], list[Any]]) -> tuple[Sequence[Row], str]:
        """The page's rows and the token of the next page."""
        if len(rows) <= self.size:
            return rows, ""
        page = rows[: self.size]
        return page, base64.urlsafe_b64encode(json.dumps([self.question, *key(page[-1])]).encode()).decode()


def _read(question: str, token: str, kinds: list[type]) -> list[Any] | None:
    if not token:
        return None
    foreign = InvalidArgument.fields([("page_token", "is not a token of ours")])
    try:
        asked, *parts = _list(json.loads(base64.urlsafe_b64decode(token)))
    except (ValueError, TypeError, RecursionError):
        raise foreign from None
    if asked != question:
        raise InvalidArgument(
            "page_token: belongs to another list; begin again without it", reason="PAGE_TOKEN_MISMATCH"
        )
    if [type(part) for part in parts] != kinds or not all(map(_comparable, parts)):
        raise foreign
    return parts


def _comparable(part: Any) -> bool:
    # What every database can compare with: ids and counts.
    return part.isascii() and part.isprintable() if isinstance(part, str) else 0 <= part < 1 << 63


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
