"""A Kubernetes without nodes: a real API server and a real scheduler, from programs that are on the PATH. Nodes are
objects that the test writes, so pods are placed, and never run. It knows nothing of our manifests.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import Manifest

PROGRAMS = ("etcd", "kube-apiserver", "kube-scheduler", "kubectl")
START_SECONDS = 90.0
PORT = 26443
TOKEN = "0123456789abcdef"  # noqa: S105 - of a server that lives as long as the tests
# Controllers that would serve these two are not here.
ADMISSION = "ServiceAccount,TaintNodesByCondition"


@dataclass(frozen=True)
class Cluster:
    """What kubectl needs to reach it."""

    config: Path

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """The output of kubectl; what is given goes in as JSON."""
        command = ["kubectl", "--kubeconfig", str(self.config), *arguments]
        stdin = None if given is None else json.dumps(given).encode()
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def create(self, *manifests: Manifest) -> None:
        self.kubectl("create", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": list(manifests)})

    def get(self, kind: str, name: str = "", namespace: str = "handful") -> Any:
        arguments = [kind, name] if name else [kind]
        return json.loads(self.kubectl("get", *arguments, "-n", namespace, "-o", "json"))


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster for as long as the block runs; skips the test where a program is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not on the PATH: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="handful-cluster-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        config = _write_config(folder)
        for command in _commands(folder, config):
            log = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            stack.enter_context(_started(command, log))
            if command[0] == "kube-apiserver":
                _wait(Cluster(config), folder / "kube-apiserver.log")
        yield Cluster(config)


def _commands(folder: Path, config: Path) -> list[list[str]]:
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)  # noqa: S607
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    etcd, peers = "http://127.0.0.1:23790", "http://127.0.0.1:23800"
    store = {
        "data-dir": folder / "etcd",
        "listen-client-urls": etcd,
        "advertise-client-urls": etcd,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"default={peers}",
    }
    server = {
        "etcd-servers": etcd,
        "bind-address": "127.0.0.1",
        "secure-port": PORT,
        "cert-dir": folder / "certificates",
        "token-auth-file": folder / "tokens.csv",
        "authorization-mode": "AlwaysAllow",
        "service-account-issuer": "https://handful.test",
        "service-account-signing-key-file": key,
        "service-account-key-file": key,
        "disable-admission-plugins": ADMISSION,
    }
    scheduler = {"kubeconfig": config, "leader-elect": "false", "secure-port": 0}
    settings = {"etcd": store, "kube-apiserver": server, "kube-scheduler": scheduler}
    return [[program, *(f"--{name}={value}" for name, value in given.items())] for program, given in settings.items()]


def _write_config(folder: Path) -> Path:
    cluster = {"server": f"https://127.0.0.1:{PORT}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    (folder / "config").write_text(json.dumps(config))
    return folder / "config"


@contextlib.contextmanager
def _started(command: list[str], log: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait(cluster: Cluster, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            cluster.kubectl("get", "--raw", "/readyz")
        except AssertionError:
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.5)
        else:
            return
