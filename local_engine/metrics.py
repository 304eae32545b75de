"""What Prometheus is told of the engine: counts and times, never a word or a name of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from local_engine.load import Load

FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
INTER_TOKEN_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The engine's metrics on a registry of their own. `load` gives the engine's own counts when asked."""

    def __init__(self, registry: CollectorRegistry, load: Callable[[], Load]) -> None:
        self._registry = registry
        registry.register(LoadCollector(load))
        self.first_token_s = Histogram(
            "local_engine_time_to_first_token_seconds",
            "From a request's last byte to the first token of each of its choices",
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self.inter_token_s = Histogram(
            "local_engine_inter_token_seconds",
            "Between two tokens of a choice",
            buckets=INTER_TOKEN_S,
            registry=registry,
        )
        self.finished = Counter(
            "local_engine_finished",
            "Choices by the reason they ended: stop, length, tool_calls, cancelled or failed",
            ("reason",),
            registry=registry,
        )

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class LoadCollector(Collector):
    """Reads the engine's own counts at the moment of a scrape, so that nothing is counted twice."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterable[Metric]:
        """The gauges and counters."""
        load = self._load()
        yield _gauge("running", "Choices that are being computed", load.running)
        yield _gauge("running_limit", "Choices that are computed at once", load.max_running)
        yield _gauge("waiting", "Choices in the queue", load.waiting)
        yield _gauge("waiting_limit", "Choices that the queue takes", load.max_waiting)
        blocks = GaugeMetricFamily(
            "local_engine_kv_blocks", "Blocks of the key-value cache by state", labels=["state"]
        )
        free = load.kv_blocks_free - load.kv_blocks_cached
        blocks.add_metric(["used"], load.kv_blocks_total - load.kv_blocks_free)
        blocks.add_metric(["cached"], load.kv_blocks_cached)
        blocks.add_metric(["free"], free)
        yield blocks
        yield _gauge("tokens_per_second", "Recent speed of generation, all requests", load.tokens_per_s)
        yield _counter("prompt_tokens", "Tokens of prompts", load.prompt_tokens_total)
        yield _counter(
            "prefix_cache_hit_tokens",
            "Tokens of prompts that were found in the prefix cache",
            load.cached_tokens_total,
        )
        yield _counter("generated_tokens", "Tokens sampled", load.generated_tokens_total)
        yield _counter("preemptions", "Choices set back to make room", load.preemptions_total)
        yield _counter("steps", "Forward passes", load.steps_total)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"local_engine_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"local_engine_{name}", text, value=value)
