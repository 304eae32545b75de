"""Cedar, a language whose meaning is proven, says the same as the table."""

from __future__ import annotations

import json
from pathlib import Path

import cedarpy
import pytest

from gateway.facts import Facts
from gateway.places import Action
from gateway.policy.bundle import Bundle
from gateway.policy.cedar import export_cedar
from tests.policy.agreement import Cedar, disagreements, questions
from tests.policy.bundles import (
    every_condition,
    loaded_default,
    one_of_each_class,
    with_tenant_in_every_zone,
)

HAND_WRITTEN = Path(__file__).with_name("default.cedar")


@pytest.fixture(scope="module")
def default() -> Bundle:
    return with_tenant_in_every_zone(loaded_default().bundle)


@pytest.fixture(scope="module")
def everything() -> Bundle:
    return with_tenant_in_every_zone(every_condition())


def exported(bundle: Bundle) -> Cedar:
    export = export_cedar(bundle)
    return Cedar.of(export.policies, export.entities)


def test_the_table_agrees_with_the_exported_cedar_over_every_class_of_the_default_bundle(
    default: Bundle,
) -> None:
    facts = one_of_each_class(default)

    answers = exported(default).answers(questions(default, facts), default)

    assert list(disagreements(answers, default)) == []
    assert len(facts) == default.table.classes


def test_the_table_agrees_with_hand_written_cedar_over_every_class_of_the_default_bundle(
    default: Bundle,
) -> None:
    cedar = Cedar.of(HAND_WRITTEN.read_text(), export_cedar(default).entities)
    facts = one_of_each_class(default)

    assert list(disagreements(cedar.answers(questions(default, facts), default), default)) == []


def test_the_table_agrees_with_hand_written_cedar_for_every_country_of_the_world(default: Bundle) -> None:
    cedar = Cedar.of(HAND_WRITTEN.read_text(), export_cedar(default).entities)
    labels = default.vocabulary.from_names(["public", "personal"])
    asked = [
        (Facts(tenant.id, tenant.zone, "general", "gpt-oss-20b", labels), Action.INFER, place)
        for tenant in default.tenants.values()
        for place in ("local-engine", "bedrock-frankfurt", "bedrock-london", "bedrock-virginia")
    ]

    assert len({facts.zone for facts, _, _ in asked}) == len(default.geography.zones) > 240
    assert list(disagreements(cedar.answers(asked, default), default)) == []


def test_the_table_agrees_with_the_exported_cedar_where_rules_use_every_condition(everything: Bundle) -> None:
    facts = one_of_each_class(everything)

    answers = exported(everything).answers(questions(everything, facts), everything)

    assert list(disagreements(answers, everything)) == []
    assert len(facts) == everything.table.classes > 100


@pytest.mark.parametrize("which", ["default", "everything"])
def test_the_export_fits_its_own_cedar_schema(which: str, request: pytest.FixtureRequest) -> None:
    export = export_cedar(request.getfixturevalue(which))

    schema = cedarpy.Schema.from_str(export.schema)
    result = cedarpy.validate_policies(export.policies, schema)

    assert result.validation_passed, result.errors
    cedarpy.Entities.from_json_str(json.dumps(export.entities), schema=schema)


def test_the_hand_written_cedar_fits_the_same_schema(default: Bundle) -> None:
    result = cedarpy.validate_policies(HAND_WRITTEN.read_text(), export_cedar(default).schema)

    assert result.validation_passed, result.errors


def test_each_rule_is_one_policy_with_its_id_and_basis(default: Bundle) -> None:
    text = export_cedar(default).policies

    for rule in default.rules:
        assert text.count(f'@id("{rule.id}")\n') == 1
        if rule.basis is not None:
            assert f'@basis("{rule.basis}")' in text
