"""All that is told of requests, as one value of the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.backends.base import Backend
from gateway.receipts.assemble import Ending
from gateway.sinks.base import Sink
from gateway.sinks.request_log import RequestLog
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext


@dataclass(frozen=True, slots=True)
class Sinks:
    """The process's own log, the content log and traces."""

    log: RequestLog
    content_log: Sink
    traces: Sink

    def watched(
        self, backends: Mapping[str, Backend], trail: Trail, context: GatewayContext
    ) -> Mapping[str, Backend]:
        """See `Sink.watched`."""
        return self.traces.watched(backends, trail, context)

    def wants_answer(self, trail: Trail) -> bool:
        """See `Sink.wants_answer`."""
        return self.content_log.wants_answer(trail) or self.traces.wants_answer(trail)

    def ended(self, ending: Ending, trail: Trail, context: GatewayContext) -> None:
        """See `Sink.ended`."""
        self.content_log.ended(ending, trail, context)
        self.traces.ended(ending, trail, context)

    async def aclose(self) -> None:
        """See `Sink.aclose`."""
        await self.content_log.aclose()
        await self.traces.aclose()
