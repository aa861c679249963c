"""`python -m services.shared.probe HOST:PORT [SERVICE]`: exit code 0 where a server says that it serves, 1 otherwise.

For container engines, which run a command to learn the health of a container; Kubernetes asks by itself.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 3.0


def serves(address: str, service: str) -> bool:
    """Whether the health service at the address says SERVING for a service; the empty name means the server."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as problem:
            print(f"{address}: {problem.code().name}", file=sys.stderr)  # noqa: T201 - a command
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    address, service, *_ = [*sys.argv[1:], ""]
    sys.exit(0 if serves(address, service) else 1)
