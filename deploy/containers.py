"""A container without an engine: a process that sees an image's paths, the interpreter and the system's libraries, and
nothing else: read-only but for /tmp and /cache, as user 10001, without capabilities. It does not know what runs in it.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from deploy.dockerfile import Target

USER = 10001
START_SECONDS, STOP_SECONDS = 120.0, 40.0
WRITABLE, READ_ONLY = ("/tmp", "/cache"), ("/", "/app", "/opt/venv")  # noqa: S108 - of the container
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/dev", "/proc", "/sys", sys.base_prefix)
_CLONE_NEWNET = 0x40000000
_CONFINE = """
set -eu
mount -t tmpfs tmpfs /mnt
for path in $SYSTEM; do
  mkdir -p "/mnt$path"; mount --rbind "$path" "/mnt$path"; mount -o remount,bind,ro "/mnt$path"
done
for path in /opt/venv /app; do
  mkdir -p "/mnt$path"; mount --bind "$IMAGE$path" "/mnt$path"; mount -o remount,bind,ro "/mnt$path"
done
mkdir /mnt/tmp /mnt/cache; mount --bind "$IMAGE/tmp" /mnt/tmp; mount --bind "$CACHE" /mnt/cache
mount --bind "$IMAGE/hosts" /mnt/etc/hosts
mount -o remount,ro /mnt
exec chroot /mnt /usr/bin/setpriv --reuid=$RUN_AS --regid=$RUN_AS --clear-groups --no-new-privs --bounding-set=-all \\
  --inh-caps=-all /usr/bin/env --chdir=/app "$@"
"""


@dataclass
class Container:
    """A service that runs from its image, which lies in a folder as `opt/venv` and `app`; `cache` is its /cache."""

    image: Target
    folder: Path
    cache: Path
    settings: dict[str, str] = field(default_factory=dict)

    def prepare(self, hosts: tuple[str, ...]) -> None:
        """Makes what an engine would: folders to write to, and names that all mean this machine."""
        for path in (self.folder / "tmp", self.cache):
            path.mkdir(exist_ok=True)
            os.chown(path, USER, USER)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(hosts)}\n")

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A command in the container, with the image's variables and the settings, and no others."""
        variables = {**self.image.environment, **self.settings, "PATH": "/opt/venv/bin:/usr/bin:/bin"}
        arguments = ["-i", *(f"{name}={value}" for name, value in variables.items()), *command]
        places = {"SYSTEM": " ".join(_SYSTEM), "IMAGE": str(self.folder), "CACHE": str(self.cache), "RUN_AS": str(USER)}
        confine = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _CONFINE, "sh"]
        with (self.folder / "log").open("ab") as log:
            environment = {"PATH": os.environ["PATH"], **places}
            return subprocess.Popen([*confine, *arguments], env=environment, stdout=log, stderr=log)

    def succeeds(self, *command: str) -> bool:
        return self.start(list(command)).wait() == 0

    @contextlib.contextmanager
    def serving(self) -> Iterator[list[float]]:
        """From the first healthy answer to a SIGTERM, which must end the service with exit code 0.

        The list gets the seconds that the one and the other took.
        """
        started, process = time.monotonic(), self.start(self.image.command)
        try:
            while not self.succeeds(*self.image.probe):
                if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                    self.fail(f"not healthy (exit code {process.poll()})")
            seconds = [time.monotonic() - started]
            yield seconds
            stopping = time.monotonic()
            process.terminate()
            if process.wait(STOP_SECONDS) != 0:
                self.fail(f"ended with exit code {process.returncode} on SIGTERM")
            seconds.append(time.monotonic() - stopping)
        finally:
            process.kill()
            process.wait()

    def check_confined(self) -> None:
        """Fails where the container may not write to /tmp and /cache, or may write elsewhere."""
        for folder in (*WRITABLE, *READ_ONLY):
            if self.succeeds("python", "-c", f"open('{folder}/x', 'w')") is not (folder in WRITABLE):
                self.fail(f"{folder} is {'not ' if folder in WRITABLE else ''}writable")

    def fail(self, problem: str) -> NoReturn:
        print((self.folder / "log").read_text(errors="replace"), file=sys.stderr)
        raise SystemExit(f"{self.image.name}: {problem}")


def leave_the_network() -> None:
    """This process and its children have a network of their own from here on, which reaches nothing else."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607 - iproute2's
