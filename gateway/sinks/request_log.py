"""What the process's own log says of a request: only where the log's place may record it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway import logs
from gateway.metrics import Metrics
from gateway.residency import at_worst
from gateway.sinks.detail import Detail, detail
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext

SINK: Final = "log"
DEFAULT_PLACE: Final = "logs"


@dataclass(frozen=True, slots=True)
class RequestLog:
    """Events of requests in the log of the process, which stands at `place`."""

    place: str
    metrics: Metrics

    def event(
        self,
        name: str,
        trail: Trail,
        context: GatewayContext,
        *,
        exc_info: bool = False,
        **fields: Any,
    ) -> None:
        """An error that one request met, under its id, where both bundles permit `record` at the log's place.

        Elsewhere it is counted and nothing is written. While a request's labels are not known the event says
        nothing of it, not even its id: only what in this program went wrong.
        """
        if trail.permitted is None:
            logs.event(name, logging.ERROR, exc_info=exc_info)
        elif detail(self.place, trail, context, at_worst(trail)) is Detail.NOTHING:
            self.metrics.told(SINK, "withheld")
        else:
            logs.event(name, logging.ERROR, request=trail.incoming.request_id, exc_info=exc_info, **fields)
            self.metrics.told(SINK, "metadata")
