"""The manifests before a real API server, and their pods before a real scheduler, where those are on the PATH."""

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.cluster import Cluster, running_cluster
from tests.deploy.custom_resources import SCHEMAS
from tests.deploy.manifests import ASSEMBLED, CLOUDS, OVERLAYS, Manifest, Pod, overlay, pods
from tests.deploy.nodes import TABLES, Node
from tests.deploy.placement import fits

SECONDS = 20.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as started:
        yield started


@pytest.fixture
def namespace(cluster: Cluster) -> None:
    """Our namespace, which enforces the restricted Pod Security Standard."""
    manifest = next(one for one in overlay("gke") if one["kind"] == "Namespace")
    cluster.kubectl("apply", "-f", "-", given=manifest)


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("name", [*OVERLAYS, *ASSEMBLED])
def test_an_api_server_takes_an_overlay(cluster: Cluster, name: str) -> None:
    """Applying an overlay on the server changes nothing there but is accepted whole, without a warning."""
    known = [one for one in overlay(name) if (one["apiVersion"], one["kind"]) not in SCHEMAS]
    listed = {"apiVersion": "v1", "kind": "List", "items": known}
    said = cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--warnings-as-errors", "-f", "-", given=listed
    )
    assert said.count("serverside-applied (server dry run)") == len(known)


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    "change", [{"runAsUser": 0}, {"allowPrivilegeEscalation": True}, {"capabilities": {"drop": []}}]
)
def test_a_pod_that_is_not_hardened_is_refused(cluster: Cluster, change: dict[str, Any]) -> None:
    """The namespace refuses a pod of ours as soon as it may do more."""
    pod = _pod(next(pods(overlay("gke"))))
    pod["spec"]["containers"][0]["securityContext"].update(change)
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        cluster.create(pod)


@pytest.mark.usefixtures("namespace")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_scheduler_places_pods_as_we_compute(cluster: Cluster, cloud: str) -> None:
    """Each pod is admitted, and bound to a node of the cloud exactly where our evaluator says that it fits."""
    for number, node in enumerate(TABLES[cloud]):
        name = f"{cloud}-{number}"
        _add(cluster, name, node)
        for pod in pods(overlay(cloud)):
            cluster.create(_pod(pod))
            bound = _decision(cluster, pod.workload)
            cluster.kubectl("delete", "pod", pod.workload, "-n", "handful", "--grace-period=0", "--force")
            assert bound is fits(pod.spec, node), (pod.workload, node.name)
        cluster.kubectl("delete", "node", name)


def _add(cluster: Cluster, name: str, node: Node) -> None:
    taints = [vars(taint) for taint in node.taints]
    metadata = {"name": name, "labels": node.labels}
    cluster.create({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}})
    room = {**node.allocatable, "pods": "110"}
    status = {"status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}}
    cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def _pod(pod: Pod) -> Manifest:
    spec = copy.deepcopy(pod.spec)
    if pod.workload in {"s3", "postgres"}:
        spec["volumes"].append({"name": "data", "emptyDir": {}})  # its claim, which nobody would bind here
    metadata = {"name": pod.workload, "namespace": "handful", "labels": pod.labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _decision(cluster: Cluster, pod: str) -> bool:
    """Whether the scheduler bound the pod or found that it cannot be."""
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        found = cluster.get("pod", pod)
        if "nodeName" in found["spec"]:
            return True
        if any(one.get("reason") == "Unschedulable" for one in found["status"].get("conditions", [])):
            return False
        time.sleep(0.05)
    raise AssertionError(f"the scheduler said nothing of {pod}")
