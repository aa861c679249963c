"""What the network lets through: the flows of the architecture, and nothing else."""

import pytest

from tests.deploy.flows import Peer, allowed
from tests.deploy.manifests import ASSEMBLED, OVERLAYS, Manifest, named, needs_kubectl, overlay, pods

PORTS = (53, 80, 443, 5432, 6432, 7101, 7102, 7103, 7112, 7113, 7121, 7122, 7123, 9000)
OUTSIDE = (
    Peer("product", {"app": "shop"}, {"handful.dev/client": "true"}),
    Peer("stranger", {"app": "trainer", "role": "api"}, {"kubernetes.io/metadata.name": "other"}),
    Peer("prometheus", {"app": "prometheus"}, {"handful.dev/metrics": "true"}),
    Peer("keda", {"app": "keda-operator"}, {"kubernetes.io/metadata.name": "keda"}),
    Peer("dns", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
    Peer("internet", address="203.0.113.7"),
    Peer("cloud metadata", address="169.254.169.254"),
    Peer("managed postgres", address="10.128.0.7"),
    Peer("another machine", address="192.168.1.7"),
)
Flow = tuple[str, str, int]


def everyone(manifests: tuple[Manifest, ...]) -> tuple[dict[str, str], list[Peer]]:
    """The labels of our namespace, and all there is inside it and outside."""
    namespace = named(manifests, "Namespace", "handful")["metadata"]["labels"]
    inside = {**namespace, "kubernetes.io/metadata.name": "handful"}
    return inside, [*OUTSIDE, *(Peer(pod.workload, pod.labels, inside) for pod in pods(manifests))]


def expected(name: str, peers: list[Peer]) -> set[Flow]:
    """The flows of the architecture, with the store and the database where the overlay has them."""
    workloads = {peer.name for peer in peers if not peer.address and peer not in OUTSIDE}
    workers = workloads & {"trainer-worker", "trainer-worker-job"}
    services = {"dataset": 7101, "trainer": 7102, "inference": 7103}
    store = ("s3", 9000) if "s3" in workloads else ("internet", 443)
    sql = ("postgres", 5432) if "postgres" in workloads else ("managed postgres", 6432 if name == "yandex" else 5432)
    flows = {("product", service, port) for service, port in services.items()}
    flows |= {("prometheus", service, port) for service in services for port in (7121, 7122, 7123)}
    flows |= {("trainer", "dataset", 7101)}
    flows |= {(worker, "trainer", 7112) for worker in workers}
    flows |= {(workload, *store) for workload in (*services, *workers, *workloads & {"s3-provision"})}
    flows |= {(service, *sql) for service in ("dataset", "trainer")}
    flows |= {(workload, "dns", 53) for workload in workloads}
    if "postgres" in workloads:
        flows |= {("keda", "postgres", 5432)}
    return flows


@needs_kubectl
@pytest.mark.parametrize("name", [*OVERLAYS, *ASSEMBLED])
def test_only_the_flows_of_the_architecture_pass(name: str) -> None:
    """Of all connections between all pods and the world exactly the wanted ones can be made."""
    manifests = overlay(name)
    inside, peers = everyone(manifests)
    ours = [peer for peer in peers if peer.namespace == inside]
    possible = [(source, target) for source in peers for target in peers if source in ours or target in ours]
    passing = {
        (source.name, target.name, port)
        for source, target in possible
        for port in PORTS
        if allowed(manifests, source, target, port, inside)
    }
    assert passing == expected(name, peers)


@needs_kubectl
@pytest.mark.parametrize(
    "refused",
    [
        ("inference", "postgres", 5432),
        ("trainer-worker", "postgres", 5432),
        ("trainer-worker", "dataset", 7101),
        ("product", "trainer", 7112),
        ("product", "s3", 9000),
        ("stranger", "dataset", 7101),
        ("dataset", "internet", 443),
        ("inference", "cloud metadata", 80),
    ],
)
def test_what_must_not_pass_does_not(refused: Flow) -> None:
    """No database for inference and workers, no worker port for products, no way out."""
    manifests = overlay("bare-metal")
    inside, peers = everyone(manifests)
    source, target = (next(peer for peer in peers if peer.name == name) for name in refused[:2])
    assert not allowed(manifests, source, target, refused[2], inside)
