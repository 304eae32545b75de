"""What a refused caller reads: the rule, its basis, and the nearest thing that would be permitted."""

from __future__ import annotations

from typing import Protocol

from gateway import errors
from gateway.cache import CachedAnswer, authorised
from gateway.context import GatewayContext
from gateway.facts import Facts
from gateway.labels import UnknownLabel
from gateway.places import Action
from gateway.policy.alternative import nearest_alternative
from gateway.policy.permit import Permitted, permit
from gateway.trail import Trail


class Judged(Protocol):
    """Whatever is known of a request that has been judged: its trail, or what a sink keeps of it."""

    @property
    def facts(self) -> Facts | None: ...

    @property
    def permitted(self) -> Permitted | None: ...


def at_worst(trail: Trail) -> tuple[Permitted, ...]:
    """What is permitted, for each model that it may be for, of a request that ended before all of its labels
    were known, by detectors or by the store: it may carry whatever its tenant may, and what it declares.

    Empty once they are known, and where nobody is known to ask.
    """
    if trail.entered or trail.caller is None:
        return ()
    vocabulary, caller = trail.bundle.vocabulary, trail.caller
    labels = [caller.ceiling, caller.floor]
    if trail.facts is not None:
        labels.append(trail.facts.labels)
    try:
        declared = vocabulary.parse(trail.incoming.labels or "")
    except UnknownLabel:
        declared = vocabulary.highest
    if declared is not None:
        labels.append(declared)
    carried = vocabulary.union(*labels)
    models = trail.bundle.table.models if trail.facts is None else (trail.facts.model,)
    return tuple(
        permit(Facts(caller.tenant, caller.zone, caller.purpose, model, carried), trail.bundle)
        for model in models
    )


def permitted_now(trail: Judged, context: GatewayContext) -> Permitted:
    """What the bundle in force permits: a copy must suit it as well as the one the request came in under."""
    assert trail.permitted is not None and trail.facts is not None
    current = context.policies.current
    if current.revision == trail.permitted.revision:
        return trail.permitted
    return permit(trail.facts, current)


def authorised_now(cached: CachedAnswer, trail: Trail, context: GatewayContext) -> bool:
    """Whether the bundle in force permits this copy too: made at the very place, not merely at its name."""
    place = cached.origin.place
    same = context.policies.current.places.get(place) == trail.bundle.places.get(place)
    return same and authorised(cached, permitted_now(trail, context), context.store_place)


def cached_rules(cached: CachedAnswer, trail: Trail, context: GatewayContext) -> tuple[str, ...]:
    """The rules by which this copy may be told: that of its making, and that of its keeping."""
    assert trail.permitted is not None and context.store_place is not None
    asked = ((Action.INFER, cached.origin.place), (Action.CACHE, context.store_place))
    return tuple(dict.fromkeys(trail.permitted.verdict(action, place).rule for action, place in asked))


def require_permitted(trail: Trail, context: GatewayContext) -> None:
    """Raises `ResidencyDenied` when the plan is empty because no backend that exists here is permitted.

    A permitted backend that is down is another matter: then the plan's attempts, or their absence, say so.
    """
    assert trail.decision is not None and trail.permitted is not None and trail.facts is not None
    decision, permitted = trail.decision, trail.permitted
    if decision.attempts or any(one.reason != "unconfigured" for one in decision.skipped):
        planned = dict.fromkeys(
            permitted.verdict(Action.INFER, one.place.id).rule for one in decision.attempts
        )
        trail.rules = tuple(planned)
        return
    denied = [
        permitted.verdict(Action.INFER, place)
        for place in context.backends
        if place in trail.bundle.places and not permitted.allows(Action.INFER, place)
    ]
    trail.rules = tuple(dict.fromkeys(verdict.rule for verdict in denied))
    basis = next((verdict.basis for verdict in denied if verdict.basis), None)
    named = f"rule `{trail.rules[0]}`" if trail.rules else "the bundle"
    labels = ", ".join(f"`{name}`" for name in trail.facts.labels.names())
    raise errors.ResidencyDenied(
        f"no configured backend is permitted for `{trail.facts.model}` with the labels {labels}: "
        f"{named} denies it"
        + (f" ({basis})" if basis else "")
        + f"; {nearest_alternative(trail.facts, trail.bundle)}",
        details={"rule": trail.rules[0] if trail.rules else None, "rules": list(trail.rules), "basis": basis},
    )
