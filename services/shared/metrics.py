"""What a service tells Prometheus, over HTTP on an address of its own: its calls, its process, and what it adds itself.
It does not know what is called.
"""

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

from services.shared.settings import CannotStart

log = structlog.get_logger()

# Upper bounds in seconds, of what should take milliseconds to what is cut off after half a minute.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The figures of this process. Labels are methods and statuses of the contract, and bounded as those are."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._calls = Counter("handful_calls", "Calls that ended.", ["method", "status"], registry=self._registry)
        self._seconds = Histogram(
            "handful_call_seconds",
            "How long calls took; streams until their end.",
            ["method"],
            registry=self._registry,
            buckets=SECONDS,
        )

    def called(self, method: str, status: str, seconds: float) -> None:
        """A call ended with a status by its name."""
        self._calls.labels(method, status).inc()
        self._seconds.labels(method).observe(seconds)

    def add(self, collector: Collector) -> None:
        """What is asked for more figures at every reading, on a thread of its own."""
        self._registry.register(collector)

    def serve(self, address: str) -> int:
        """Answers at `http://address/metrics` while the process lives; the port. Nothing at all of an empty address.
        CannotStart where it is taken, or none.
        """
        if not address:
            return 0
        host, _, number = address.rpartition(":")
        try:
            server, _ = start_http_server(int(number), host, self._registry)
        except (OSError, OverflowError, ValueError):
            told = f"Cannot give metrics on {address}: it is taken, or no host:port of this machine."
            raise CannotStart(told) from None
        port = server.server_port
        log.info("metrics are read at", address=host, port=port)
        return port
