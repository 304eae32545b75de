"""Opens the sinks that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp

from gateway.hidden import told
from gateway.metrics import Metrics
from gateway.places import Place
from gateway.policy.problems import Problem, did_you_mean
from gateway.settings import Settings
from gateway.sinks.base import Off, Sink
from gateway.sinks.content_log import ContentLog
from gateway.sinks.files import RotatedFiles
from gateway.sinks.request_log import DEFAULT_PLACE, RequestLog
from gateway.sinks.sinks import Sinks

# The settings that name a sink's place, and the kind that this place must be of.
KINDS: Final[Mapping[str, str]] = {
    "audit_place": "audit",
    "audit_s3_place": "audit",
    "log_place": "log",
    "content_log_place": "log",
    "trace_place": "trace",
    "redis_place": "redis",  # it is told of every request: counts, and names of labels
}


def open_sinks(settings: Settings, http: aiohttp.ClientSession, replica: str, metrics: Metrics) -> Sinks:
    """The sinks. `replica` names this process's files; it alone holds the audit chain of that name.

    Raises `SinkUnusable`.
    """
    content_log: Sink = Off()
    if settings.content_log is not None:
        assert settings.content_log_place is not None
        files = RotatedFiles(
            settings.content_log, replica, settings.content_log_file_bytes, settings.content_log_files
        )
        content_log = ContentLog(files, settings.content_log_place, metrics)
    traces: Sink = Off()
    if settings.trace_url is not None:
        from gateway.sinks.traces import Traces  # loads OpenTelemetry, only where it is used

        assert settings.trace_place is not None
        secret = told(settings.trace_secret) if settings.trace_secret is not None else None
        traces = Traces(
            http, settings.trace_url, settings.trace_place, secret, settings.trace_content, metrics
        )
    return Sinks(RequestLog(settings.log_place or DEFAULT_PLACE, metrics), content_log, traces)


def wrong_places(settings: Settings, places: Mapping[str, Place]) -> list[Problem]:
    """What is wrong with the places of sinks that the settings name: missing, or of a kind that is no such
    sink."""
    problems = []
    for name, kind in KINDS.items():
        if name == "redis_place" and settings.redis_url is None:
            continue
        place = getattr(settings, name)
        if place is not None and place not in places:
            message = f"the setting `{name}` names the place `{place}`, which is not there"
            problems.append(Problem("places.yaml", 0, None, message, did_you_mean(place, places)))
            continue
        if place is None and name == "log_place":
            place = DEFAULT_PLACE
        if place in places and places[place].kind != kind:
            message = (
                f"the setting `{name}` names the place `{place}`, which is of kind `{places[place].kind}`"
            )
            problems.append(Problem("places.yaml", 0, None, message, f"name a place of kind `{kind}`"))
    return problems
