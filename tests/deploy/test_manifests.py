"""What the manifests say: accepted by every supported Kubernetes, consistent in themselves, hardened."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from deploy.dockerfile import images
from services.shared.server import Limits
from tests.deploy.custom_resources import SCHEMAS
from tests.deploy.manifests import ASSEMBLED, CLOUDS, OVERLAYS, Manifest, named, needs_kubectl, of_kind, overlay, pods

pytestmark = needs_kubectl

VERSIONS = ("1.34", "1.35", "1.36", "1.37")
ALL = (*OVERLAYS, *ASSEMBLED)
# What people write; the schemas of Kubernetes take any text.
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def values(node: Any, key: str) -> Iterator[Any]:
    """Every value that stands under a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, key)


def different(name: str) -> list[Manifest]:
    """The manifests of an overlay that are not the same in one before it; a ScaledJob as the Job that KEDA makes."""
    before = [manifest for other in ALL[: ALL.index(name)] for manifest in overlay(other)]
    new = [manifest for manifest in overlay(name) if manifest not in before]
    return [_job(manifest) if manifest["kind"] == "ScaledJob" else manifest for manifest in new]


def _job(scaled_job: Manifest) -> Manifest:
    target = scaled_job["spec"]["jobTargetRef"]
    # KEDA fills the restart policy in.
    template = {**target["template"], "spec": {**target["template"]["spec"], "restartPolicy": "OnFailure"}}
    spec = {**target, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_kubernetes_accepts_every_manifest(name: str, version: str) -> None:
    """Strict validation by the schemas of a Kubernetes version finds no unknown field and no wrong type."""
    for manifest in different(name):
        if (manifest["apiVersion"], manifest["kind"]) not in SCHEMAS:
            assert kubernetes_validate.validate(manifest, version, strict=True) == version


@pytest.mark.parametrize("name", ALL)
def test_custom_resources_are_well_formed(name: str) -> None:
    """What KEDA, Kueue, the Gateway API and External Secrets define has only fields they have, of their types."""
    for manifest in overlay(name):
        schema = SCHEMAS.get((manifest["apiVersion"], manifest["kind"]))
        if schema is not None:
            jsonschema.validate(manifest.get("spec", {}), schema)


@pytest.mark.parametrize("name", ALL)
def test_quantities_are_quantities(name: str) -> None:
    """Every amount is a number with a unit that Kubernetes knows, and no request is above its limit."""
    for manifest in overlay(name):
        amounts = [*values(manifest, "sizeLimit"), *values(manifest, "nominalQuota"), *values(manifest, "storage")]
        for block in (*values(manifest, "requests"), *values(manifest, "limits")):
            amounts += block.values()
        for amount in amounts:
            assert QUANTITY.fullmatch(str(amount)), (manifest["metadata"]["name"], amount)


@pytest.mark.parametrize("name", ALL)
def test_selectors_find_their_pods(name: str) -> None:
    """Workloads, services, budgets and spreads select exactly the pods of one workload, and ports exist there."""
    manifests = overlay(name)
    everyone = list(pods(manifests))

    def selected(labels: dict[str, str]) -> list[str]:
        return [pod.workload for pod in everyone if labels.items() <= pod.labels.items()]

    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        for manifest in of_kind(manifests, kind):
            assert selected(manifest["spec"]["selector"]["matchLabels"]) == [manifest["metadata"]["name"]]
    for service in of_kind(manifests, "Service"):
        (owner,) = selected(service["spec"]["selector"])
        spec = next(pod.spec for pod in everyone if pod.workload == owner)
        ports = {port["containerPort"] for port in spec["containers"][0]["ports"]}
        assert {port["port"] for port in service["spec"]["ports"]} <= ports
    for pod in everyone:
        for spread in pod.spec.get("topologySpreadConstraints", []):
            assert selected(spread["labelSelector"]["matchLabels"]) == [pod.workload]


@pytest.mark.parametrize("name", ALL)
def test_volumes_and_secrets_are_there(name: str) -> None:
    """Every mount has its volume and every volume a mount; what is made here is referred to by the name it got."""
    manifests = overlay(name)
    made = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] in {"ConfigMap", "Secret"}}
    generated = {name.rsplit("-", 1)[0] for name in made}
    for pod in pods(manifests):
        claims = {"data"} if pod.workload in {"s3", "postgres"} else set()
        mounts = {mount["name"] for container in pod.spec["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod.spec["volumes"]} | claims
        for key in ("configMapRef", "secretRef", "configMap", "secretKeyRef"):
            for reference in values(pod.spec, key):
                assert reference["name"] in made or reference["name"] not in generated


@pytest.mark.parametrize("name", [*CLOUDS, *ASSEMBLED])
def test_a_job_is_the_warm_worker_over_again(name: str) -> None:
    """The pods of KEDA's Jobs are specified as the Deployment's, nodes, names with hashes and image included."""
    specs = {pod.workload: pod.spec for pod in pods(overlay(name))}
    assert specs["trainer-worker-job"] == specs["trainer-worker"]


@pytest.mark.parametrize("name", ALL)
def test_every_pod_is_hardened(name: str) -> None:
    """Every container of every pod runs as a user, on a read-only file system, without privilege, token or host."""
    for pod in pods(overlay(name)):
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod.spec)
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.spec["containers"], *pod.spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
        assert not any("hostPath" in volume for volume in pod.spec["volumes"])


@pytest.mark.parametrize("name", ALL)
def test_the_namespace_refuses_what_is_not_hardened(name: str) -> None:
    """The namespace enforces the restricted Pod Security Standard, and everything namespaced is in it."""
    manifests = overlay(name)
    labels = named(manifests, "Namespace", "handful")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    unbound = {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor"}
    assert all(
        manifest["metadata"]["namespace"] == "handful" for manifest in manifests if manifest["kind"] not in unbound
    )


@pytest.mark.parametrize("name", ALL)
def test_passwords_are_in_the_development_overlay_alone(name: str) -> None:
    """No overlay that is meant for others carries a secret."""
    assert bool(of_kind(overlay(name), "Secret")) == (name == "dev")


@pytest.mark.parametrize("name", ALL)
def test_images_are_pinned(name: str) -> None:
    """What we do not build is pinned by digest; what we build has the overlay's tag."""
    for pod in pods(overlay(name)):
        for container in pod.spec["containers"]:
            ours = "handful/" in container["image"] or "REGISTRY" in container["image"]
            pattern = r"[^@]+" if ours else r"[^@]+:[^@]+@sha256:[0-9a-f]{64}"
            assert re.fullmatch(pattern, container["image"]), container["image"]


def test_a_service_of_products_drains_before_it_goes() -> None:
    """A pod that callers reach is taken off their lists, gets time to drain, and is alive while it does."""
    for name in ("dataset", "trainer", "inference"):
        spec = named(overlay("gke"), "Deployment", name)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["readinessProbe"]["grpc"]["service"] == "ready"
        assert "service" not in container["livenessProbe"]["grpc"]
        # The trainer drains two servers, one after the other.
        drain = container["lifecycle"]["preStop"]["sleep"]["seconds"] + 2 * Limits().drain_seconds
        assert spec["terminationGracePeriodSeconds"] > drain


@pytest.mark.parametrize("name", ["dataset", "trainer", "inference"])
def test_prometheus_is_told_where_metrics_are(name: str) -> None:
    """The port in a pod's annotation is one of its container's, and the one that its image listens on."""
    template = named(overlay("gke"), "Deployment", name)["spec"]["template"]
    told = template["metadata"]["annotations"]
    ports = {port["name"]: str(port["containerPort"]) for port in template["spec"]["containers"][0]["ports"]}
    address = images()[name].environment[f"HANDFUL_{name.upper()}_METRICS_ADDRESS"]
    assert told == {"prometheus.io/scrape": "true", "prometheus.io/port": ports["metrics"]}
    assert address == f"0.0.0.0:{ports['metrics']}"
