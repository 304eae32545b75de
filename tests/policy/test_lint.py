"""`lint`: every kind of line that does nothing is found, with what takes its place; and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.policy.lint import Finding, Kind, lint
from gateway.policy.source.directory import Files
from tests.policy.bundles import compiled, default_files, edited


def found(files: Mapping[str, bytes]) -> tuple[Finding, ...]:
    return lint(Files(files), compiled(files))


def texts(files: Mapping[str, bytes], kind: Kind) -> list[str]:
    """What is said of one kind, when nothing is said of any other."""
    findings = found(files)
    assert {finding.kind for finding in findings} <= {kind}
    return [finding.problem.text() for finding in findings]


def with_file(name: str, text: str) -> dict[str, bytes]:
    return {**default_files(), name: text.encode()}


def test_the_default_bundle_is_clean() -> None:
    assert found(default_files()) == ()


def test_a_rule_in_the_shadow_of_another_is_named_with_what_shadows_it() -> None:
    later = (
        "- {id: again, forbid: [infer], when: {tenant_in: DE, labels_any: [health]}, unless: {place_in: EEA}}"
    )

    assert texts(with_file("residency/21-again.yaml", later), Kind.RULE) == [
        "residency/21-again.yaml:1: the rule `again` never decides: wherever it applies, "
        "`secret-stays-on-the-premises` or `personal-data-of-eea-tenants-stays-in-the-eea` decides; "
        "remove it, or correct the condition of one of them"
    ]


def test_a_shadow_is_found_by_what_rules_mean_not_by_how_they_are_written() -> None:
    """No single rule covers this one: three together do, each for other places."""
    rules = """
- {id: d, forbid: [infer], when: {purpose_in: care, place_in: DE}}
- {id: e, forbid: [infer], when: {purpose_in: care, place_in: [US, GB]}}
- {id: f, forbid: [infer], when: {purpose_in: care, operator_under: us-cloud-act}}
- {id: covered, forbid: [infer], when: {purpose_in: care}}
- {id: not-covered, forbid: [infer], when: {purpose_in: [care, general]}}
"""
    found_here = [finding.problem for finding in found(with_file("residency/05-care.yaml", rules))]

    assert [problem.line for problem in found_here if "never decides" in problem.message][:1] == [5]
    assert found_here[0].message == (
        "the rule `covered` never decides: wherever it applies, `d` or `e` or `f` decides"
    )


def test_a_permit_is_in_the_shadow_of_permits_and_forbids_alike() -> None:
    late = "- {id: late, permit: [infer], when: {tenant_in: EEA, place_in: EEA}}"

    (text,) = texts(with_file("residency/99-late.yaml", late), Kind.RULE)
    assert "the rule `late` never decides: wherever it applies, " in text
    assert "`our-premises-serve-every-tenant` or `european-and-us-tenants-may-use-bedrock` decides" in text


NO_SINK = "no place that it is about does `log`, `record` at all"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("forbid: [cache], when: {place_in: US}", "no place that it is about does `cache` at all"),
        (
            "forbid: [log, infer], when: {place_in: FR}",
            "no place that it is about does `infer`, `log` at all",
        ),
        ("permit: [log], when: {place_in: DE}, unless: {operator_under: us-cloud-act, place_in: US}", None),
    ],
)
def test_a_rule_that_is_about_nothing_says_why(rule: str, why: str | None) -> None:
    said = texts(with_file("residency/05-first.yaml", f"- {{id: nothing, {rule}}}"), Kind.RULE)

    expected = (
        f"residency/05-first.yaml:1: the rule `nothing` never decides: {why}; "
        "correct its condition, or remove it"
    )
    assert said == ([] if why is None else [expected])


def test_a_rule_of_an_adopted_pack_may_be_about_what_is_still_to_come() -> None:
    files = default_files()
    files["adopted/later/pack.yaml"] = (
        b"{apiVersion: douane/pack/v1, name: later, version: 1, title: t, notice: n, needs: {}}"
    )
    files["adopted/later/residency/rules.yaml"] = b"- {id: later-x, forbid: [cache], when: {place_in: US}}"

    assert found(files) == ()


def test_a_hop_that_no_request_of_its_route_is_permitted_is_found() -> None:
    """Public data of German tenants may go to Virginia by the rules, but their route is for Japan alone."""
    old = "  - id: tenants-of-the-united-states\n"
    new = """  - id: japan
    models: [gpt-oss-20b]
    tenant_in: [JP]
    tiers:
      - [{place: local-engine}]
      - [{place: bedrock-virginia}]
    attempts_max: 1
    first_byte_timeout_s: 30
    total_timeout_s: 300

  - id: tenants-of-the-united-states
"""
    assert texts(edited("routes.yaml", old, new), Kind.HOP) == [
        "routes.yaml:16:18: the hop `bedrock-virginia` of the route `japan` is never permitted for any "
        "request that takes the route; remove the hop, or permit it in `residency/`"
    ]


def test_a_route_whose_tenants_all_take_earlier_ones_is_found() -> None:
    old = "  - id: everyone\n"
    new = """  - id: british-again
    models: [gpt-oss-20b]
    tenant_in: [GB, US]
    tiers:
      - [{place: local-engine}]
    attempts_max: 1
    first_byte_timeout_s: 30
    total_timeout_s: 300

  - id: everyone
"""
    files = edited("routes.yaml", old, new)
    assert [finding.kind for finding in found(files)] == [Kind.HOP, Kind.ROUTE]
    assert found(files)[1].problem.text() == (
        "routes.yaml:32:9: the route `british-again` is never used: `tenants-of-the-united-kingdom` and "
        "`tenants-of-the-united-states` before it takes all of its requests; put it before them, or remove it"
    )


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "financial]",
            "financial, biometric]",
            "bundle.yaml:8:45: `biometric` changes nothing: no rule mentions it; "
            "write the rule that it is for, or remove the word",
        ),
        (
            "secret]",
            "secret, sacred]",
            "bundle.yaml:7:57: `sacred` changes nothing: no rule mentions it; "
            "write the rule that it is for, or remove the word",
        ),
        (
            "analytics]",
            "analytics, training]",
            "bundle.yaml:9:58: `training` changes nothing: no rule, claim or tenant mentions it; "
            "write the rule that it is for, or remove the word",
        ),
    ],
)
def test_a_word_that_changes_nothing_is_found(old: str, new: str, text: str) -> None:
    assert texts(edited("bundle.yaml", old, new), Kind.LABEL) == [text]


def test_an_example_in_which_no_rule_decides_is_found() -> None:
    case = """
- name: an engine keeps no copies
  request: {tenant: demo, model: gpt-oss-20b}
  expect: {cache: {denied: {local-engine: action-not-offered}}}
"""
    assert texts(with_file("tests/nothing.yaml", case), Kind.EXAMPLE) == [
        "tests/nothing.yaml:2: no rule decides in the example `an engine keeps no copies`; "
        "expect something that a rule permits or forbids, or remove it"
    ]


def test_an_example_of_which_another_says_all_is_found_and_one_that_sends_something_else_is_not() -> None:
    case = """
- name: one
  request: {tenant: demo, model: gpt-oss-20b, labels: [secret]}
  expect: {infer: {permitted: [local-engine]}}
- name: two
  request: {tenant: demo, model: gpt-oss-20b, labels: [secret]}
  expect:
    infer: {permitted: {local-engine: our-premises-serve-every-tenant}}
    log: {denied: {logs: confidential-content-is-not-logged}}
- name: another request with the same facts
  request: {tenant: demo, model: gpt-oss-20b, labels: [secret, public]}
  expect: {infer: {permitted: [local-engine]}}
"""
    files = with_file("tests/twice.yaml", case)

    assert texts(files, Kind.EXAMPLE) == [
        "tests/twice.yaml:2: the example `one` says nothing that `secret data is answered on the premises "
        "alone` does not say; remove it, or expect something else"
    ]


def test_of_two_examples_that_say_the_same_the_later_is_found() -> None:
    case = """
- name: {0}
  request: {{tenant: globex-us, model: gpt-oss-20b, labels: [health]}}
  expect: {{infer: {{permitted: [local-engine]}}}}
"""
    files = with_file("tests/twice.yaml", case.format("one") + case.format("two"))

    assert texts(files, Kind.EXAMPLE) == [
        "tests/twice.yaml:6: the example `two` says nothing that `one` does not say; "
        "remove it, or expect something else"
    ]


def test_a_claim_that_speaks_of_no_request_is_found() -> None:
    """Public data without a category is denied in no region of Bedrock to tenants of Germany."""
    files = default_files()
    files["claims.yaml"] += b"""
- id: vacuous
  basis: b
  always: infer
  when: {tenant_in: DE, labels_at_most: public}
  denied_outside: {attested: on-premises}
"""
    line = files["claims.yaml"].decode().split("- id: vacuous")[0].count("\n") + 1

    assert texts(files, Kind.CLAIM) == [
        f"claims.yaml:{line}: the claim `vacuous` speaks of no request: none that meets `when` is denied "
        "there; widen it, or remove it"
    ]
