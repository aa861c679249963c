"""A file from its official source: over HTTPS, with limits of size and time, and of the one SHA-256 that is wanted.

It knows no weights and no store: an address, a hash, a file to write.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedRandom
from typing import Any

CHUNK_BYTES = 1024 * 1024
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PARTIAL = 206


class NotDownloaded(Exception):
    """The file could not be had; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Limits:
    """`silent_seconds` without a byte break a connection off; what is not whole after `total_seconds` is given up."""

    silent_seconds: float = 15.0
    total_seconds: float = 3600.0


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(self, *given: Any) -> urllib.request.Request | None:
        check(given[-1])
        return super().redirect_request(*given)


def check(url: str) -> None:
    """NotDownloaded where the address is neither HTTPS nor this machine's own."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise NotDownloaded(f"{url} is no https address")


def download(
    url: str, sha256: str, max_bytes: int, into: BufferedRandom, step: Callable[[int], None], limits: Limits = Limits()
) -> None:
    """Writes the file of that SHA-256 into an empty file that can be read. A connection that breaks off is gone on with
    where it broke, a few times. NotDownloaded where the source has another file, or none, or does not answer.

    `step` gets the bytes so far, and may raise to stop.
    """
    check(url)
    ends = time.monotonic() + limits.total_seconds
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            _receive(url, max_bytes, into, step, limits, ends)
            break
        except (OSError, http.client.HTTPException) as problem:
            if not _may_pass(problem) or attempt == ATTEMPTS - 1 or time.monotonic() > ends:
                raise NotDownloaded(f"{url} gave no file: {_why(problem)}") from problem
    into.seek(0)
    found = hashlib.file_digest(into, "sha256").hexdigest()
    if found != sha256:
        raise NotDownloaded(f"{url} gave another file: its SHA-256 is {found}, not {sha256}")


def _receive(
    url: str, max_bytes: int, into: BufferedRandom, step: Callable[[int], None], limits: Limits, ends: float
) -> None:
    have = into.seek(0, 2)
    headers = {"User-Agent": "handful"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above, and redirects as well
    with urllib.request.build_opener(_Redirects).open(request, timeout=limits.silent_seconds) as answer:
        if answer.status != _PARTIAL or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = into.truncate(0)
            into.seek(0)
        length = answer.headers.get("Content-Length")
        whole = have + int(length) if length else None
        while True:
            if max(have, whole or 0) > max_bytes:
                raise NotDownloaded(f"{url} gave more than the {max_bytes} bytes that the file has")
            if time.monotonic() > ends:
                raise TimeoutError("it takes too long")
            chunk = answer.read1(CHUNK_BYTES)
            if not chunk:
                break
            into.write(chunk)
            have += len(chunk)
            step(have)
    if whole is not None and have < whole:
        raise ConnectionError(f"it broke off after {have} of {whole} bytes")


def _may_pass(problem: Exception) -> bool:
    # A source that says no, says it again.
    return not (isinstance(problem, urllib.error.HTTPError) and problem.code < http.HTTPStatus.INTERNAL_SERVER_ERROR)


def _why(problem: Exception) -> str:
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP status {problem.code}"
    if isinstance(problem, urllib.error.URLError):
        return str(problem.reason)
    return str(problem) or type(problem).__name__
