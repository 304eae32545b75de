"""From what is known of a request to the receipt about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.audit.base import Sealed
from gateway.audit.chain import time_text
from gateway.backends.base import Usage
from gateway.places import Place
from gateway.receipts.receipt import (
    AnswerClaim,
    AttemptClaim,
    AuditClaim,
    CacheClaim,
    CacheOrigin,
    GatewayClaim,
    ModelClaim,
    Outcome,
    PolicyClaim,
    Receipt,
    RequestClaim,
    UsageClaim,
)
from gateway.trail import Trail


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended, as the client saw it. `code` is an error's; `origin` a cached answer's."""

    outcome: Outcome
    status: int
    answer: AnswerClaim
    code: str | None = None
    usage: Usage | None = None
    origin: CacheOrigin | None = None


def receipt_of(
    ending: Ending,
    trail: Trail,
    last: Sealed | None,
    replica: str,
    gateway: Place,
    store_place: str | None,
    now: datetime,
    request_sha256: str,
) -> Receipt:
    """The receipt of a request whose caller is known. `last` is its last audit record, sealed before this is
    signed; None where its labels do not permit one."""
    first = trail.begun or last
    model = trail.facts.model if trail.facts is not None else None
    return Receipt(
        id=trail.receipt_id,
        issued_at=time_text(now),
        outcome=ending.outcome,
        status=ending.status,
        request=RequestClaim(trail.incoming.request_id, request_sha256, len(trail.incoming.body)),
        answer=ending.answer,
        tenant=trail.caller.tenant if trail.caller is not None else None,
        labels=trail.facts.labels.names() if trail.facts is not None else (),
        policy=PolicyClaim(trail.bundle.revision, trail.bundle.serial, trail.rules),
        gateway=GatewayClaim.of(gateway),
        attempts=tuple(
            AttemptClaim.of(one.place, one.outcome, one.upstream, one.kind) for one in trail.tried
        ),
        cache=CacheClaim(trail.cache, store_place if trail.cache != "off" else None, ending.origin),
        model=ModelClaim(model, model if ending.outcome in ("answered", "cached", "incomplete") else None),
        usage=UsageClaim.of(ending.usage) if ending.usage is not None else None,
        audit=AuditClaim.of(replica, first, last) if first is not None else None,
        nonce=trail.incoming.nonce,
    )
