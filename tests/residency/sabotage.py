"""Each check that keeps a request where it may be, and how to take it away.

A check that stands behind another one hides that the other is gone, and is hidden by it; such a pair is
named here with the reason, and the one in front is taken away as well, so that the one that is meant is met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from gateway import cache, chat, conclusion, deliver, entrance, facts, residency
from gateway.context import GatewayContext
from gateway.places import Action
from gateway.policy.permit import Permitted
from gateway.routing import attempts, plan
from gateway.routing.attempt import Attempt
from gateway.routing.kind import Kind
from gateway.sinks import content_log
from gateway.sinks import detail as sinks_detail
from gateway.trail import Trail
from tests.residency.worlds import AUDIT, GATEWAY, STORE, TERMINATOR

Patch = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sabotage:
    """`check` is what is taken away; `weights` make the worlds in which it matters common."""

    check: str
    patches: tuple[Patch, ...]
    weights: dict[str, float] = field(default_factory=dict)
    seed: str = "sab"

    @property
    def name(self) -> str:
        """The check in letters and hyphens, as a test's id."""
        return re.sub(r"[^a-z0-9_]+", "-", self.check.lower()).strip("-")

    @contextmanager
    def done(self) -> Iterator[None]:
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch())
            yield


def put(owner: Any, name: str, new: Any) -> Patch:
    return lambda: mock.patch.object(owner, name, new)


def allowing(permitted: Permitted, action: Action, place: str) -> Permitted:
    """The same, as if `action` were permitted at `place` too."""
    return replace(permitted, places={**permitted.places, action: permitted.places[action] | {place}})


def without_entrance_check(action: Action, place: str) -> Patch:
    """The entrance, which never asks about this one action at this one place."""
    require = entrance.require_entrance

    def blind(trail: Trail, context: GatewayContext) -> None:
        seen = trail.permitted
        assert seen is not None
        trail.permitted = allowing(seen, action, place)
        try:
            require(trail, context)
        finally:
            trail.permitted = seen

    return put(chat, "require_entrance", blind)


def permitted_at_first(trail: Trail, context: GatewayContext) -> Permitted:
    """What `permitted_now` would be if no other bundle ever came into force."""
    assert trail.permitted is not None
    return trail.permitted


class EveryPlace(frozenset[str]):
    """Says of each place that it is in it."""

    def __contains__(self, place: object) -> bool:
        return True


def plan_that_asks_nobody(permitted: Permitted, *given: Any, **named: Any) -> Any:
    everywhere = replace(permitted, places={**permitted.places, Action.INFER: EveryPlace()})
    decision = plan.plan(everywhere, *given, **named)
    return replace(decision, attempts=tuple(replace(one, permitted=permitted) for one in decision.attempts))


async def accept_whatever_the_store_says(trail: Trail, context: GatewayContext) -> Any:
    entered, cached = await entrance.reserve_and_look_up(trail, context)
    return replace(entered, accepted=True), cached


def key_without_permission(chat_: Any, permitted: Permitted, store_place: str | None, commit: Any) -> Any:
    assert store_place is not None
    return cache.cache_key(chat_, allowing(permitted, Action.CACHE, store_place), store_place, commit)


def authorised_by_name(cached: Any, trail: Trail, context: GatewayContext) -> bool:
    return cache.authorised(cached, residency.permitted_now(trail, context), context.store_place)


def facts_without(what: str) -> Patch:
    """Labels that are not joined: `taint`, or `floor`, what the tenant and the key always say."""
    collect = facts.collect_facts

    def collect_less(caller: Any, model: Any, header: Any, taint: Any, detected: Any, vocabulary: Any) -> Any:
        if what == "floor":
            caller = replace(caller, floor=vocabulary.lowest)
        return collect(caller, model, header, None if what == "taint" else taint, detected, vocabulary)

    return put(chat, "collect_facts", collect_less)


SWAPS = {"swap": 0.9, "fault": 0.8, "moved": 0.5, "out": 0.0, "audit out": 0.0}
COPIES = {
    "again": 0.8, "swap": 0.3, "early": 0.7, "closed": 0.4, "fault": 0.0, "labelled": 0.1, "longer": 0.0,
    "forgotten": 0.0, "out": 0.0, "lost": 0.0, "audit out": 0.0, "hedging": 0.0, "together": 0.0,
}  # fmt: skip
PASTS = {"longer": 0.8, "forgotten": 0.9, "swap": 0.0, "fault": 0.1, "out": 0.0}
DOORS = {"own places abroad": 0.5, "swap": 0.0, "fault": 0.0, "out": 0.0}

ALWAYS = put(Attempt, "still_permitted", lambda attempt, bundle: True)
AT_PLACE = attempts.at_place


async def hedge_without_asking(attempt: Attempt, kind: Kind, tries: Any) -> Any:
    if kind == "hedge":
        tries = replace(tries, still_permitted=lambda attempt: True)
    return await AT_PLACE(attempt, kind, tries)


SABOTAGES = (
    # In front of the constructor stands the plan, which takes places from `Permitted` alone: taking away the
    # constructor only, nothing would ever reach it.
    Sabotage(
        "Attempt: only for a permitted place",
        (put(Attempt, "__post_init__", lambda attempt: None), put(chat, "plan", plan_that_asks_nobody)),
    ),
    Sabotage("still_permitted before each try", (ALWAYS,), SWAPS),
    Sabotage(
        "still_permitted before a hedge",
        (put(attempts, "at_place", hedge_without_asking),),
        {**SWAPS, "hedging": 1.0, "slow": 1.0},
    ),
    # A place that moved is often forbidden where it is now; here the one that is meant must be the only one.
    Sabotage(
        "backend_of: the very place, not its name",
        (put(attempts, "backend_of", lambda attempt, backends: backends.get(attempt.place.id)),),
        {**SWAPS, "moved": 1.0},
    ),
    Sabotage(
        "a copy is told under the bundle in force",
        (
            put(residency, "permitted_now", permitted_at_first),
            put(deliver, "authorised_now", lambda *given: True),
        ),
        COPIES,
    ),  # the second look, see below
    Sabotage(
        "a copy is told where authorised",
        (
            put(residency, "authorised", lambda *given: True),
            put(entrance, "authorised", lambda *given: True),
        ),
        COPIES,
    ),
    Sabotage(
        "a copy is told after a second look", (put(deliver, "authorised_now", lambda *given: True),), COPIES
    ),
    Sabotage(
        "a copy was made at the very place, not its name",
        (
            put(entrance, "authorised_now", authorised_by_name),
            put(deliver, "authorised_now", authorised_by_name),
        ),
        {**COPIES, "moved": 1.0},
    ),
    Sabotage(
        "cache_key: none where copies may not be kept", (put(entrance, "cache_key", key_without_permission),)
    ),
    # Behind `cache_key`, so it matters where the bundle changes after that.
    Sabotage(
        "cache_put under the bundle in force", (put(deliver, "permitted_now", permitted_at_first),), COPIES
    ),
    Sabotage(
        "receipt_put under the bundle in force",
        (put(conclusion, "permitted_now", permitted_at_first),),
        {**SWAPS, "moved": 0.0, "closed": 0.8},
    ),
    Sabotage("entrance: the audit may record", (without_entrance_check(Action.RECORD, AUDIT),), DOORS),
    Sabotage("entrance: the gateway may read", (without_entrance_check(Action.INFER, GATEWAY),), DOORS),
    Sabotage("entrance: the store may record", (without_entrance_check(Action.RECORD, STORE),), DOORS),
    Sabotage("entrance: the terminator may read", (without_entrance_check(Action.INFER, TERMINATOR),), DOORS),
    Sabotage(
        "content log: what its place may hold",
        (put(content_log, "detail", lambda *given: sinks_detail.Detail.CONTENT),),
        DOORS,
    ),
    Sabotage(
        "content log: under the bundle in force",
        (put(sinks_detail, "permitted_now", permitted_at_first),),
        {**SWAPS, "moved": 0.0},
    ),
    Sabotage("recordable: also a refusal", (put(conclusion, "recordable", lambda *given: True),), DOORS),
    Sabotage(
        "taint: the store corrects the guess",
        (put(chat, "reserve_and_look_up", accept_whatever_the_store_says),),
        PASTS,
    ),
    Sabotage(
        "facts: joined with the taint",
        (facts_without("taint"), put(chat, "reserve_and_look_up", accept_whatever_the_store_says)),
        PASTS,
    ),  # else it asks for ever
    Sabotage("facts: joined with what the key always says", (facts_without("floor"),)),
)
