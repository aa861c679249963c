"""Pages: every row once, and tokens that work only for the question they answered."""

import base64
import json

import pytest

from handful.errors import InvalidArgument
from handful.v1.dataset_pb2 import ListDatasetsRequest, ListExamplesRequest
from services.shared.pages import DEFAULT_SIZE, MAX_SIZE, Page

PARENT = "projects/default"
ROWS = [(time, f"d{time % 7}") for time in range(130, 0, -1)]


def page_of(request: ListDatasetsRequest | ListExamplesRequest) -> Page:
    return Page.of(request, [int, str])


def read(page: Page) -> list[tuple[int, str]]:
    """What a database would give for the page."""
    return [row for row in ROWS if page.before is None or row < tuple(page.before)][: page.limit]


def token_of(request: ListDatasetsRequest | ListExamplesRequest) -> str:
    page = page_of(request)
    return page.cut(read(page), list)[1]


@pytest.mark.parametrize("size", [1, 7, 13, 65, 129, 130, 131, 1000])
def test_pages_give_every_row_once(size: int) -> None:
    """Following the tokens gives all rows in order, whatever the size, and the last page has no token."""
    seen: list[tuple[int, str]] = []
    request = ListDatasetsRequest(parent=PARENT, page_size=size)
    for _ in range(-(-len(ROWS) // size)):
        page = page_of(request)
        rows, request.page_token = page.cut(read(page), list)
        seen += rows
    assert (seen, request.page_token) == (ROWS, "")


@pytest.mark.parametrize(
    ("asked", "given"), [(0, DEFAULT_SIZE), (1, 1), (MAX_SIZE, MAX_SIZE), (MAX_SIZE + 1, MAX_SIZE), (10**9, MAX_SIZE)]
)
def test_sizes_are_coerced(asked: int, given: int) -> None:
    """No size means the default, and more than the largest means the largest."""
    assert page_of(ListDatasetsRequest(parent=PARENT, page_size=asked)).size == given


def test_a_negative_size_is_refused() -> None:
    """A negative size is an InvalidArgument that names it."""
    with pytest.raises(InvalidArgument) as refused:
        page_of(ListDatasetsRequest(parent=PARENT, page_size=-1))
    assert refused.value.violations[0][0] == "page_size"


@pytest.mark.parametrize(
    "other", [ListDatasetsRequest(parent="projects/other"), ListExamplesRequest(parent=PARENT), ListDatasetsRequest()]
)
def test_a_token_is_for_its_own_list(other: ListDatasetsRequest | ListExamplesRequest) -> None:
    """A token of another list, or of another parent's, is PAGE_TOKEN_MISMATCH."""
    other.page_token = token_of(ListDatasetsRequest(parent=PARENT))
    with pytest.raises(InvalidArgument) as refused:
        page_of(other)
    assert refused.value.reason == "PAGE_TOKEN_MISMATCH"


def test_a_token_allows_another_size() -> None:
    """The size may change from page to page."""
    token = token_of(ListDatasetsRequest(parent=PARENT, page_size=3))
    page = page_of(ListDatasetsRequest(parent=PARENT, page_size=5, page_token=token))
    assert page.cut(read(page), list)[0] == ROWS[3:8]


_QUESTION = json.loads(base64.urlsafe_b64decode(token_of(ListDatasetsRequest(parent=PARENT))))[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"7",
        b"\xff\xfe",
        b'"' + _QUESTION.encode(),
        json.dumps([_QUESTION]).encode(),
        json.dumps([_QUESTION, 1]).encode(),
        json.dumps([_QUESTION, "1", "d"]).encode(),
        json.dumps([_QUESTION, True, "d"]).encode(),
        json.dumps([_QUESTION, 1.5, "d"]).encode(),
        json.dumps([_QUESTION, 1, "d", "d"]).encode(),
        json.dumps([_QUESTION, 1, ["d"]]).encode(),
        b"[" * 200_000,
        b'["' + _QUESTION.encode() + b'", ' + b"9" * 5000 + b', "d"]',
    ],
    ids=range(16),
)
def test_forged_tokens_are_refused(content: bytes) -> None:
    """What no answer can have held is an InvalidArgument that names the token."""
    tokens = [base64.urlsafe_b64encode(content).decode() or "=", content.decode("latin-1") or "é"]
    for token in tokens:
        with pytest.raises(InvalidArgument) as refused:
            page_of(ListDatasetsRequest(parent=PARENT, page_token=token))
        assert refused.value.violations[0][0] == "page_token"
