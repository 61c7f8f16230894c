"""Prometheus's view of the server: counts of all workers added up, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from recsys.errors import UsageError
from services.rpc.measurements import COUNTERS, HISTOGRAMS, SECONDS, Measurements
from services.rpc.settings import Address


@dataclass(frozen=True, slots=True)
class Gauges:
    """How the server stands at this moment.

    Attributes:
        versions: bundle version of each worker.
        in_flight: calls being worked on, over all workers.
        restarts: processes started again after a crash.
        store_available: whether the supervisor reaches the feature store.
        uptime: seconds.
    """

    versions: tuple[str, ...]
    in_flight: int
    restarts: int
    store_available: bool
    uptime: float


class ServerCollector(Collector):
    """Turns what `read` gives into Prometheus's families, at every visit."""

    def __init__(self, read: Callable[[], tuple[Measurements, Gauges]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """All families."""
        measurements, gauges = self._read()
        yield from _counters(measurements)
        yield from _histograms(measurements)
        yield from _gauges(gauges)


def serve_metrics(address: Address, read: Callable[[], tuple[Measurements, Gauges]]) -> WSGIServer:
    """Serves /metrics until the returned server is shut down.

    Raises:
        UsageError: the address cannot be taken.
    """
    registry = CollectorRegistry()
    registry.register(_Undescribed(read))
    try:
        server, _ = start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise UsageError(f"--metrics-listen {address}: cannot listen there ({error.strerror})") from None
    return server


class _Undescribed(ServerCollector):
    """Says nothing at registration, when there are no workers to ask yet."""

    def describe(self) -> list[Metric]:
        return []


def _counters(measurements: Measurements) -> Iterator[Metric]:
    for name, (text, labels) in COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=labels)
        for (counter, values), count in sorted(measurements.counters.items()):
            if counter == name:
                family.add_metric(values, count)
        yield family


def _histograms(measurements: Measurements) -> Iterator[Metric]:
    for name, (text, labels) in HISTOGRAMS.items():
        family = HistogramMetricFamily(name, text, labels=labels)
        for (histogram, values), data in sorted(measurements.histograms.items(), key=lambda item: item[0]):
            if histogram == name:
                bounds = [*map(str, SECONDS), "+Inf"]
                family.add_metric(values, list(zip(bounds, accumulate(data.counts), strict=True)), data.sum)
        yield family


def _gauges(gauges: Gauges) -> Iterator[Metric]:
    bundles = GaugeMetricFamily("recsys_bundle_workers", "Workers that serve a bundle.", labels=["version"])
    for version in sorted(set(gauges.versions) - {""}):
        bundles.add_metric([version], gauges.versions.count(version))
    yield bundles
    serving = len([version for version in gauges.versions if version])
    yield GaugeMetricFamily("recsys_workers_serving", "Workers that take calls.", value=serving)
    yield GaugeMetricFamily("recsys_calls_in_flight", "Calls being worked on.", value=gauges.in_flight)
    yield CounterMetricFamily("recsys_worker_restarts", "Workers started again after a crash.", value=gauges.restarts)
    yield GaugeMetricFamily(
        "recsys_store_available", "Whether the feature store answers.", value=gauges.store_available
    )
    yield GaugeMetricFamily("recsys_uptime_seconds", "Seconds since the server started.", value=gauges.uptime)
