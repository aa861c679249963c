"""Handful: train, watch and serve image classifiers from a handful of examples. The SDK; see `handful.client`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handful.client import Client
    from handful.errors import HandfulError
    from handful.run import Run

# What pyproject.toml says too: images carry these files, and no package that could be asked.
__version__ = "0.1.0"

__all__ = ["Client", "HandfulError", "Run"]


def __getattr__(name: str) -> Any:
    # On demand, so that `handful.bundle` can be had without gRPC: decoding processes and exports need no network.
    home = {"Client": "client", "HandfulError": "errors", "Run": "run"}.get(name)
    if home is None:
        raise AttributeError(name)
    return getattr(import_module(f"handful.{home}"), name)
