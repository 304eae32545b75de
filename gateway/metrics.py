"""Every metric in one table. Labels are places, kinds and codes: never a tenant's name or content."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Labelled = TypeVar("Labelled", Counter, Histogram)

SERIES_MAX = 1000  # of one metric, buckets not counted
OTHER = "other"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")  # ids of places, codes, statuses

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class Metrics:
    """The gateway's metrics on a registry of their own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    seconds: Histogram = field(init=False)
    attempts: Counter = field(init=False)
    tokens: Counter = field(init=False)
    usd: Counter = field(init=False)
    cache: Counter = field(init=False)
    detected: Counter = field(init=False)
    in_flight: Gauge = field(init=False)
    policy_loads: Counter = field(init=False)
    policy_serial: Gauge = field(init=False)
    store_up: Gauge = field(init=False)
    sinks: Counter = field(init=False)
    shadow: Counter = field(init=False)
    audit_behind: Gauge = field(init=False)
    shadow_loads: Counter = field(init=False)
    clock_skew: Gauge = field(init=False)
    clock_retries: Counter = field(init=False)

    def __post_init__(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(name, text, labels, registry=self.registry)
            return remembering(made) if labels else made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        set_once = object.__setattr__
        set_once(
            self,
            "requests",
            counter("douane_requests", "Requests by outcome and HTTP status", "outcome", "status"),
        )
        set_once(
            self,
            "seconds",
            remembering(
                Histogram(
                    "douane_request_seconds", "From a request's first byte to its answer's last",
                    ("outcome",), buckets=SECONDS, registry=self.registry,
                )
            ),
        )  # fmt: skip
        set_once(
            self,
            "attempts",
            counter("douane_attempts", "Tries by place, why and outcome", "place", "kind", "outcome"),
        )
        set_once(
            self, "tokens", counter("douane_tokens", "Tokens by place and direction", "place", "direction")
        )
        set_once(self, "usd", counter("douane_usd", "Money spent, in USD, by place", "place"))
        set_once(self, "cache", counter("douane_cache", "Cache look-ups by status", "status"))
        set_once(
            self, "detected", counter("douane_detected", "Requests in which detectors found a kind", "kind")
        )
        set_once(self, "in_flight", gauge("douane_in_flight", "Requests under way"))
        set_once(self, "policy_loads", counter("douane_policy_loads", "Bundle loads by outcome", "outcome"))
        set_once(self, "policy_serial", gauge("douane_policy_serial", "Serial of the bundle in force"))
        set_once(self, "store_up", gauge("douane_store_up", "1 while the store answers"))

        set_once(
            self,
            "audit_behind",
            gauge("douane_audit_copies_behind", "Audit records that are not in the bucket yet"),
        )
        set_once(
            self,
            "shadow",
            counter("douane_shadow", "Requests judged by the candidate bundle, by how it differs", "kind"),
        )
        set_once(
            self,
            "shadow_loads",
            counter("douane_shadow_loads", "Loads of a candidate bundle by outcome", "outcome"),
        )
        set_once(
            self,
            "sinks",
            counter("douane_sink_entries", "What became of what sinks were told", "sink", "outcome"),
        )

        skew = "How far a region's clock is ahead of this machine's, as requests are signed; 0 within 2 s"
        set_once(self, "clock_skew", gauge("douane_clock_skew_seconds", skew, "region"))
        set_once(
            self,
            "clock_retries",
            counter("douane_clock_retries", "Calls signed anew because their time was refused", "region"),
        )

    def told(self, sink: str, outcome: str, count: int = 1) -> None:
        """Counts entries of a sink: `content` or `metadata` was written, `withheld` as not permitted,
        `dropped` for want of room, `failed` to be written."""
        self.sinks.labels(sink, outcome).inc(count)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


def remembering(metric: Labelled) -> Labelled:
    """The metric, with one look-up for labels that it has seen; the client's own locks and checks each time.

    It remembers no more than the metric itself keeps: one child for each set of labels, of which there are
    `SERIES_MAX` at most. A value that is no id or code of ours, and whatever would be one series too many, is
    counted under `other`: no caller can make a metric hold words of theirs, or grow.
    """
    known: dict[tuple[str, ...], Labelled] = {}
    make = metric.labels

    def labels(*values: str) -> Labelled:
        child = known.get(values)
        if child is not None:
            return child
        if len(known) >= SERIES_MAX - 1 or not all(WORD.fullmatch(value) for value in values):
            values = (OTHER,) * len(values)
            if values in known:
                return known[values]
        child = known[values] = make(*values)
        return child

    metric.labels = labels  # type: ignore[method-assign,assignment]
    return metric
