"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from causalrn.serving.http.models import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAUGES = {
    "running_sequences": "Sequences with a slot",
    "waiting_requests": "Requests without a slot",
    "reserved_bytes": "What running states can come to take",
    "prefix_cache_bytes": "What the prefix cache takes",
    "sessions": "Sessions that clients have",
    "session_memory_bytes": "States of sessions in memory",
    "session_disk_bytes": "States of sessions on disk",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts that were computed",
    "generated_tokens": "Tokens that were generated",
    "prefix_cache_hits": "Prompts whose beginning was in the cache",
    "prefix_cache_misses": "Prompts whose beginning was not",
}


class Metrics:
    """The server's own registry: `causalrn_...`, and its process.

    Attributes:
        requests: answers, by route, method and status.
        seconds: of whole requests, by route; first_seconds: to the first token.
        open_requests: that are being answered.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ModelCollector(models))
        ProcessCollector(registry=self._registry)
        registry = self._registry
        self.requests = Counter("causalrn_http_requests", "Answers", ("route", "method", "status"), registry=registry)
        self.seconds = Histogram(
            "causalrn_http_request_seconds", "Whole requests", ("route",), buckets=_SECONDS, registry=registry
        )
        self.first_seconds = Histogram(
            "causalrn_first_token_seconds", "To the first token", ("model",), buckets=_SECONDS, registry=registry
        )
        self.open_requests = Gauge("causalrn_http_open_requests", "Being answered", registry=registry)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)


class _ModelCollector(Collector):
    """Asks every engine and store when somebody reads."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        values = {name: _values(model) for name, model in self._models.items()}
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"causalrn_{name}", text, labels=("model",))
            for model, of in values.items():
                gauge.add_metric((model,), of[name])
            yield gauge
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"causalrn_{name}", text, labels=("model",))
            for model, of in values.items():
                counter.add_metric((model,), of[name])
            yield counter


def _values(model: ServedModel) -> dict[str, float]:
    now, store = model.engine.statistics(), model.store
    return {
        "running_sequences": now.running,
        "waiting_requests": now.waiting,
        "reserved_bytes": now.reserved_bytes,
        "prefix_cache_bytes": now.cache_bytes,
        "sessions": len(store),
        "session_memory_bytes": store.memory_bytes,
        "session_disk_bytes": store.disk_bytes,
        "prompt_tokens": now.prompt_tokens,
        "generated_tokens": now.generated_tokens,
        "prefix_cache_hits": now.cache_hits,
        "prefix_cache_misses": now.cache_misses,
    }
