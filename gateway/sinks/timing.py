"""How long a step of a request took."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.backends.base import Upstream
from gateway.places import Place


@dataclass(frozen=True, slots=True)
class Timing:
    """One step, in seconds of the monotonic clock.

    `place` is set for a call to a backend; `outcome` is then `answered`, `cancelled`, `bug` or a fault's
    kind, and a stream's step ends with its first chunk.
    """

    step: str
    started_s: float
    ended_s: float
    place: Place | None = None
    outcome: str | None = None
    upstream: Upstream | None = None
