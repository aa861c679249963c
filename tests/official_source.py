"""An official source of weights on this machine: a web server that gives files well, badly, or not at all."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from handful.cli.stack import free_ports
from services.trainer.architectures import ArchitectureRow
from services.trainer.worker.pretrained import offered

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Source:
    """What it answers, by path, and what it was asked: (path, range)."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def gives(self, name: str, answer: Answer) -> str:
        """The address of a file that is answered so from now on."""
        self.answers[f"/models/{name}"] = answer
        return f"{self.address}/models/{name}"


@contextmanager
def running() -> Iterator[Source]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source.asked.append((self.path, self.headers.get("Range", "")))
            with suppress(OSError):  # nobody listens any more
                source.answers.get(self.path, status(404))(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    source = Source(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(data: bytes) -> Answer:
    """All of it."""
    return lambda request: _send(request, 200, data, {"Content-Length": str(len(data))})


def breaking(data: bytes, at: int, times: int = 1, *, ranges: bool = True) -> Answer:
    """Breaks off so many times after so many bytes; asked to go on it goes on, where it understands ranges."""
    left = [times]

    def answer(request: BaseHTTPRequestHandler) -> None:
        begins = int(request.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
        headers = {"Content-Length": str(len(data) - begins)}
        if begins:
            headers["Content-Range"] = f"bytes {begins}-{len(data) - 1}/{len(data)}"
        ends = len(data)
        if left[0]:
            left[0] -= 1
            ends = min(begins + at, len(data))
        _send(request, 206 if begins else 200, data[begins:ends], headers)
        request.close_connection = True

    return answer


def trickling(data: bytes, seconds: float) -> Answer:
    """A byte at a time."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        _send(request, 200, b"", {"Content-Length": str(len(data))})
        for position in range(len(data)):
            request.wfile.write(data[position : position + 1])
            time.sleep(seconds)

    return answer


def silent(seconds: float) -> Answer:
    """Takes the question and says nothing."""
    return lambda _: time.sleep(seconds)


def endless(data: bytes) -> Answer:
    """The same again and again, without saying how much is to come."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        _send(request, 200, b"", {})
        while True:
            request.wfile.write(data)

    return answer


def status(code: int) -> Answer:
    return lambda request: _send(request, code, b"", {"Content-Length": "0"})


def leading_to(address: str) -> Answer:
    return lambda request: _send(request, 302, b"", {"Location": address, "Content-Length": "0"})


def in_turn(*answers: Answer) -> Answer:
    """One after the other, then the last one always."""
    left = list(answers)

    def answer(request: BaseHTTPRequestHandler) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        now(request)

    return answer


def saved(what: object) -> bytes:
    """As torch saves it."""
    buffer = io.BytesIO()
    torch.save(what, buffer)
    return buffer.getvalue()


def pinned(row: ArchitectureRow, data: bytes, url: str) -> ArchitectureRow:
    """The row with these bytes as its official file."""
    sha256 = hashlib.sha256(data).hexdigest()
    weights = replace(offered(row), url=url, distribution="", path="", sha256=sha256, max_bytes=len(data))
    return replace(row, weights=weights)


def nobody() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def _send(request: BaseHTTPRequestHandler, code: int, data: bytes, headers: dict[str, str]) -> None:
    request.send_response(code)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)
