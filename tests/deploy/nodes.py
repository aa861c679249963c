"""Nodes as clouds make them: labels, taints and what pods may use. Data; the sources stand beside it."""

from dataclasses import dataclass, field

CPU_NODE = {"cpu": "3920m", "memory": "13Gi", "ephemeral-storage": "47Gi"}
GPU_NODE = {"cpu": "7910m", "memory": "27Gi", "ephemeral-storage": "90Gi", "nvidia.com/gpu": "1"}


@dataclass(frozen=True)
class Taint:
    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True)
class Node:
    """A node: whether it has a GPU, and what the scheduler sees of it."""

    name: str
    gpu: bool
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()

    @property
    def allocatable(self) -> dict[str, str]:
        return GPU_NODE if self.gpu else CPU_NODE


# https://cloud.google.com/kubernetes-engine/docs/how-to/gpus: the label names the card; CPU pools bring a taint.
GKE = (
    Node("cpu", gpu=False, labels={"cloud.google.com/gke-nodepool": "default"}),
    Node(
        "tainted",
        gpu=True,
        labels={"cloud.google.com/gke-accelerator": "nvidia-l4"},
        taints=(Taint("nvidia.com/gpu", "present"),),
    ),
    Node("untainted", gpu=True, labels={"cloud.google.com/gke-accelerator": "nvidia-l4"}),
    Node(
        "another card",
        gpu=True,
        labels={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
        taints=(Taint("nvidia.com/gpu", "present"),),
    ),
)

# https://docs.aws.amazon.com/eks/latest/userguide/auto-accelerated.html, https://karpenter.sh/docs/reference/instance-types:
# Auto Mode and Karpenter label the number of cards. A managed group has what its owner gives it (docs/deploy.md).
EKS = (
    Node("cpu", gpu=False, labels={"eks.amazonaws.com/nodegroup": "services"}),
    Node("karpenter cpu", gpu=False, labels={"karpenter.k8s.aws/instance-family": "m7i"}),
    Node("guide", gpu=True, labels={"handful.dev/pool": "gpu"}, taints=(Taint("nvidia.com/gpu", "true"),)),
    Node("without the taint", gpu=True, labels={"handful.dev/pool": "gpu"}),
    Node("karpenter", gpu=True, labels={"handful.dev/pool": "gpu", "karpenter.k8s.aws/instance-gpu-count": "1"}),
    Node("another's karpenter", gpu=True, labels={"karpenter.k8s.aws/instance-gpu-count": "1"}),
    Node("another's auto mode", gpu=True, labels={"eks.amazonaws.com/instance-gpu-count": "1"}),
)

# https://learn.microsoft.com/azure/aks/use-nvidia-gpu: pools are labelled; the taint sku=gpu is set at creation.
AKS = (
    Node("cpu", gpu=False, labels={"kubernetes.azure.com/mode": "system"}),
    Node("guide", gpu=True, labels={"kubernetes.azure.com/accelerator": "nvidia"}, taints=(Taint("sku", "gpu"),)),
    Node("untainted", gpu=True, labels={"kubernetes.azure.com/accelerator": "nvidia"}),
)

# https://yandex.cloud/docs/managed-kubernetes/operations/node-group/node-group-create: labels and taints are what the
# owner of a group gives it (docs/deploy.md).
YANDEX = (
    Node("cpu", gpu=False, labels={"yandex.cloud/node-group-id": "catcpu"}),
    Node("guide", gpu=True, labels={"handful.dev/pool": "gpu"}, taints=(Taint("nvidia.com/gpu", "true"),)),
    Node("without the taint", gpu=True, labels={"handful.dev/pool": "gpu"}),
    Node("without the label", gpu=True, taints=(Taint("nvidia.com/gpu", "true"),)),
)

# https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/getting-started.html: the operator labels nodes.
BARE_METAL = (
    Node("cpu", gpu=False, labels={"kubernetes.io/hostname": "a"}),
    Node("gpu", gpu=True, labels={"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-L4"}),
    Node("tainted", gpu=True, labels={"nvidia.com/gpu.present": "true"}, taints=(Taint("nvidia.com/gpu", "present"),)),
)

TABLES = {"gke": GKE, "eks": EKS, "aks": AKS, "yandex": YANDEX, "bare-metal": BARE_METAL}
LAPTOP = Node("laptop", gpu=False)
WORKSTATION = Node("workstation", gpu=True, labels={"nvidia.com/gpu.present": "true"})
