"""The gateway's own door: may this request be read here, is there room, is its answer known already?"""

from __future__ import annotations

from gateway import errors
from gateway.backends.base import Usage
from gateway.cache import CachedAnswer, authorised, cache_key, open_entry
from gateway.context import GatewayContext
from gateway.conversation import known_names
from gateway.facts import Caller, Limits, above_ceiling
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.residency import authorised_now
from gateway.routing.hedge import calls_at_once
from gateway.sinks.timing import Timing
from gateway.store.base import Entered, Entry, Reservation
from gateway.trail import Trail

BYTES_PER_TOKEN = 3  # a cautious estimate of a prompt's tokens, corrected when the request leaves
OUTPUT_TOKENS_ESTIMATE = 4096  # reserved for an answer whose length the caller does not bound
NANO = 1_000_000_000
UNLIMITED = Limits()


def require_model(asked: str, caller: Caller, bundle: Bundle) -> str:
    """The canonical name of the model. Raises `ModelNotFound` or `ModelNotAllowed`."""
    model = bundle.routes.canonical(asked)
    if caller.models is not None and model not in caller.models:
        raise errors.ModelNotAllowed(
            f"this API key may not use `{model}`; it may use `{', '.join(sorted(caller.models))}`",
            param="model",
        )
    return model


def require_entrance(trail: Trail, context: GatewayContext) -> None:
    """Raises `ResidencyDenied` when these facts may not be read by this gateway, or recorded by its audit."""
    assert trail.permitted is not None and trail.facts is not None and trail.caller is not None
    if above := above_ceiling(trail.facts, trail.caller, trail.bundle.vocabulary):
        raise errors.ResidencyDenied(
            f"the label `{above[0]}` is above what this tenant may carry; send it under a tenant whose "
            "`ceiling` allows it",
            details={"labels": list(above)},
        )
    permitted = trail.permitted
    for action, place in context.needs:
        if not permitted.allows(action, place):
            verdict = permitted.verdict(action, place)
            trail.rules = (verdict.rule,)
            raise errors.ResidencyDenied(
                f"this gateway may not serve the request: `{action}` at `{place}` is denied by "
                f"`{verdict.rule}`; send it to a gateway in a place that its labels permit",
                details={"rule": verdict.rule, "basis": verdict.basis, "place": place, "action": str(action)},
            )


async def reserve_and_look_up(trail: Trail, context: GatewayContext) -> tuple[Entered, CachedAnswer | None]:
    """Steps 2, 5 and 6 in one round trip to the store.

    A cached entry that cannot be used took the place of a reservation: the request then enters once more, as
    one that looks nothing up.
    """
    trail.cache_key = cache_key_of(trail, context)
    trail.cache = "off" if trail.cache_key is None else "miss"
    entered = await enter(trail, context)
    if entered.cached is None:
        return entered, None
    if cached := usable(entered.cached, trail, context):
        trail.cache = "hit"
        return entered, cached
    trail.cache_key = None
    return await enter(trail, context), None


async def enter(trail: Trail, context: GatewayContext) -> Entered:
    assert trail.facts is not None and trail.caller is not None and trail.conversation is not None
    vocabulary = trail.bundle.vocabulary
    reservation = estimate(trail, context)
    at_ceiling = vocabulary.within(trail.caller.ceiling, trail.facts.labels)
    # A name that today's vocabulary lacks is never among the labels of `facts`; the ceiling stands for it.
    stale = trail.taint if at_ceiling else frozenset()
    asked_s = context.clock.monotonic_s()
    entered = await context.store.enter(
        Entry(
            tenant=trail.caller.tenant,
            conversation=trail.conversation,
            known_labels=known_names(trail.facts.labels, vocabulary) | stale,
            at_ceiling=at_ceiling,
            reservation=reservation,
            cache_key=trail.cache_key,
        )
    )
    trail.timings.append(Timing("store", asked_s, context.clock.monotonic_s()))
    trail.taint |= entered.taint
    trail.entered = entered.accepted
    if entered.accepted and entered.overrun is None and entered.cached is None:
        trail.reservation = reservation
    return entered


def cache_key_of(trail: Trail, context: GatewayContext) -> str | None:
    """The key of this request's cache partition and entry; None when it may not be kept in this store."""
    assert trail.chat is not None and trail.permitted is not None
    if not context.settings.cache_ttl_s:
        return None
    return cache_key(trail.chat, trail.permitted, context.store_place, context.tenant_keys.commit)


def estimate(trail: Trail, context: GatewayContext) -> Reservation:
    """The most that this request should use: of each call at once, the most tokens at the dearest place."""
    assert trail.caller is not None and trail.permitted is not None
    caller = trail.caller
    if caller.limits == UNLIMITED:
        return Reservation(trail.incoming.request_id, caller.key_id, 0, 0, caller.limits)
    most, model = most_tokens(trail), trail.permitted.facts.model
    calls = calls_at_once(trail.bundle.routes.for_model(model, trail.permitted.facts.zone))
    usd = max(
        (
            context.prices.estimate_usd(
                trail.bundle.places[place], model, most.prompt_tokens, most.completion_tokens
            )
            for place in trail.permitted.places[Action.INFER] & context.backends.keys()
        ),
        default=0.0,
    )
    return Reservation(
        trail.incoming.request_id,
        caller.key_id,
        calls * (most.prompt_tokens + most.completion_tokens),
        calls * round(usd * NANO),
        caller.limits,
    )


def most_tokens(trail: Trail) -> Usage:
    """The most that one call for this request should use: by its bytes and its bound on the answer."""
    assert trail.chat is not None
    prompt_tokens = len(trail.incoming.body) // BYTES_PER_TOKEN + 1
    return Usage(prompt_tokens, trail.chat.max_output_tokens or OUTPUT_TOKENS_ESTIMATE)


def require_room(entered: Entered) -> None:
    """Raises `RateLimited` or `BudgetExceeded` when one of the caller's limits is used up."""
    overrun = entered.overrun
    if overrun is None:
        return
    kind = errors.BudgetExceeded if overrun.limit == "usd_per_day" else errors.RateLimited
    raise kind(
        f"the limit `{overrun.limit}` of this API key is used up; "
        f"try again after {overrun.retry_after_s:.0f} s",
        retry_after_s=overrun.retry_after_s,
        details={"limit": overrun.limit},
    )


def usable(sealed: bytes, trail: Trail, context: GatewayContext) -> CachedAnswer | None:
    """The cached answer, if it is one, and if today's bundle still permits it to be told."""
    assert trail.cache_key is not None and trail.caller is not None and trail.permitted is not None
    cached = open_entry(sealed, trail.cache_key, trail.caller.tenant, context.tenant_keys)
    if (
        cached is not None
        and authorised(cached, trail.permitted, context.store_place)
        and authorised_now(cached, trail, context)
    ):
        return cached
    return None
