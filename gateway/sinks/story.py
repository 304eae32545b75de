"""What a sink keeps of a request between its end and the moment of writing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from gateway.backends.base import Usage
from gateway.facts import Facts
from gateway.policy.permit import Permitted
from gateway.receipts.assemble import Ending
from gateway.residency import at_worst
from gateway.sinks.timing import Timing
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext


@dataclass(frozen=True, slots=True)
class Story:
    """One request, from its end. `body` and `delivered` are its content, empty where no sink may want it.

    `processed`: it got past being turned away. `delivered` is the whole answer's body, or the events of a
    stream. `answer_sha256` is what its receipt says of the answer. `traceparent` may hold anything.
    """

    request: str
    answer_id: str
    receipt: str
    tenant: str
    key: str
    facts: Facts
    permitted: Permitted
    revision: str
    serial: int
    rules: tuple[str, ...]
    route: str | None
    cache: str
    processed: bool
    at_worst: tuple[Permitted, ...]
    outcome: str
    status: int
    code: str | None
    usage: Usage | None
    stream: bool
    answer_sha256: str
    started_s: float
    ended_s: float
    ended_at: datetime
    timings: tuple[Timing, ...]
    traceparent: bytes | None
    body: bytes = b""
    delivered: tuple[bytes, ...] = ()

    @property
    def content_bytes(self) -> int:
        """How much content it holds."""
        return len(self.body) + sum(map(len, self.delivered))


def story_of(ending: Ending, trail: Trail, context: GatewayContext, *, content: bool) -> Story | None:
    """The story of a request; None when it ended before its labels were known."""
    if trail.caller is None or trail.facts is None or trail.permitted is None:
        return None
    return Story(
        request=trail.incoming.request_id,
        answer_id=trail.answer_id,
        receipt=trail.receipt_id,
        tenant=trail.caller.tenant,
        key=trail.caller.key_id,
        facts=trail.facts,
        permitted=trail.permitted,
        revision=trail.bundle.revision,
        serial=trail.bundle.serial,
        rules=trail.rules,
        route=trail.decision.route if trail.decision is not None else None,
        cache=trail.cache,
        processed=trail.processed,
        at_worst=at_worst(trail),
        outcome=ending.outcome,
        status=ending.status,
        code=ending.code,
        usage=ending.usage,
        stream=trail.chat is not None and trail.chat.wants_stream,
        answer_sha256=ending.answer.sha256,
        started_s=trail.started_s,
        ended_s=context.clock.monotonic_s(),
        ended_at=context.clock.now(),
        timings=tuple(trail.timings),
        traceparent=trail.incoming.traceparent,
        body=trail.incoming.body if content else b"",
        delivered=tuple(trail.delivered) if content else (),
    )
