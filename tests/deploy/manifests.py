"""The manifests of deploy/k8s as a cluster would get them: rendered by kubectl, and their pods. It judges nothing."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]

KUBERNETES = Path(__file__).parents[2] / "deploy" / "k8s"
CLOUDS = ("gke", "eks", "aks", "yandex", "bare-metal")
OVERLAYS = ("dev", *CLOUDS)
# No overlay has all components: these together do, on GKE with GPUs, and on nodes of any cloud without.
COMPONENTS = ("keda", "kueue", "gateway", "external-secrets", "s3-silo", "postgres")
ASSEMBLED = {
    "everything": ("overlays/gke/nodes", "components/priority", "components/gpu-shared"),
    "light": ("components/worker-light", "components/priority"),
}

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")


@dataclass(frozen=True)
class Pod:
    """What one workload makes: its name, the labels of its pods, and their specification."""

    workload: str
    labels: dict[str, str]
    spec: dict[str, Any]


@functools.cache
def overlay(name: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay, or of the base with components that are assembled here."""
    if name not in ASSEMBLED:
        return tuple(_render(KUBERNETES / "overlays" / name))
    with tempfile.TemporaryDirectory() as folder:
        return tuple(_render(_assembled(Path(folder), name)))


def pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    """The pods of every workload, ScaledJobs included."""
    for manifest in manifests:
        name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
        if manifest["kind"] in {"Deployment", "StatefulSet", "Job"}:
            template = spec["template"]
        elif manifest["kind"] == "ScaledJob":
            template = spec["jobTargetRef"]["template"]
            name += "-job"
        else:
            continue
        yield Pod(name, template["metadata"]["labels"], template["spec"])


def of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def named(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name]
    return found


def _render(folder: Path) -> list[Manifest]:
    rendered = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, check=False)  # noqa: S607 - the one on this machine
    assert rendered.returncode == 0, rendered.stderr.decode()
    assert not rendered.stderr, rendered.stderr.decode()
    return list(yaml.safe_load_all(rendered.stdout))


def _assembled(folder: Path, name: str) -> Path:
    components = (*ASSEMBLED[name], *(f"components/{component}" for component in COMPONENTS))
    here = Path(os.path.relpath(KUBERNETES, folder.resolve()))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "handful",
        "resources": [str(here / "base")],
        "components": [str(here / component) for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder
