"""Cedar, a language whose meaning is proven, says the same as the table."""

from __future__ import annotations

import json

import cedarpy
import pytest

from gateway.facts import Facts
from gateway.places import Action
from gateway.policy.cedar import export_cedar
from tests.policy.agreement import Cedar, disagreements
from tests.policy.conftest import Judged


def test_the_table_agrees_with_hand_written_cedar_over_every_class_of_the_default_bundle(
    default: Judged,
) -> None:
    assert list(disagreements(default.answers, default.bundle)) == []
    offered = sum(len(place.actions) for place in default.bundle.places.values())
    assert len(default.answers) > default.facts * offered > 6_000


def test_the_table_agrees_with_the_exported_cedar_over_every_class_of_the_default_bundle(
    default: Judged,
) -> None:
    export = export_cedar(default.bundle)
    asked = [question for question, _ in default.answers]

    answers = Cedar.of(export.policies, export.entities).answers(asked, default.bundle)

    assert list(disagreements(answers, default.bundle)) == []


def test_the_table_agrees_with_the_exported_cedar_where_rules_use_every_condition(everything: Judged) -> None:
    assert list(disagreements(everything.answers, everything.bundle)) == []
    used = {
        name
        for rule in everything.bundle.rules
        for condition in (rule.facts, rule.place)
        for name in type(condition).__slots__
        if getattr(condition, name) is not None
    }
    assert used == {
        "tenant_in",
        "purpose_in",
        "model_in",
        "sensitivity_at_least",
        "labels_any",
        "labels_all",
        "place_in",
        "operator_under",
        "attested",
    }


def test_the_table_agrees_with_hand_written_cedar_for_every_country_of_the_world(
    default: Judged, hand_written: str
) -> None:
    bundle = default.bundle
    cedar = Cedar.of(hand_written, export_cedar(bundle).entities)
    labels = bundle.vocabulary.from_names(["public", "personal"])
    asked = [
        (Facts(tenant.id, tenant.zone, "general", "gpt-oss-20b", labels), Action.INFER, place)
        for tenant in bundle.tenants.values()
        for place in ("local-engine", "bedrock-frankfurt", "bedrock-london", "bedrock-virginia")
    ]

    assert len({facts.zone for facts, _, _ in asked}) == len(bundle.geography.zones) > 240
    assert list(disagreements(cedar.answers(asked, bundle), bundle)) == []


@pytest.mark.parametrize("which", ["default", "everything"])
def test_the_export_fits_its_own_cedar_schema(which: str, request: pytest.FixtureRequest) -> None:
    export = export_cedar(request.getfixturevalue(which).bundle)

    schema = cedarpy.Schema.from_str(export.schema)
    result = cedarpy.validate_policies(export.policies, schema)

    assert result.validation_passed, result.errors
    cedarpy.Entities.from_json_str(json.dumps(export.entities), schema=schema)


def test_the_hand_written_cedar_fits_the_same_schema(default: Judged, hand_written: str) -> None:
    result = cedarpy.validate_policies(hand_written, export_cedar(default.bundle).schema)

    assert result.validation_passed, result.errors


def test_each_rule_is_one_policy_with_its_id_and_basis(default: Judged) -> None:
    text = export_cedar(default.bundle).policies

    for rule in default.bundle.rules:
        assert text.count(f'@id("{rule.id}")\n') == 1
        if rule.basis is not None:
            assert f'@basis("{rule.basis}")' in text
