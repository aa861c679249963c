"""A real MinIO server on a free port over a folder: started, stopped, frozen and started again at its address."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import urllib3

from handful.cli.stack import free_ports
from services.shared.objects import StoreSettings
from services.shared.objects.provision import ProvisionSettings, provision

BUCKET = "handful"
# (access key, secret key) of an administrator, of the services that write, and of the one that only reads.
ADMIN, WRITER, READER = ("admin", "admin-secret"), ("writer", "writer-secret"), ("reader", "reader-secret")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
INSTALLED = Path("~/.cache/handful/bin/minio")


def find_minio() -> str:
    """The program; the test is skipped where there is none."""
    found = os.environ.get("HANDFUL_TEST_MINIO") or shutil.which("minio") or shutil.which(INSTALLED.expanduser())
    if found is None:
        pytest.skip("there is no MinIO server here: run .ci/servers, or set HANDFUL_TEST_MINIO to the program")
    return found


@dataclass
class MinioServer:
    """A server over a folder, or over so many megabytes in memory. Use it as a context."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    certificates: Path | None = None
    megabytes: int | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    def settings(self, keys: tuple[str, str] = WRITER, prefix: str = "", seconds: float = 10.0) -> StoreSettings:
        """What a service is told that uses this server with these keys."""
        return StoreSettings(
            store=f"s3://{BUCKET}/{prefix}",
            store_seconds=seconds,
            s3_endpoint=self.endpoint,
            s3_access_key=keys[0],
            s3_secret_key=keys[1],
        )

    def environment(self, keys: tuple[str, str] = WRITER, prefix: str = "") -> dict[str, str]:
        """The same as variables."""
        return {
            "HANDFUL_STORE": f"s3://{BUCKET}/{prefix}",
            "HANDFUL_S3_ENDPOINT": self.endpoint,
            "HANDFUL_S3_ACCESS_KEY": keys[0],
            "HANDFUL_S3_SECRET_KEY": keys[1],
        }

    def provision(self) -> None:
        """The bucket and the two identities, as a deployment gets them."""
        provision(ProvisionSettings(*WRITER, *READER, store=self.settings(ADMIN)))

    def files(self, key: str) -> list[Path]:
        """Where the object lies on the server's disk."""
        return [path for path in (self.folder / BUCKET / key).rglob("*") if path.is_file()]

    def unfinished(self) -> list[Path]:
        """Parts of objects that were never put together, on the disk that the server sees."""
        assert self._process is not None
        disk = Path(f"/proc/{self._process.pid}/root{self.folder}")
        return list((disk / ".minio.sys" / "multipart").rglob("part.*"))

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command: list[str | Path] = [*self._on_small_disk(), find_minio(), "server", self.folder]
        command += ["--address", f"127.0.0.1:{self.port}", "--quiet"]
        if self.certificates:
            command += ["--certs-dir", self.certificates]
        environment = {"MINIO_ROOT_USER": ADMIN[0], "MINIO_ROOT_PASSWORD": ADMIN[1]}
        environment |= {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "HOME": str(self.folder)}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(signal_number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections, and says nothing more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def _on_small_disk(self) -> list[str]:
        """A disk of its own, which only it sees and which is gone with it."""
        if self.megabytes is None:
            return []
        own = ["unshare", "--map-root-user", "--mount"]
        mount = f"mount -t tmpfs -o size={self.megabytes}m tmpfs '{self.folder}'"
        if subprocess.run([*own, "sh", "-c", mount], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount a small disk")
        return [*own, "sh", "-c", f'{mount} && exec "$@"', "sh"]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        ends = time.monotonic() + START_SECONDS
        authority = str(self.certificates / "public.crt") if self.certificates else None
        with urllib3.PoolManager(retries=False, ca_certs=authority) as http:
            while time.monotonic() < ends:
                assert process.poll() is None, f"MinIO ended with {process.returncode}"
                try:
                    if http.request("GET", f"{self.endpoint}/minio/health/ready", timeout=2.0).status == 200:
                        return
                except urllib3.exceptions.HTTPError:
                    pass
                time.sleep(0.05)
        raise TimeoutError("MinIO did not start")
