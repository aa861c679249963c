"""Says that a worker is alive, to whoever watches its process: a container engine, Kubernetes. It knows of no run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.shared.settings import CannotStart


@contextmanager
def answered(address: str) -> Iterator[None]:
    """While inside, gRPC health checks at the address are answered as those of a service; no address, no answers."""
    if not address:
        yield
        return
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(ThreadPoolExecutor(2, thread_name_prefix="health"), options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise CannotStart(f"HANDFUL_WORKER_HEALTH_ADDRESS={address}: cannot listen there.") from None
    server.start()
    try:
        yield
    finally:
        server.stop(None)
