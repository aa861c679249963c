"""Where pods go: workers with torch to nodes with a GPU, everything else to nodes without, in every cloud."""

from typing import Any

import pytest

from tests.deploy.manifests import CLOUDS, needs_kubectl, overlay, pods
from tests.deploy.nodes import LAPTOP, TABLES, WORKSTATION, Node, Taint
from tests.deploy.placement import fits


def places(cloud: str, workload: str, spec: dict[str, Any]) -> dict[str, bool]:
    """The nodes of a cloud that a workload's pods may run on, and whether each has a GPU."""
    found = {node.name: node.gpu for node in TABLES[cloud] if fits(spec, node)}
    assert found, f"{workload} fits nowhere in {cloud}"
    return found


@needs_kubectl
@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_run_on_gpu_nodes_alone(cloud: str) -> None:
    """The warm worker and the Jobs fit the GPU pool that the guide makes, and no node without a GPU."""
    workers = {pod.workload: pod.spec for pod in pods(overlay(cloud)) if pod.labels.get("role") == "worker"}
    assert workers.keys() == {"trainer-worker", "trainer-worker-job"}
    for workload, spec in workers.items():
        assert all(places(cloud, workload, spec).values())


@needs_kubectl
@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_else_runs_on_gpu_nodes(cloud: str) -> None:
    """Services, databases and one-shot Jobs fit nodes without a GPU, and none with one, tainted or not."""
    others = [pod for pod in pods(overlay(cloud)) if pod.labels.get("role") != "worker"]
    assert {pod.workload for pod in others} >= {"dataset", "trainer", "inference"}
    for pod in others:
        assert not any(places(cloud, pod.workload, pod.spec).values()), pod.workload


@needs_kubectl
@pytest.mark.parametrize("cloud", CLOUDS)
def test_light_workers_need_no_gpu(cloud: str) -> None:
    """With the component `worker-light` workers run on nodes without a GPU in every cloud, and take none with one."""
    workers = [pod for pod in pods(overlay("light")) if pod.labels.get("role") == "worker"]
    assert {pod.workload for pod in workers} == {"trainer-worker", "trainer-worker-job"}
    for pod in workers:
        assert not any(places(cloud, pod.workload, pod.spec).values())
        assert [container["image"] for container in pod.spec["containers"]] == ["handful/worker-light"]


@needs_kubectl
def test_development_needs_one_machine() -> None:
    """Everything fits on a laptop without a GPU, and on a workstation with one, at the same time."""
    everyone = list(pods(overlay("dev")))
    assert all(fits(pod.spec, node) for pod in everyone for node in (LAPTOP, WORKSTATION))


@pytest.mark.parametrize(
    ("spec", "node", "fit"),
    [
        ({}, Node("plain", gpu=False), True),
        ({}, Node("tainted", gpu=False, taints=(Taint("a", "b"),)), False),
        ({"tolerations": [{"key": "a", "operator": "Exists"}]}, Node("", gpu=False, taints=(Taint("a", "b"),)), True),
        ({"tolerations": [{"key": "a", "value": "c"}]}, Node("", gpu=False, taints=(Taint("a", "b"),)), False),
        (
            {"tolerations": [{"operator": "Exists"}]},
            Node("", gpu=False, taints=(Taint("a", effect="NoExecute"),)),
            True,
        ),
        ({"nodeSelector": {"a": "b"}}, Node("", gpu=False, labels={"a": "b"}), True),
        ({"nodeSelector": {"a": "b"}}, Node("", gpu=False, labels={"a": "c"}), False),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}, Node("", gpu=False), False),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}, Node("", gpu=True), True),
        ({"containers": [{"resources": {"requests": {"memory": "26Gi"}}}] * 2}, Node("", gpu=True), False),
    ],
)
def test_pods_are_judged_as_the_scheduler_does(spec: dict[str, Any], node: Node, fit: object) -> None:
    """Selectors, taints and the sum of requests decide whether a pod fits a node."""
    assert fits({"containers": [], **spec}, node) is fit
