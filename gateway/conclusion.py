"""Step 10: settle what was reserved, record the end, sign; also for refusals and cut-off answers."""

from __future__ import annotations

from collections.abc import Callable

from gateway.audit.base import Sealed
from gateway.audit.records import End, Refused
from gateway.audit.records import Tried as TriedRecord
from gateway.backends.base import Usage
from gateway.considered import audit_places, considered_of
from gateway.context import GatewayContext
from gateway.conversation import known_names
from gateway.entrance import NANO, most_tokens
from gateway.errors import DouaneError, KeysUnavailable, RecordUnavailable, TenantErased
from gateway.hangup import Hangup
from gateway.ingress import Headers, Reply, error_reply
from gateway.places import Action, Place
from gateway.receipts.assemble import Ending, receipt_of
from gateway.receipts.delivery import HEADER, header_value
from gateway.receipts.digest import body_digest
from gateway.receipts.lookup import storage_key
from gateway.receipts.receipt import AnswerClaim, Outcome
from gateway.residency import at_worst, permitted_now
from gateway.routing.tried import UNDELIVERED
from gateway.store.base import Leaving, Put
from gateway.trail import Trail

CLIENT_GONE_STATUS = 499  # in records only: nobody is sent it


def whole_answer(body: bytes) -> AnswerClaim:
    return AnswerClaim("body", body_digest(body), len(body))


async def conclude(
    ending: Ending,
    trail: Trail,
    context: GatewayContext,
    cached: Callable[[], Put | None] = lambda: None,
) -> str | None:
    """Records, signs, settles. Returns the receipt as a compact JWS; None when the caller is not known.

    `cached` says what the cache may keep of the answer. It is asked at the last moment: while the end was
    being recorded another bundle may have come into force.
    Raises `RecordUnavailable` when the end cannot be recorded and the operator wants no unrecorded answer.
    """
    if trail.concluded:  # cut off while it was being concluded: all that may be missing is to settle
        await leave(ending, spent_usd(ending, trail, context), None, None, trail, context)
        return None
    count(ending, trail, context)
    if trail.caller is None:
        return None
    usd = spent_usd(ending, trail, context)
    trail.concluded = True
    try:
        sealed = await record_end(ending, usd, trail, context) if recordable(trail, context) else None
        receipt = sign_receipt(ending, sealed, trail, context)
    except RecordUnavailable:
        trail.concluded = False
        if context.settings.audit_failure == "refuse":
            await leave(ending, usd, None, None, trail, context)
            raise
        context.sinks.log.event("audit_unavailable", trail, context)
        receipt = None
    await leave(ending, usd, cached(), receipt_put(receipt, trail, context), trail, context)
    context.sinks.ended(ending, trail, context)
    context.shadow.judge(trail, context)
    return receipt


def recordable(trail: Trail, context: GatewayContext) -> bool:
    """Whether the audit may hold even that this request was refused; what has begun is there already."""
    if trail.processed:
        return True
    known = (trail.permitted,) if trail.permitted is not None else ()
    places = audit_places(context.settings)
    judged = (*known, *at_worst(trail))
    return all(permitted.allows(Action.RECORD, place) for permitted in judged for place in places)


def sign_receipt(ending: Ending, sealed: Sealed | None, trail: Trail, context: GatewayContext) -> str:
    return context.signer.sign(
        receipt_of(
            ending,
            trail,
            sealed,
            context.audit.replica,
            trail.bundle.places[context.settings.gateway_place],
            context.store_place,
            context.clock.now(),
            body_digest(trail.incoming.body),
        )
    )


async def record_end(ending: Ending, usd: float, trail: Trail, context: GatewayContext) -> Sealed:
    assert trail.caller is not None
    tenant = trail.caller.tenant
    record: End | Refused
    if not trail.processed:
        record = Refused(
            request=trail.incoming.request_id,
            status=ending.status,
            code=ending.code or ending.outcome,
            key=trail.caller.key_id,
            tenant=tenant,
            facts=trail.facts,
            revision=trail.bundle.revision,
            serial=trail.bundle.serial,
            rules=trail.rules,
            receipt=trail.receipt_id,
            request_hmac=committed(trail.incoming.body, tenant, context),
            detected=trail.detected,
            considered=(
                considered_of(trail.permitted, trail.decision, trail.bundle, context.verdicts)
                if trail.permitted is not None
                else None
            ),
        )
    else:
        record = End(
            request=trail.incoming.request_id,
            began=trail.begun.sequence if trail.begun is not None else 0,
            tenant=tenant,
            outcome=ending.outcome,
            status=ending.status,
            attempts=tuple(
                TriedRecord(one.place.id, one.outcome, one.kind, one.upstream) for one in trail.tried
            ),
            cache=trail.cache,
            receipt=trail.receipt_id,
            code=ending.code,
            usage=ending.usage,
            cost_usd_nano=round(usd * NANO),
            answer_hmac=committed(ending.answer.sha256.encode(), tenant, context),
        )
    return await context.audit.append(record.kind, record.fields())


def committed(data: bytes, tenant: str, context: GatewayContext) -> str | None:
    """None where the tenant's key was destroyed, or cannot be had: what ends is recorded all the same."""
    try:
        return context.tenant_keys.commit(tenant, data)
    except (TenantErased, KeysUnavailable):
        return None


async def leave(
    ending: Ending, usd: float, cached: Put | None, receipt: Put | None, trail: Trail, context: GatewayContext
) -> None:
    """Settles the reservation, marks the answer and puts values, in one round trip. Nothing after a cache
    hit: its answer was marked as it was found."""
    if trail.reservation is None or trail.facts is None or trail.conversation is None or trail.caller is None:
        return
    reservation, trail.reservation = trail.reservation, None
    labels = known_names(trail.facts.labels, trail.bundle.vocabulary)
    answer = (trail.answer_mark,) if trail.answer_mark is not None else ()
    context.taints.remember((*trail.conversation.marks, *answer), labels)
    await context.store.leave(
        Leaving(
            tenant=trail.caller.tenant,
            reservation=reservation,
            used_tokens=used_tokens(ending, trail),
            used_usd_nano=round(usd * NANO),
            labels=labels,
            answer=trail.answer_mark,
            cached=cached,
            puts=(receipt,) if receipt is not None else (),
        )
    )


def billed(ending: Ending, trail: Trail) -> list[tuple[Place, Usage]]:
    """What each call used that its operator may bill, the ones that gave the client nothing included.

    A call that broke off or was cancelled tells no usage: the most that it should use stands for it.
    """
    calls = [
        (one.place, one.usage or most_tokens(trail)) for one in trail.tried if one.outcome in UNDELIVERED
    ]
    if (place := answered_at(trail)) is not None:
        calls.append((place, ending.usage or most_tokens(trail)))
    return calls


def answered_at(trail: Trail) -> Place | None:
    """The place whose answer was delivered, in whole or in part."""
    return next((one.place for one in trail.tried if one.outcome == "answered"), None)


def used_tokens(ending: Ending, trail: Trail) -> int:
    return sum(usage.prompt_tokens + usage.completion_tokens for _, usage in billed(ending, trail))


def spent_usd(ending: Ending, trail: Trail, context: GatewayContext) -> float:
    """USD for all calls at their places' prices; none for an answer from the cache."""
    if trail.facts is None:
        return 0.0
    model = trail.facts.model
    return sum(context.prices.cost_usd(place, model, usage) for place, usage in billed(ending, trail))


def receipt_put(receipt: str | None, trail: Trail, context: GatewayContext) -> Put | None:
    """The receipt, sealed under its tenant's key, to be fetched by id: where the store may keep records."""
    ttl_s = context.settings.receipt_ttl_s
    if receipt is None or trail.caller is None or trail.permitted is None or not ttl_s:
        return None
    if context.store_place is None or not all(
        permitted.allows(Action.RECORD, context.store_place)
        for permitted in (trail.permitted, permitted_now(trail, context))
    ):
        return None
    key = storage_key(trail.receipt_id)
    try:
        sealed = context.tenant_keys.seal(trail.caller.tenant, key.encode(), receipt.encode())
    except (TenantErased, KeysUnavailable):
        return None
    return Put(key, sealed, ttl_s)


def count(ending: Ending, trail: Trail, context: GatewayContext) -> None:
    metrics = context.metrics
    metrics.requests.labels(ending.outcome, str(ending.status)).inc()
    metrics.seconds.labels(ending.outcome).observe(context.clock.monotonic_s() - trail.started_s)
    metrics.cache.labels(trail.cache).inc()
    for one in trail.tried:
        metrics.attempts.labels(one.place.id, one.kind, one.outcome).inc()
    if ending.usage is not None and (place := answered_at(trail)) is not None:
        metrics.tokens.labels(place.id, "in").inc(ending.usage.prompt_tokens)
        metrics.tokens.labels(place.id, "out").inc(ending.usage.completion_tokens)


def answer_headers(receipt: str | None, trail: Trail) -> Headers:
    """`x-douane-*` of an answer. A receipt over 4 KB stays here; its id is sent alone."""
    headers: Headers = [
        (b"x-request-id", trail.incoming.request_id.encode()),
        (b"x-douane-decision", decision_text(trail).encode()),
        (b"x-douane-cache", trail.cache.encode()),
    ]
    if receipt is not None:
        headers.append((HEADER.encode(), header_value(trail.receipt_id, receipt).encode()))
    return headers


def decision_text(trail: Trail) -> str:
    """Revision, route and rules, for example `sha256:1f…; route=default; rules=public-anywhere`."""
    parts = [trail.bundle.revision[:19]]
    if trail.decision is not None:
        parts.append(f"route={trail.decision.route}")
    if trail.rules:
        parts.append(f"rules={','.join(trail.rules)}")
    if trail.facts is not None:
        parts.append(f"labels={','.join(trail.facts.labels.names())}")
    return "; ".join(parts)


async def refuse(error: DouaneError, trail: Trail, hangup: Hangup, context: GatewayContext) -> Reply:
    """The reply to a request that is not answered; with a receipt, once the caller is known."""
    hangup.disarm()
    body = error_reply(error, trail.incoming.request_id).body
    assert isinstance(body, bytes)
    ending = Ending("failed" if trail.processed else "refused", error.status, whole_answer(body), error.code)
    if hangup.happened:  # nobody is there to be told
        outcome: Outcome = "incomplete" if trail.processed else "refused"
        ending = Ending(outcome, CLIENT_GONE_STATUS, whole_answer(b""), "client_gone")
    trail.delivered = [] if hangup.happened else [body]
    try:
        receipt = await conclude(ending, trail, context)
    except RecordUnavailable as unavailable:
        return error_reply(unavailable, trail.incoming.request_id)
    return error_reply(error, trail.incoming.request_id, answer_headers(receipt, trail)[1:])
