"""A copy that AWS keeps is judged as the rules judge a log: held against going through every request."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from types import MappingProxyType

import pytest

from gateway.doctor.copies import COPY, copy_place, not_permitted
from gateway.facts import Facts
from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.compile import every_labels
from gateway.policy.decide import decide
from gateway.policy.geography import aws_regions
from tests.policy.bundles import compiled, default_files, loaded_default

AWS = aws_regions()
LOGS_IN_THE_EEA = b"""
- id: logs-may-be-kept-in-the-eea
  basis: a test
  permit: [log]
  when: {place_in: EEA}
"""
CONFIDENTIAL_STAYS_OUT = b"""
- id: the-gateway-reads-nothing-confidential
  basis: a test
  forbid: [infer]
  when: {sensitivity_at_least: confidential, place_in: gateway}
"""
CONFIDENTIAL = b"""  forbid: [log]
  when: {sensitivity_at_least: confidential}
"""


@functools.cache
def bundle_of(rules: str) -> Bundle:
    """`default`; `lenient`: logs are permitted in the EEA, too; `carefree`: confidential ones as well;
    `deaf`: as lenient, but nothing confidential comes in."""
    files = default_files()
    if rules != "default":
        files["residency/95-logs.yaml"] = LOGS_IN_THE_EEA
        files.pop("residency/15-financial-data.yaml")  # it forbids more logs than this is about
        for name in [name for name in files if name.startswith("tests/") or name == "claims.yaml"]:
            del files[name]
    if rules == "deaf":
        files["residency/96-entrance.yaml"] = CONFIDENTIAL_STAYS_OUT
    if rules == "carefree":
        secrecy = files["residency/10-secrecy.yaml"]
        assert CONFIDENTIAL in secrecy
        files["residency/10-secrecy.yaml"] = secrecy.replace(b"confidential}", b"secret}")
    return compiled(files).bundle


def brute(bundle: Bundle, answering: str, copy: Place) -> bool:
    """Whether some request that is answered may not be kept, going through all of them one by one."""
    unions = bundle.geography.zones

    def may(facts: Facts, place: Place, action: Action) -> bool:
        return decide(facts, place, action, bundle.rules, bundle.vocabulary, unions)[0]

    whos = [(tenant.id, tenant.zone) for tenant in bundle.tenants.values()]
    whos += [("", zone) for zone in ("DE", "GB", "US", "CH", "JP")]  # one of each kind to these rules
    models = bundle.places[answering].models
    for (tenant, zone), purpose, model in itertools.product(whos, bundle.vocabulary.purposes, models):
        for labels in every_labels(bundle.vocabulary):
            facts = Facts(tenant=tenant, zone=zone, purpose=purpose, model=model, labels=labels)
            if (
                may(facts, bundle.places["gateway"], Action.INFER)
                and may(facts, bundle.places[answering], Action.INFER)
                and not may(facts, copy, Action.LOG)
            ):
                return True
    return False


@pytest.mark.parametrize("lies_in", ["eu-central-1", "eu-central-2", "us-east-1"])
@pytest.mark.parametrize("answering", ["bedrock-frankfurt", "bedrock-virginia"])
@pytest.mark.parametrize("rules", ["default", "lenient", "carefree", "deaf"])
def test_it_agrees_with_going_through_every_request(rules: str, answering: str, lies_in: str) -> None:
    bundle = bundle_of(rules)
    copy = copy_place(bundle, AWS[lies_in])
    assert copy is not None

    found = not_permitted(bundle, answering, copy, "gateway")

    assert (found is not None) == brute(bundle, answering, copy)


def test_a_copy_in_the_eea_is_permitted_where_the_rules_permit_logs_there() -> None:
    def refused(rules: str, lies_in: str) -> str | None:
        copy = copy_place(bundle_of(rules), AWS[lies_in])
        assert copy is not None
        found = not_permitted(bundle_of(rules), "bedrock-frankfurt", copy, "gateway")
        return None if found is None else found.rule

    assert refused("default", "eu-central-1") == "default-deny"
    assert refused("lenient", "us-east-1") == "default-deny"
    assert refused("lenient", "eu-central-1") == "confidential-content-is-not-logged"
    assert refused("carefree", "eu-central-1") is None
    assert refused("deaf", "eu-central-1") is None  # what may not come in is not sent there either
    assert refused("carefree", "eu-central-2") == "default-deny"  # Zurich: CH, not in the EEA


def test_a_copy_is_under_the_law_of_the_partitions_operator() -> None:
    copy = copy_place(loaded_default().bundle, AWS["eusc-de-east-1"])

    assert copy is not None
    assert (copy.id, copy.country, copy.operator, copy.source) == (COPY, "DE", "aws-esc", "derived")
    assert "us-cloud-act" in copy.regimes


def test_a_region_that_the_bundle_cannot_place_has_no_copy() -> None:
    bundle = loaded_default().bundle
    regions = {name: country for name, country in bundle.geography.regions.items() if name != "us-east-1"}
    geography = replace(bundle.geography, regions=MappingProxyType(regions))

    assert copy_place(replace(bundle, geography=geography), AWS["us-east-1"]) is None
