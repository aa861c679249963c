"""Plain calls: with a time limit, and pages that follow one another."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

UNARY_SECONDS = 30.0
PAGE_SIZE = 200

Row = TypeVar("Row")


def call(method: Any, request: Any) -> Any:
    """What a unary method answers."""
    return method(request, timeout=UNARY_SECONDS)


def pages(method: Any, request: Any, rows: Callable[[Any], Iterable[Row]]) -> Iterator[Row]:
    """The rows of all pages, each asked for when it is come to."""
    request.page_size = PAGE_SIZE
    while True:
        page = call(method, request)
        yield from rows(page)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def new_request_id() -> str:
    """What makes a call safe to repeat."""
    return str(uuid.uuid4())
