"""Counts and times of the service in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Monitor:
    """The metrics of one service.

    Parameters
    ----------
    at_work
        Tells how many requests are at work.
    loaded_at
        Tells when the run that answers was read, in seconds since 1970.
    reloads
        Tells how many reloads were ``done`` and ``refused``.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self, at_work: Callable[[], int], loaded_at: Callable[[], float], reloads: Callable[[], dict[str, int]]
    ) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self._requests = Counter(
            "hakg_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "hakg_request_seconds",
            "Seconds from a request's head to the last byte of its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        gauges: list[tuple[str, str, Callable[[], float]]] = [
            ("hakg_at_work", "Requests that are computed or wait for it.", at_work),
            ("hakg_run_loaded_timestamp_seconds", "When the run that answers was read.", loaded_at),
        ]
        for name, about, value in gauges:
            Gauge(name, about, registry=self.registry).set_function(value)
        outcomes = Gauge("hakg_reloads", "Reloads by outcome.", ["outcome"], registry=self.registry)
        outcomes.labels("done").set_function(lambda: reloads()["done"])
        outcomes.labels("refused").set_function(lambda: reloads()["refused"])
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Note an answer; endpoints are a fixed set, so that no request adds a line of its own."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        """All metrics now."""
        return generate_latest(self.registry)
