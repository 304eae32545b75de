"""The table, the reference semantics and the invariants of `permit`."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import BACKEND_KINDS, GATEWAY_KIND, Action
from gateway.policy.bundle import Bundle
from gateway.policy.decide import decide, facts_meet, place_meets
from gateway.policy.permit import permit
from gateway.policy.rules import (
    ACTION_NOT_OFFERED,
    DEFAULT_DENY,
    MODEL_NOT_SERVED,
    STALE_FACTS,
    UNKNOWN_PLACE,
    Effect,
)
from tests.policy.bundles import (
    every_condition,
    every_facts,
    loaded_default,
    one_of_each_class,
    table_of,
    with_tenant_in_every_zone,
)
from tests.policy.made_up import bundles

calm = settings(deadline=None, max_examples=30)

NO_RULE = {DEFAULT_DENY, MODEL_NOT_SERVED, ACTION_NOT_OFFERED}


@pytest.fixture(scope="module", params=["default", "every condition"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return loaded_default().bundle if request.param == "default" else every_condition()


def assert_agrees_with_the_reference(bundle: Bundle, facts: Facts) -> None:
    """Holds every action at every place against the reference semantics."""
    permitted = permit(facts, bundle)
    for action, place in itertools.product(Action, bundle.places.values()):
        allowed, rule = decide(facts, place, action, bundle.rules, bundle.vocabulary, bundle.geography.zones)
        verdict = permitted.verdict(action, place.id)
        if action not in place.actions:
            assert (verdict.allowed, verdict.rule) == (False, ACTION_NOT_OFFERED)
        elif not place.offers(action, facts.model):
            assert (verdict.allowed, verdict.rule) == (False, MODEL_NOT_SERVED)
        else:
            assert (verdict.allowed, verdict.rule) == (allowed, rule)
        assert permitted.allows(action, place.id) is verdict.allowed
        usable = verdict.allowed and (action is not Action.INFER or place.kind in BACKEND_KINDS)
        assert (place.id in permitted.places[action]) is usable
        if action is Action.INFER:
            entrance = verdict.allowed and place.kind == GATEWAY_KIND
            assert (place.id in permitted.entrances) is entrance


def test_the_table_equals_the_reference_for_every_combination_of_facts(bundle: Bundle) -> None:
    everywhere = with_tenant_in_every_zone(bundle)
    tenants = [*bundle.tenants, "any-no", "any-ch", "any-jp", "any-ie"]

    checked = 0
    for facts in every_facts(everywhere, tenants):
        assert_agrees_with_the_reference(everywhere, facts)
        checked += 1

    assert checked == len(tenants) * 4 * 2 * (4 * 8)


def test_every_country_of_the_world_is_judged_as_the_reference_judges_it(bundle: Bundle) -> None:
    everywhere = with_tenant_in_every_zone(bundle)
    labels = Labels("internal", frozenset({"personal"}))

    for tenant in everywhere.tenants.values():
        assert_agrees_with_the_reference(
            everywhere, Facts(tenant.id, tenant.zone, "general", "gpt-oss-20b", labels)
        )


def test_facts_of_one_class_have_one_outcome_and_the_classes_cover_all_facts(bundle: Bundle) -> None:
    everywhere = with_tenant_in_every_zone(bundle)
    classes = {(facts.model, permit(facts, everywhere).digest) for facts in one_of_each_class(everywhere)}

    for facts in every_facts(everywhere, ["demo", "globex-us", "nhs-gb", "any-ch"]):
        assert (facts.model, permit(facts, everywhere).digest) in classes


def test_outcomes_worked_out_on_demand_equal_the_listed_ones(bundle: Bundle) -> None:
    listed, on_demand = bundle.table, table_of(bundle, listed_max=0)

    assert len(listed.outcomes) == listed.classes
    assert not on_demand.outcomes
    for (model, applying), outcome in listed.outcomes.items():
        worked_out = on_demand.outcome(model, applying)
        assert (worked_out.places, worked_out.entrances, worked_out.digest) == (
            outcome.places,
            outcome.entrances,
            outcome.digest,
        )


@calm
@given(st.data())
def test_the_table_equals_the_reference_for_made_up_bundles(data: st.DataObject) -> None:
    bundle = data.draw(bundles(labels_in_permits=True))

    for facts in every_facts(bundle, bundle.tenants):
        assert_agrees_with_the_reference(bundle, facts)


@calm
@given(bundles(), st.data())
def test_more_labels_never_permit_more(bundle: Bundle, data: st.DataObject) -> None:
    tenant, purpose, model = (
        data.draw(st.sampled_from(sorted(names)))
        for names in (bundle.tenants, bundle.vocabulary.purposes, bundle.routes.models)
    )
    zone = bundle.tenants[tenant].zone

    for fewer, more in itertools.combinations(bundle.table.labels, 2):
        joined = bundle.vocabulary.union(fewer, more)
        less = permit(Facts(tenant, zone, purpose, model, fewer), bundle)
        all_of_it = permit(Facts(tenant, zone, purpose, model, joined), bundle)
        for action in Action:
            assert all_of_it.places[action] <= less.places[action]
        assert all_of_it.entrances <= less.entrances


@calm
@given(bundles(labels_in_permits=True), st.data())
def test_a_permitted_place_serves_the_model_and_is_named_by_a_permit_and_by_no_forbid(
    bundle: Bundle, data: st.DataObject
) -> None:
    facts = data.draw(st.sampled_from(list(every_facts(bundle, bundle.tenants))))
    permitted = permit(facts, bundle)

    for action in Action:
        for place_id in permitted.places[action]:
            place = bundle.places[place_id]
            assert place.offers(action, facts.model)
            applying = {
                rule.effect
                for rule in bundle.rules
                if action in rule.actions
                and facts_meet(rule.facts, facts, bundle.vocabulary, bundle.geography.zones)
                and place_meets(rule.place, place)
                and not (place_meets(rule.unless, place) and not rule.unless.empty)
            }
            assert applying == {Effect.PERMIT}
            assert permitted.verdict(action, place_id).rule not in NO_RULE
    for place_id in permitted.places[Action.INFER]:
        assert facts.model in bundle.places[place_id].models


@calm
@given(bundles(effects=(Effect.FORBID,)))
def test_without_a_permit_nothing_is_permitted_anywhere(bundle: Bundle) -> None:
    for facts in every_facts(bundle, bundle.tenants):
        permitted = permit(facts, bundle)
        assert all(not places for places in permitted.places.values())
        assert not permitted.recordable


@calm
@given(bundles(labels_in_permits=True), st.data())
def test_two_decisions_have_the_same_digest_just_when_they_permit_the_same(
    bundle: Bundle, data: st.DataObject
) -> None:
    every = st.sampled_from(list(every_facts(bundle, bundle.tenants)))
    one, other = permit(data.draw(every), bundle), permit(data.draw(every), bundle)

    same = dict(one.places) == dict(other.places) and one.entrances == other.entrances
    assert (one.digest == other.digest) is same


@pytest.mark.parametrize(
    "facts",
    [
        Facts("gone", "DE", "general", "gpt-oss-20b", Labels("public", frozenset())),
        Facts("demo", "US", "general", "gpt-oss-20b", Labels("public", frozenset())),
        Facts("demo", "DE", "gone", "gpt-oss-20b", Labels("public", frozenset())),
        Facts("demo", "DE", "general", "gone", Labels("public", frozenset())),
        Facts("demo", "DE", "general", "gpt-oss-20b", Labels("gone", frozenset())),
        Facts("demo", "DE", "general", "gpt-oss-20b", Labels("public", frozenset({"gone"}))),
    ],
)
def test_facts_that_a_revision_does_not_know_are_permitted_nowhere(facts: Facts) -> None:
    bundle = loaded_default().bundle

    permitted = permit(facts, bundle)

    assert all(not places for places in permitted.places.values())
    assert not permitted.entrances
    for action, place in itertools.product(Action, bundle.places):
        verdict = permitted.verdict(action, place)
        assert (verdict.allowed, verdict.rule) == (False, STALE_FACTS)


def test_a_place_that_a_revision_does_not_have_is_not_permitted() -> None:
    bundle = loaded_default().bundle
    permitted = permit(Facts("demo", "DE", "general", "gpt-oss-20b", Labels("public", frozenset())), bundle)

    for action in Action:
        assert not permitted.allows(action, "elsewhere")
        verdict = permitted.verdict(action, "elsewhere")
        assert (verdict.allowed, verdict.rule, verdict.basis) == (False, UNKNOWN_PLACE, None)
    assert permitted.revision == bundle.revision
