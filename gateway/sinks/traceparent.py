"""The caller's `traceparent` (W3C Trace Context): two ids, and nothing else of what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Later versions may add fields after the flags; these are read as version 00, as the standard asks.
TRACEPARENT: Final = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)


@dataclass(frozen=True, slots=True)
class TraceIds:
    """A trace of 128 bits and a span of 64 bits in it, neither of them 0."""

    trace: int
    span: int


def parse_traceparent(header: bytes | None) -> TraceIds | None:
    """The ids; None for what is no traceparent. Its flags are not read: the operator says what is traced."""
    match = TRACEPARENT.fullmatch(header) if header is not None else None
    if match is None or match["version"] == b"ff" or (match["version"] == b"00" and match["more"]):
        return None
    trace, span = int(match["trace"], 16), int(match["span"], 16)
    return TraceIds(trace, span) if trace and span else None
