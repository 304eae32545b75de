"""The plan: only permitted places, in the route's order, and fewer of them the more is down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.permit import permit
from gateway.policy.routes import Hop, Route
from gateway.routing.attempt import Attempt, NotPermitted
from gateway.routing.health import FAILURES_TO_OPEN, BackendState
from gateway.routing.plan import Decision, by_weight, plan
from tests.policy.bundles import loaded_default, one_of_each_class

BUNDLE = loaded_default().bundle
BACKENDS = sorted(
    place.id for place in BUNDLE.places.values() if Action.INFER in place.actions and place.models
)
EVERY_FACTS = one_of_each_class(BUNDLE)
NOW_S = 100.0
OPEN = BackendState(failures=FAILURES_TO_OPEN, open_until_s=NOW_S + 1)
PUBLIC = Facts("demo", "DE", "general", "gpt-oss-20b", Labels("public", frozenset()))

FACTS = st.sampled_from(EVERY_FACTS)
SOME = st.frozensets(st.sampled_from(BACKENDS))
STATES = st.dictionaries(
    st.sampled_from(BACKENDS),
    st.builds(
        BackendState,
        failures=st.integers(0, 6),
        open_until_s=st.sampled_from([0.0, NOW_S, NOW_S + 5]),
        trial_running=st.booleans(),
        in_flight=st.integers(0, 10),
        slots=st.integers(0, 6),
        queued=st.integers(0, 6),
    ),
)


def planned(
    facts: Facts,
    *,
    configured: frozenset[str] = frozenset(BACKENDS),
    unable: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    states: Mapping[str, BackendState] = MappingProxyType({}),
    affinity: str = "a conversation",
    route: Route | None = None,
) -> Decision:
    chosen = route or BUNDLE.routes.for_model(facts.model, facts.zone)
    return plan(permit(facts, BUNDLE), chosen, BUNDLE.places, configured, unable, states, NOW_S, affinity)


def places(decision: Decision) -> list[str]:
    return [attempt.place.id for attempt in decision.attempts]


def reachable(decision: Decision) -> set[str]:
    """What is tried, or would be if the bound on attempts were higher."""
    return {*places(decision), *(one.place for one in decision.skipped if one.reason == "beyond_bound")}


@given(facts=FACTS, configured=SOME, unable=SOME, states=STATES, affinity=st.text())
def test_only_permitted_places_that_can_answer_are_tried(
    facts: Facts,
    configured: frozenset[str],
    unable: frozenset[str],
    states: dict[str, BackendState],
    affinity: str,
) -> None:
    names = dict.fromkeys(unable, ("seed",))
    decision = planned(facts, configured=configured, unable=names, states=states, affinity=affinity)
    allowed = permit(facts, BUNDLE).places[Action.INFER]
    route = BUNDLE.routes.for_model(facts.model, facts.zone)
    routed = {hop.place for tier in route.tiers for hop in tier}

    assert reachable(decision) <= (allowed & configured) - unable
    assert all(states.get(place, BackendState()).accepts(NOW_S) for place in reachable(decision))
    assert {*places(decision), *(one.place for one in decision.skipped)} == allowed & routed
    assert len(places(decision)) == len(set(places(decision))) <= route.attempts_max
    assert all(attempt.permitted.facts == facts for attempt in decision.attempts)


@given(facts=FACTS, configured=SOME, states=STATES, affinity=st.text())
def test_the_same_arguments_give_the_same_plan(
    facts: Facts, configured: frozenset[str], states: dict[str, BackendState], affinity: str
) -> None:
    first = planned(facts, configured=configured, states=states, affinity=affinity)
    backwards = dict(reversed(states.items()))

    assert planned(facts, configured=configured, states=backwards, affinity=affinity) == first


@given(facts=FACTS, states=STATES, broken=SOME, affinity=st.text())
def test_more_faults_never_add_a_place(
    facts: Facts, states: dict[str, BackendState], broken: frozenset[str], affinity: str
) -> None:
    well = planned(facts, states=states, affinity=affinity)
    worse = planned(facts, states={**states, **dict.fromkeys(broken, OPEN)}, affinity=affinity)

    assert reachable(worse) == reachable(well) - broken


@given(states=STATES, affinity=st.text())
def test_tiers_keep_their_order_and_full_places_come_last(
    states: dict[str, BackendState], affinity: str
) -> None:
    route = replace(BUNDLE.routes.for_model(PUBLIC.model, PUBLIC.zone), attempts_max=100)
    tier_of = {hop.place: number for number, tier in enumerate(route.tiers) for hop in tier}
    bounds = {hop.place: hop.spill_when_waiting_over for tier in route.tiers for hop in tier}

    def full(place: str) -> bool:
        bound = bounds[place]
        return bound is not None and states.get(place, BackendState()).waiting > bound

    order = places(planned(PUBLIC, states=states, affinity=affinity, route=route))

    assert order == sorted(order, key=lambda place: (full(place), tier_of[place]))


def test_a_place_that_is_not_permitted_cannot_be_attempted() -> None:
    secret = permit(replace(PUBLIC, labels=Labels("secret", frozenset())), BUNDLE)

    with pytest.raises(NotPermitted, match="`bedrock-frankfurt`"):
        Attempt(BUNDLE.places["bedrock-frankfurt"], secret, 1.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "reason", "parameters"),
    [
        ({"states": {"local-engine": OPEN}}, "unavailable", ()),
        ({"unable": {"local-engine": ("seed", "stop")}}, "unsupported", ("seed", "stop")),
        ({"unable": {"local-engine": ()}}, "not_loaded", ()),
        ({"configured": frozenset(BACKENDS) - {"local-engine"}}, "unconfigured", ()),
    ],
)
def test_why_a_place_is_not_tried_is_said(
    fields: dict[str, object], reason: str, parameters: tuple[str, ...]
) -> None:
    decision = planned(PUBLIC, **fields)  # type: ignore[arg-type]

    (said,) = [one for one in decision.skipped if one.place == "local-engine"]
    assert (said.reason, said.parameters) == (reason, parameters)
    assert "local-engine" not in places(decision)


def test_a_share_of_conversations_goes_to_each_hop_by_its_weight() -> None:
    tier = (Hop("a", 100), Hop("b", 300), Hop("never", 0), Hop("c", 600))
    first = Counter(by_weight(tier, f"conversation {n}")[0].place for n in range(4000))

    # Four standard deviations of a binomial distribution are at most 4·√(4000·¼) ≈ 127.
    assert abs(first["a"] - 400) < 127
    assert abs(first["b"] - 1200) < 127
    assert abs(first["c"] - 2400) < 127
    assert first["never"] == 0


def test_a_hop_that_goes_moves_no_conversation_between_the_others() -> None:
    tier = (Hop("a"), Hop("b"), Hop("c"))
    for n in range(500):
        before = [hop.place for hop in by_weight(tier, str(n))]
        after = [hop.place for hop in by_weight(tier[:2], str(n))]
        assert after == [place for place in before if place != "c"]


def test_a_conversation_stays_where_it_is() -> None:
    tier = (Hop("a"), Hop("b"), Hop("c"))

    assert len({by_weight(tier, "one conversation") for _ in range(50)}) == 1
    assert {by_weight(tier, f"conversation {n}")[0].place for n in range(50)} == {"a", "b", "c"}


FULL = BackendState(queued=100)


@pytest.mark.parametrize(
    ("states", "kind", "too_busy"),
    [
        ({}, "first", set()),
        ({"local-engine": FULL}, "spill", {"local-engine"}),
        ({"local-engine": OPEN}, "first", set()),
        ({**dict.fromkeys(BACKENDS, OPEN), "local-engine": FULL}, "first", {"local-engine"}),
    ],
)
def test_it_is_said_that_the_first_try_spills_over_and_from_where(
    states: dict[str, BackendState], kind: str, too_busy: set[str]
) -> None:
    decision = planned(PUBLIC, states=states)

    assert decision.first_kind == kind
    assert decision.too_busy == too_busy


def test_a_place_that_the_route_puts_later_makes_no_spill_of_the_first_try() -> None:
    """Only the second tier of three is full."""
    tiers = ((Hop("bedrock-frankfurt"),), (Hop("local-engine", 100, 4),), (Hop("bedrock-milan"),))
    route = replace(BUNDLE.routes.for_model(PUBLIC.model, PUBLIC.zone), tiers=tiers)

    decision = planned(PUBLIC, states={"local-engine": FULL}, route=route)
    assert decision.first_kind == "first"
    assert decision.too_busy == {"local-engine"}


def test_what_the_route_says_of_hedges_and_fallbacks_goes_into_the_plan() -> None:
    tiers = ((Hop("local-engine", context_tokens=8192),), (Hop("bedrock-frankfurt"),))
    route = BUNDLE.routes.for_model(PUBLIC.model, PUBLIC.zone)
    silent = planned(PUBLIC, route=route)
    said = planned(
        PUBLIC,
        route=replace(
            route, tiers=tiers, hedge_after_s=1.5, on_context_window="next", on_content_filter="next"
        ),
    )

    assert (silent.hedge_after_s, silent.on_context_window, silent.on_content_filter) == (
        None,
        "refuse",
        "refuse",
    )
    assert (said.hedge_after_s, said.on_context_window, said.on_content_filter) == (1.5, "next", "next")
    assert [attempt.context_tokens for attempt in said.attempts] == [8192, None]
