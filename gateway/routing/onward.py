"""After a fault: whether another place is tried, why, and which of the planned ones may do. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.backends.base import Refused, Saturated
from gateway.routing.attempt import Attempt
from gateway.routing.kind import Kind
from gateway.routing.plan import Decision
from gateway.routing.tried import Failed


def onward(failed: Failed, decision: Decision) -> Kind | None:
    """Why the next place is tried after this fault; None when it is the last word."""
    fault = failed.fault
    if isinstance(fault, Refused):
        if fault.code == "context_length_exceeded" and decision.on_context_window == "next":
            return "context_window"
        if fault.code == "content_filter" and decision.on_content_filter == "next":
            return "content_filter"
    if not fault.try_next:
        return None
    return "spill" if isinstance(fault, Saturated) else "fallback"


def with_larger_context(attempts: Iterable[Attempt], than: Attempt) -> list[Attempt]:
    """Those that may hold what did not fit at `than`; where a bound is not known, it is tried."""
    refused = than.context_tokens
    return [
        attempt
        for attempt in attempts
        if refused is None or attempt.context_tokens is None or attempt.context_tokens > refused
    ]
