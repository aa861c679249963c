"""Handful: train, watch and serve image classifiers from a handful of examples. The SDK; see `handful.client`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handful.client import Client, Run
    from handful.errors import HandfulError

__all__ = ["Client", "HandfulError", "Run"]


def __getattr__(name: str) -> Any:
    # On demand, so that `handful.bundle` can be had without gRPC: decoding processes and exports need no network.
    if name in {"Client", "Run"}:
        from handful import client

        return getattr(client, name)
    if name == "HandfulError":
        from handful.errors import HandfulError

        return HandfulError
    raise AttributeError(name)
