"""Step 8: nothing is processed before the record that it begins is kept."""

from __future__ import annotations

from gateway.audit.records import Begin
from gateway.considered import considered_of
from gateway.context import GatewayContext
from gateway.errors import RecordUnavailable
from gateway.trail import Trail


async def record_begin(trail: Trail, context: GatewayContext) -> None:
    """Raises `RecordUnavailable` when the record cannot be written, unless the operator chose to go on."""
    assert trail.caller is not None and trail.chat is not None
    assert trail.facts is not None and trail.permitted is not None
    commit, tenant, end_user = context.tenant_keys.commit, trail.caller.tenant, trail.chat.end_user
    record = Begin(
        request=trail.incoming.request_id,
        key=trail.caller.key_id,
        facts=trail.facts,
        revision=trail.bundle.revision,
        serial=trail.bundle.serial,
        rules=trail.rules,
        permitted=trail.permitted.digest,
        plan=tuple(attempt.place.id for attempt in trail.decision.attempts) if trail.decision else (),
        stream=trail.chat.wants_stream,
        request_hmac=commit(tenant, trail.incoming.body),
        detected=trail.detected,
        end_user_hmac=commit(tenant, b"end-user\0" + end_user.encode()) if end_user is not None else None,
        considered=considered_of(trail.permitted, trail.decision, trail.bundle, context.verdicts),
    )
    try:
        trail.begun = await context.audit.append(record.kind, record.fields())
    except RecordUnavailable:
        if context.settings.audit_failure == "refuse":
            raise
        context.sinks.log.event("audit_unavailable", trail, context, record=record.kind)
