"""Metrics for Prometheus: vLLM's names where vLLM has one, ours with `stillhouse:` in front.

In: what happens to requests, and a function that reads the current gauges and counters. Out: the text of `/metrics`. No
label is ever a user's name. It does not know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
_WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0)


class Metrics:
    """The counters and histograms of one server. `read()` returns the current gauges and counters, each by name."""

    def __init__(self, model: str, read: Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]) -> None:
        self._registry, self._model = CollectorRegistry(), model
        self._registry.register(_Snapshot(model, read))
        self._first = self._histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", _FIRST)
        self._between = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens.", _TOKEN)
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", _WHOLE)
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Arrival to admission.", _FIRST)
        self._success = self._counter("vllm:request_success", "Answers that ended.", "finished_reason")
        self._paths = self._counter("stillhouse:requests", "Answers by the path they took.", "path")
        self._replies = self._counter("stillhouse:http_responses", "Replies by status.", "status")
        self.feedback = self._counter("stillhouse:feedback", "Feedback by source.", "source")

    def count_reply(self, status: int) -> None:
        """Count a reply by its HTTP status."""
        self._replies.labels(self._model, str(status)).inc()

    def count_route(self, path: str) -> None:
        """Count a request by its route."""
        self._paths.labels(self._model, path).inc()

    def observe_first_token(self, seconds: float) -> None:
        """Observe the seconds from arrival to the first token."""
        self._first.labels(self._model).observe(seconds)

    def observe_next_token(self, seconds: float) -> None:
        """Observe the seconds between two tokens."""
        self._between.labels(self._model).observe(seconds)

    def observe_end(self, reason: str, queued: float, seconds: float) -> None:
        """Count an answer that ended, `queued` seconds from arrival to admission, `seconds` from arrival to the end."""
        self._success.labels(self._model, reason).inc()
        self._queue.labels(self._model).observe(queued)
        self._whole.labels(self._model).observe(seconds)

    def paths(self) -> dict[str, float]:
        """The number of answers by route."""
        samples = (sample for family in self._paths.collect() for sample in family.samples)
        return {s.labels["path"]: s.value for s in samples if s.name.endswith("_total")}

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, ["model_name"], buckets=buckets, registry=self._registry)

    def _counter(self, name: str, about: str, label: str) -> Counter:
        return Counter(name, about, ["model_name", label], registry=self._registry)


class _Snapshot(Collector):
    """Gauges and counters that the engine and the library keep; they are read at every scrape."""

    def __init__(self, model: str, read: Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]) -> None:
        self._model, self._read = model, read

    def collect(self) -> Iterable[Metric]:
        gauges, counters = self._read()
        for kind, values in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, value in values.items():
                family = kind(name, name.split(":")[-1].replace("_", " "), labels=["model_name"])
                family.add_metric([self._model], value)
                yield family

    def describe(self) -> Iterable[Metric]:
        return []
