"""How to reach the services: addresses, from the environment or by default, and channels that keep themselves alive."""

import json
import os
from dataclasses import dataclass

import grpc

MEBIBYTE = 1024 * 1024
# Large enough for a picture of the largest size that is taken.
MESSAGE_BYTES = 34 * MEBIBYTE

# Where a name has several addresses, as a headless service of Kubernetes has, calls go round them.
# UNAVAILABLE is tried again: every call of ours is safe to repeat, creates by their request_id. So is CANCELLED, which
# a server that stops gives to calls that reach it at that moment, and gRPC at random where more than a thousand wait
# that a busy one has not looked at; what its caller cancels is over all the same.
# RESOURCE_EXHAUSTED comes with how long to wait, or with word not to try again; gRPC obeys both.
_SERVICE = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}


@dataclass(frozen=True)
class Addresses:
    """Where the services listen, as host:port."""

    dataset: str = "127.0.0.1:7101"
    trainer: str = "127.0.0.1:7102"
    inference: str = "127.0.0.1:7103"

    @classmethod
    def from_env(cls) -> "Addresses":
        """HANDFUL_DATASET, HANDFUL_TRAINER and HANDFUL_INFERENCE, each by default on this machine."""
        given = {name: os.environ.get(f"HANDFUL_{name.upper()}") for name in cls.__dataclass_fields__}
        return cls(**{name: address for name, address in given.items() if address})


def project_from_env() -> str:
    """HANDFUL_PROJECT, or `default`."""
    return os.environ.get("HANDFUL_PROJECT") or "default"


OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    # gRPC waits up to two minutes between attempts to connect, which outlasts every lease and every watcher's patience.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A name is looked up again as soon as a server of it goes, not half a minute later: pods that are replaced have new
    # addresses.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A request is kept until it is answered, to be sent again; by default gRPC keeps none above 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE)),
]


def connect(address: str) -> grpc.Channel:
    """A channel to a service; it connects on first use and again whenever it has to."""
    return grpc.insecure_channel(address, options=OPTIONS)
