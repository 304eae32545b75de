"""What a key may do: never more than its tenant."""

from __future__ import annotations

from gateway.facts import Caller, Limits
from gateway.labels import Labels
from tests.policy.bundles import compiled, default_files

TENANTS = b"""
tenants:
  - id: acme
    zone: DE
    purpose: general
    labels: {default: [internal], always: [financial], ceiling: [confidential, financial, personal]}
    limits: {requests_per_minute: 100, usd_per_day: 2.5}
    models: [gpt-oss-20b, gpt-oss-120b]
    keys:
      - id: plain
        sha256: 1111111111111111111111111111111111111111111111111111111111111111
      - id: narrow
        sha256: 2222222222222222222222222222222222222222222222222222222222222222
        purpose: care
        labels: {default: [confidential], always: [personal]}
        limits: {requests_per_minute: 10, max_concurrent: 2}
        models: gpt-oss-20b
  - id: silent
    zone: FR
    purpose: general
    labels: {ceiling: [internal, personal]}
  - id: bare
    zone: FR
    purpose: general
"""


def callers() -> dict[str, Caller]:
    files = default_files()
    files["tenants.yaml"] = TENANTS
    for name in [name for name in files if name.startswith("tests/")]:
        del files[name]
    files["tests/one.yaml"] = b"""
- name: something
  request: {tenant: acme, model: gpt-oss-20b}
  expect: {infer: {permitted: [local-engine]}}
"""
    bundle = compiled(files).bundle
    found = {key: bundle.callers[sha256] for sha256, (_, key) in bundle.keys.items()}
    return found | {tenant.id: tenant.caller for tenant in bundle.tenants.values()}


def test_a_key_without_wishes_has_the_rights_of_its_tenant() -> None:
    assert callers()["plain"] == Caller(
        tenant="acme",
        key_id="plain",
        zone="DE",
        purpose="general",
        labels=Labels("internal", frozenset()),
        floor=Labels("internal", frozenset({"financial"})),
        ceiling=Labels("confidential", frozenset({"financial", "personal"})),
        limits=Limits(requests_per_minute=100, usd_per_day=2.5),
        models=frozenset({"gpt-oss-20b", "gpt-oss-120b"}),
    )


def test_a_key_narrows_what_its_tenant_may_do() -> None:
    assert callers()["narrow"] == Caller(
        tenant="acme",
        key_id="narrow",
        zone="DE",
        purpose="care",
        labels=Labels("confidential", frozenset()),
        floor=Labels("confidential", frozenset({"financial", "personal"})),
        ceiling=Labels("confidential", frozenset({"financial", "personal"})),
        limits=Limits(requests_per_minute=10, usd_per_day=2.5, max_concurrent=2),
        models=frozenset({"gpt-oss-20b"}),
    )


def test_without_a_default_what_nobody_declared_is_taken_for_the_highest_that_may_be_carried() -> None:
    silent, bare = callers()["silent"], callers()["bare"]

    assert silent.labels == silent.ceiling == Labels("internal", frozenset({"personal"}))
    assert bare.labels == bare.ceiling == Labels("secret", frozenset({"personal", "health", "financial"}))
    assert bare.floor == silent.floor == Labels("public", frozenset())
    assert bare.limits == Limits()
    assert bare.models is None
