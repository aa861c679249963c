"""Headless Chromium, driven over its debugging pipe, a folder as a web site for it, and Node."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it has none for root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-ui-for-media-stream",  # it says yes when a page asks for the camera
    "--use-fake-device-for-media-stream",
    "--remote-debugging-pipe",
)
SECONDS = 60
# It reads commands from 3, and writes answers to 4.
PIPED = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
for place, end in enumerate(ends, 3):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A page that is open."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._number, self._rest, self._session = 0, b"", ""

    def open(self, address: str) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.navigate", url=address)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """What the browser answers to a command of its protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._number:
            pass  # events
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to, awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits for a condition in JavaScript."""
        polled = f"for (;;) {{ if ({condition}) return; await new Promise((go) => setTimeout(go, 50)); }}"
        self.value(f"(async () => {{ {polled} }})()")

    def choose(self, selector: str, file: Path) -> None:
        """A file for an input, as a person chooses one."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def picture(self) -> bytes:
        """What it looks like, a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._answers.fileno(), 1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self._commands.close()
        self._answers.close()


@contextmanager
def browser(*flags: str) -> Iterator[Page]:
    """Skips the test where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium; .ci/servers installs it")
    inward, commands = os.pipe()
    answers, outward = os.pipe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as home:
        piped = [sys.executable, "-c", PIPED, str(inward), str(outward), program, f"--user-data-dir={home}/data"]
        surroundings = {"HOME": home, "PATH": os.environ["PATH"]}
        process = subprocess.Popen(
            [*piped, *FLAGS, *flags], env=surroundings, pass_fds=(inward, outward), stderr=subprocess.DEVNULL
        )
        os.close(inward)
        os.close(outward)
        # What waits for an answer sees the end of the pipe.
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        page = Page(commands, answers)
        try:
            yield page
        finally:
            limit.cancel()
            process.kill()
            process.wait()
            page.close()


def node(*arguments: object, data: bytes = b"", cwd: Path | None = None) -> bytes:
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no Node")
    done = subprocess.run(
        [program, *map(str, arguments)], input=data, capture_output=True, cwd=cwd, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its library's word
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


SHARP = Path.home() / ".cache" / "handful" / "sharp" / "node_modules"


def with_sharp(folder: Path) -> Path:
    """An unpacked export with what opens pictures in Node beside it; skips the test where that is not."""
    if not (SHARP / "sharp").is_dir():
        pytest.skip(f"there is no sharp in {SHARP}; .ci/servers brings it")
    (folder / "node_modules").symlink_to(SHARP)
    return folder


VENDOR = Path.home() / ".cache" / "handful" / "onnxruntime-web"


def with_vendor(folder: Path) -> Path:
    """An unpacked export with the files of ONNX Runtime Web beside it; skips the test where they are not."""
    told = json.loads((folder / "runtime.json").read_text())
    names = [told[kind]["name"] for kind in ("script", "wasm")]
    found = VENDOR / told["version"]
    if not all((found / name).is_file() for name in names):
        pytest.skip(f"there is no ONNX Runtime Web {told['version']} in {VENDOR}; .ci/servers brings it")
    (folder / "vendor").mkdir()
    for name in names:
        shutil.copy(found / name, folder / "vendor")
    return folder
