"""Whether a pod may run on a node: node selector, required affinity, taints and requests, as the scheduler filters.

It knows nothing of preferences, spreads, volumes, priorities, or of what else runs on the node.
"""

import re
from typing import Any

from tests.deploy.nodes import Node, Taint

_UNITS = {
    "": 1.0,
    "m": 0.001,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def fits(spec: dict[str, Any], node: Node) -> bool:
    """Whether nothing keeps a pod of this specification off the node."""
    return (
        spec.get("nodeSelector", {}).items() <= node.labels.items()
        and _affine(spec, node.labels)
        and all(_tolerated(taint, spec.get("tolerations", [])) for taint in node.taints)
        and all(amount <= quantity(node.allocatable.get(resource, "0")) for resource, amount in _requests(spec).items())
    )


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", text)
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def _requests(spec: dict[str, Any]) -> dict[str, float]:
    """What the containers ask for together; a limit without a request is one."""
    total: dict[str, float] = {}
    for container in spec["containers"]:
        resources = container["resources"]
        for name, amount in {**resources.get("limits", {}), **resources.get("requests", {})}.items():
            total[name] = total.get(name, 0) + quantity(amount)
    return total


def _affine(spec: dict[str, Any], labels: dict[str, str]) -> bool:
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(all(_holds(one, labels) for one in term["matchExpressions"]) for term in required["nodeSelectorTerms"])


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    return {
        "In": lambda: value in expression["values"],
        "NotIn": lambda: value not in expression["values"],
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }[expression["operator"]]()


def _tolerated(taint: Taint, tolerations: list[dict[str, str]]) -> bool:
    return any(
        toleration.get("effect", taint.effect) == taint.effect
        and toleration.get("key", taint.key) == taint.key
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.value)
        for toleration in tolerations
    )
