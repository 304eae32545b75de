"""The examples of a bundle: right for the right reason, or failed."""

from __future__ import annotations

import pytest

from gateway.policy.runner import Run, run_cases
from tests.policy.bundles import compiled, default_files, loaded_default

RULE_20 = "personal-data-of-eea-tenants-stays-in-the-eea"


def run_of(case: str) -> Run:
    """The run of one example in the default bundle."""
    files = {name: text for name, text in default_files().items() if not name.startswith("tests/")}
    files["tests/one.yaml"] = f"- name: one\n  request: {{tenant: demo, model: gpt-oss-20b{case}\n".encode()
    loaded = compiled(files)
    return run_cases(loaded.bundle, loaded.cases)


@pytest.mark.parametrize(
    "case",
    [
        f", labels: [personal]}}\n  expect: {{infer: {{denied: {{bedrock-virginia: {RULE_20}}}}}}}",
        "}\n  expect: {infer: {permitted: [bedrock-virginia]}}",
        "}\n  expect: {infer: {permitted: {gateway: our-premises-serve-every-tenant}}}",
        "}\n  expect: {log: {exactly: [logs]}, cache: {exactly: [store-memory, store-redis]}}",
        "}\n  expect: {infer: {denied: {logs: action-not-offered}}}",
        "}\n  expect: {cache: {denied: {bedrock-virginia: action-not-offered}}}",
    ],
)
def test_an_example_that_holds_passes(case: str) -> None:
    assert run_of(case).failures() == ()


@pytest.mark.parametrize(
    ("case", "failure"),
    [
        (
            ", labels: [personal]}\n  expect: {infer: {denied: {bedrock-virginia: default-deny}}}",
            f"`infer` at `bedrock-virginia` is denied as expected, but by `{RULE_20}`, not `default-deny`",
        ),
        (
            "}\n  expect: {infer: {permitted: {local-engine: european-and-us-tenants-may-use-bedrock}}}",
            "`infer` at `local-engine` is permitted as expected, but by `our-premises-serve-every-tenant`, "
            "not `european-and-us-tenants-may-use-bedrock`",
        ),
        (
            "}\n  expect: {log: {denied: {logs: confidential-content-is-not-logged}}}",
            "`log` at `logs` was to be denied, but `our-premises-serve-every-tenant` permits it "
            "(tenant `demo` in `DE`, labels `public`, purpose `general`, model `gpt-oss-20b`)",
        ),
        (
            "}\n  expect: {cache: {exactly: [store-memory]}}",
            "`cache` is also permitted at `store-redis`",
        ),
    ],
)
def test_an_example_that_does_not_hold_fails_with_the_rule_and_the_values_it_saw(
    case: str, failure: str
) -> None:
    run = run_of(case)

    assert not run.passed
    (text,) = run.failures()
    assert text == f"tests/one.yaml:1: one: {failure}"


def test_rules_that_no_example_exercises_are_reported_in_order() -> None:
    run = run_of(f", labels: [personal]}}\n  expect: {{infer: {{denied: {{bedrock-virginia: {RULE_20}}}}}}}")

    assert run.passed
    assert run.unexercised == tuple(rule.id for rule in loaded_default().bundle.rules if rule.id != RULE_20)


def test_no_example_at_all_is_a_failure() -> None:
    run = run_cases(loaded_default().bundle, ())

    assert not run.passed
    assert run.failures() == ("no case was found; add one under `tests/`",)
