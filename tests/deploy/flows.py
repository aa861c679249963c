"""Who may talk to whom by the network policies of a namespace, as a network plug-in enforces them."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.manifests import Manifest, of_kind


@dataclass(frozen=True)
class Peer:
    """An end of a connection: a pod with labels in a labelled namespace, or an address outside of the cluster."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, str] = field(default_factory=dict)
    address: str = ""


def allowed(manifests: Iterable[Manifest], source: Peer, target: Peer, port: int, inside: dict[str, str]) -> bool:
    """Whether a TCP connection may be made; `inside` are the labels of the namespace that the policies are in."""
    policies = [manifest["spec"] for manifest in of_kind(manifests, "NetworkPolicy")]
    leaves = source.namespace != inside or _passes(policies, "Egress", source, target, port, inside)
    enters = target.namespace != inside or _passes(policies, "Ingress", target, source, port, inside)
    return leaves and enters


def _passes(
    policies: list[dict[str, Any]], direction: str, held: Peer, other: Peer, port: int, inside: dict[str, str]
) -> bool:
    bound = [one for one in policies if direction in one["policyTypes"] and _selects(one["podSelector"], held.labels)]
    rules = [rule for one in bound for rule in one.get(direction.lower(), [])]
    side = "to" if direction == "Egress" else "from"
    matching = (
        any(_is(peer, other, inside) for peer in rule[side]) and any(_opens(one, port) for one in rule["ports"])
        for rule in rules
    )
    return not bound or any(matching)


def _is(rule: dict[str, Any], peer: Peer, inside: dict[str, str]) -> bool:
    if "ipBlock" in rule:
        block = rule["ipBlock"]
        return (
            bool(peer.address)
            and _within(peer.address, [block["cidr"]])
            and not _within(peer.address, block.get("except", []))
        )
    if peer.address:
        return False
    in_namespace = (
        _selects(rule["namespaceSelector"], peer.namespace) if "namespaceSelector" in rule else peer.namespace == inside
    )
    return in_namespace and _selects(rule.get("podSelector", {}), peer.labels)


def _within(address: str, blocks: list[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(block) for block in blocks)


def _opens(rule: dict[str, Any], port: int) -> bool:
    return (rule["protocol"], rule["port"]) == ("TCP", port)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )
