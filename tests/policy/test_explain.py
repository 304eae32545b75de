from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.alternative import answerable, lower, nearest_alternative
from gateway.policy.bundle import Bundle
from gateway.policy.explain import explain
from gateway.policy.permit import permit
from tests.policy.bundles import compiled, edited, every_facts, loaded_default
from tests.policy.made_up import bundles

HEALTH = Labels("public", frozenset({"health"}))
FORBIDDEN = Facts("demo", "DE", "analytics", "gpt-oss-20b", HEALTH)


def test_every_place_is_explained_for_every_action_that_it_offers() -> None:
    bundle = loaded_default().bundle
    permitted = permit(FORBIDDEN, bundle)

    found = explain(FORBIDDEN, bundle)

    assert [(one.action, one.place) for one in found.candidates] == [
        (action, place)
        for action, place in itertools.product(Action, sorted(bundle.places))
        if action in bundle.places[place].actions
    ]
    for one in found.candidates:
        assert one.verdict == permitted.verdict(one.action, one.place)
    assert not found.permitted


def test_a_candidate_shows_each_condition_and_the_value_it_met() -> None:
    facts = Facts("demo", "DE", "general", "gpt-oss-20b", HEALTH)

    found = explain(facts, loaded_default().bundle)

    (london,) = [one for one in found.candidates if one.place == "bedrock-london"]
    assert london.verdict.rule == "personal-data-of-eea-tenants-stays-in-the-eea"
    assert london.verdict.basis == "GDPR Art. 44"
    assert london.saw == {
        "when tenant_in EEA": "demo, DE, EEA, EU",
        "when labels_any health, personal": "health",
        "unless place_in EEA": "bedrock-london, GB",
    }
    assert london.missed == ()


def test_where_no_rule_decides_it_says_what_each_permit_still_needed() -> None:
    files = edited("tenants.yaml", "zone: GB", "zone: JP")
    bundle = compiled(files).bundle
    facts = Facts("nhs-gb", "JP", "care", "gpt-oss-20b", Labels("public", frozenset()))

    found = explain(facts, bundle)

    (virginia,) = [one for one in found.candidates if one.place == "bedrock-virginia"]
    assert (virginia.verdict.allowed, virginia.verdict.rule) == (False, "default-deny")
    assert virginia.missed == (
        "`our-premises-serve-every-tenant` does not apply because of the place",
        "`european-and-us-tenants-may-use-bedrock` does not apply because of the facts",
    )


def test_the_nearest_alternative_is_another_model_then_a_purpose_then_fewer_labels() -> None:
    bundle = loaded_default().bundle
    one_model = compiled(
        edited("places.yaml", "{gpt-oss-20b: gpt-oss-20b, gpt-oss-120b: gpt-oss-120b}", "{gpt-oss-20b: a}")
    ).bundle
    nowhere = compiled(edited("residency/10-secrecy.yaml", "  unless: {attested: on-premises}\n", ""))
    secret = Labels("secret", frozenset())

    assert nearest_alternative(Facts("demo", "DE", "general", "gpt-oss-120b", secret), one_model) == (
        "with the same labels, model `gpt-oss-20b` is permitted at `local-engine`"
    )
    assert nearest_alternative(FORBIDDEN, bundle).startswith("for the purpose `care` it is permitted at `bed")
    assert nearest_alternative(
        Facts("demo", "DE", "general", "gpt-oss-20b", Labels("secret", frozenset({"financial"}))),
        nowhere.bundle,
    ).startswith("only data labelled at most `confidential, financial` is permitted, at `bedrock-frankfurt`")
    assert nearest_alternative(Facts("gone", "DE", "general", "gpt-oss-20b", secret), bundle) == (
        "the facts are not of the current policy revision (`stale-facts`); send the request again"
    )


@settings(deadline=None, max_examples=20)
@given(bundles(), st.data())
def test_there_is_an_alternative_just_when_something_about_the_request_could_change(
    bundle: Bundle, data: st.DataObject
) -> None:
    facts = data.draw(st.sampled_from(list(every_facts(bundle, bundle.tenants))))
    said = nearest_alternative(facts, bundle)

    others = [
        other
        for other in every_facts(bundle, [facts.tenant])
        if bundle.vocabulary.within(other.labels, facts.labels)
        and (other.model, other.purpose, other.labels) != (facts.model, facts.purpose, facts.labels)
        and sum((other.model != facts.model, other.purpose != facts.purpose, other.labels != facts.labels))
        == 1
        and answerable(permit(other, bundle), bundle)
    ]
    assert said.startswith("no place may answer tenant") is not bool(others)
    assert explain(facts, bundle).permitted is answerable(permit(facts, bundle), bundle)


def test_labels_are_left_away_one_by_one_and_all_of_them_are_tried() -> None:
    vocabulary = loaded_default().bundle.vocabulary
    top = Labels("confidential", frozenset({"personal", "health"}))

    found = list(lower(top, vocabulary))

    assert found[0] == Labels("internal", frozenset({"personal", "health"}))
    assert len(found) == len(set(found)) == 3 * 4 - 1
    removed = [
        vocabulary.rank(top.sensitivity) - vocabulary.rank(one.sensitivity) + 2 - len(one.categories)
        for one in found
    ]
    assert removed == sorted(removed)
    assert all(vocabulary.within(one, top) for one in found)
