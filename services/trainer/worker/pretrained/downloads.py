"""A file from its official source: over HTTPS, with limits of size and time, and of the one SHA-256 that is wanted.

It knows no weights and no store: an address, a hash, a file to write.
"""

import hashlib
import http.client
import socket
import ssl
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
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NotDownloaded(Exception):
    """The file could not be had; the message says why, as the end of a sentence."""


class _BrokenOff(OSError):
    """A transfer ended before its end."""


@dataclass(frozen=True)
class Limits:
    """`silent_seconds` without a byte break a connection off; what is not whole after `total_seconds` is given up.
    `pause_seconds` lie between two attempts.
    """

    silent_seconds: float = 15.0
    total_seconds: float = 3600.0
    pause_seconds: float = 1.0


_PATIENCE = Limits()


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(self, *given: Any) -> urllib.request.Request | None:
        before, after = given[0].full_url, given[-1]
        check(after)
        if before.startswith("https:") and not after.startswith("https:"):
            raise NotDownloaded(f"{before} leads to {after}, which is no https address")
        return super().redirect_request(*given)


def check(url: str) -> None:
    """NotDownloaded where the address is neither HTTPS nor this machine's own."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise NotDownloaded(f"{url} is no https address")


def download(
    url: str, sha256: str, max_bytes: int, into: BufferedRandom, step: Callable[[int], None], limits: Limits = _PATIENCE
) -> None:
    """Writes the file of that SHA-256 into an empty file that can be read. A connection that breaks off is gone on with
    where it broke, a few times. NotDownloaded where the source has another file, or none, or does not answer.

    `step` gets the bytes so far, and may raise to stop.
    """
    check(url)
    ends = time.monotonic() + limits.total_seconds
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(limits.pause_seconds)
        try:
            _receive(url, max_bytes, into, step, limits, ends)
            break
        except (OSError, http.client.HTTPException) as problem:
            if not _may_pass(problem) or attempt == ATTEMPTS - 1:
                raise NotDownloaded(f"{url} gave no file: {_why(problem)}") from problem
    into.seek(0)
    found = hashlib.file_digest(into, "sha256").hexdigest()
    if found != sha256:
        raise NotDownloaded(f"{url} gave another file: its SHA-256 is {found}, not {sha256}")


def _receive(
    url: str, max_bytes: int, into: BufferedRandom, step: Callable[[int], None], limits: Limits, ends: float
) -> None:
    have = into.seek(0, 2)
    with _open(url, have, limits) as answer:
        if have and not _goes_on(answer, have):
            have = into.truncate(0)
            into.seek(0)
        length = answer.headers.get("Content-Length", "")
        whole = have + int(length) if length.isdecimal() else 0
        while True:
            if max(have, whole) > max_bytes:
                raise NotDownloaded(f"{url} gave more than the {max_bytes} bytes that the file has")
            if time.monotonic() > ends:
                raise NotDownloaded(f"{url} gave {have} bytes in {limits.total_seconds:.0f} s, which is too slow")
            chunk = answer.read1(CHUNK_BYTES)
            if not chunk:
                break
            _write(into, chunk)
            have += len(chunk)
            step(have)
    if have < whole:
        raise _BrokenOff(f"it broke off after {have} of {whole} bytes")


def _open(url: str, have: int, limits: Limits) -> Any:
    headers = {"User-Agent": "handful"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked before, and redirects as well
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=limits.silent_seconds)
    except urllib.error.HTTPError as refused:
        refused.close()
        raise


def _goes_on(answer: Any, have: int) -> bool:
    given = str(answer.headers.get("Content-Range", ""))
    return answer.status == http.HTTPStatus.PARTIAL_CONTENT and given.startswith(f"bytes {have}-")


def _write(into: BufferedRandom, chunk: bytes) -> None:
    try:
        into.write(chunk)
    except OSError as problem:
        raise NotDownloaded(f"the file cannot be written here: {problem.strerror}") from problem


def _may_pass(problem: Exception) -> bool:
    # A source that says no, says it again.
    return not (isinstance(problem, urllib.error.HTTPError) and problem.code < http.HTTPStatus.INTERNAL_SERVER_ERROR)


def _why(problem: Exception) -> str:
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP status {problem.code}"
    if isinstance(problem, _BrokenOff):
        return str(problem)
    reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
    if isinstance(reason, socket.gaierror):
        return "no address is known for its name (is there a network?)"
    if isinstance(reason, ssl.SSLError):
        return "its certificate is not trusted"
    return f"it cannot be reached ({type(reason).__name__})"
