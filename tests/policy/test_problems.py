"""What the author of a bundle reads when it is wrong: file, line, what, and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.load import load_bundle
from gateway.policy.problems import PolicyInvalid, PolicyTestsFailed
from tests.policy.bundles import default_files, edited, problems_of, write

FRANKFURT = 'region: eu-central-1\n    models: {gpt-oss-20b: "openai.gpt-oss-20b-1:0"'


def line_of(files: dict[str, bytes], name: str, passage: str) -> int:
    """The line of a passage, counted from 1."""
    text = files[name].decode()
    return text[: text.index(passage)].count("\n") + 1


# file, passage, its replacement, what marks the line, message, hint
CASES = [
    # bundle.yaml
    (
        "bundle.yaml",
        "douane/v1",
        "douane/v2",
        "douane/v2",
        "`douane/v2` is not a value of `apiVersion`",
        "did you mean `douane/v1`?",
    ),
    (
        "bundle.yaml",
        "serial: 1",
        "serial: one",
        "serial: one",
        "`serial`: `one` is not a whole number",
        "rewrite it",
    ),
    (
        "bundle.yaml",
        "serial: 1 ",
        "serial: 0 ",
        "serial: 0",
        "`serial`: input should be greater than or equal to 1",
        "`0` does not fit",
    ),
    ("bundle.yaml", "serial:", "serail:", "serail:", "unknown key `serail`", "did you mean `serial`?"),
    (
        "bundle.yaml",
        "categories: [personal",
        "categories: [public, personal",
        "categories:",
        "`public` is already a word of `sensitivity`",
        "a label means one thing; rename or remove one",
    ),
    (
        "bundle.yaml",
        "[general, ",
        "[Ge neral, ",
        "purposes:",
        "`Ge neral` is not a name for `0`",
        "write one that matches `^[a-z][a-z0-9._-]{0,62}$`",
    ),
    # zones.yaml
    (
        "zones.yaml",
        "members: [CH, IS, LI, NO]",
        "members: [UK, IS, LI, NO]",
        "members: [UK",
        "`UK` is not a known ISO 3166 country",
        "did you mean `GB`?",
    ),
    (
        "zones.yaml",
        "eu-central-2:      {country: CH",
        "eu-central-2:      {country: Switzerland",
        "country: Switzerland",
        "`Switzerland` is not a known ISO 3166 country",
        None,
    ),
    (
        "zones.yaml",
        "  eu-central-2: ",
        "  eu-centra-2: ",
        "eu-centra-2:",
        "`eu-centra-2` is not an AWS region",
        None,
    ),
    (
        "zones.yaml",
        "  us-west-1:         {country: US, source: aws-regions}",
        "  us-west-1: {country: US}",
        "us-west-1: {",
        "the key `source` is missing",
        "add `source: ...`",
    ),
    (
        "zones.yaml",
        "{country: CH, source: aws-regions}",
        "{country: CH, source: aws-region}",
        "source: aws-region}",
        "`aws-region` is not under `sources`",
        "did you mean `aws-regions`?",
    ),
    ("zones.yaml", "  EFTA:\n", "  CH:\n", "  CH:\n", "`CH` is a country", "give the union another name"),
    (
        "zones.yaml",
        "aws-cn:     {operator: aws-china",
        "aws-cn:     {operator: aws-chian",
        "aws-chian",
        "`aws-chian` is not a known operator",
        "did you mean `aws-china`?",
    ),
    ("zones.yaml", "  aws-eusc: ", "  aws-eu: ", "aws-eu: ", "`aws-eu` is not a known AWS partition", None),
    (
        "zones.yaml",
        "operators: [self]",
        "operators: [itself]",
        "[itself]",
        "`itself` is not a known operator",
        "did you mean `self`?",
    ),
    (
        "zones.yaml",
        "regimes: [prc-data-security-law]",
        "regimes: [prc]",
        "regimes: [prc]",
        "`prc` is not a known regime",
        None,
    ),
    (
        "zones.yaml",
        "attestations: []      #",
        "attestations: [premises]  #",
        "[premises]",
        "`premises` is not a known attestation",
        "did you mean `on-premises`?",
    ),
    (
        "zones.yaml",
        "  efta-states:\n",
        "  efta-states:\n    note: x\n",
        "    note: x",
        "unknown key `note`",
        None,
    ),
    # places.yaml
    (
        "places.yaml",
        "region: eu-west-1",
        "regoin: eu-west-1",
        "regoin:",
        "unknown key `regoin`",
        "did you mean `region`?",
    ),
    (
        "places.yaml",
        "kind: engine",
        "kind: engin",
        "kind: engin",
        "`engin` is not a value of `kind`",
        "did you mean `engine`?",
    ),
    (
        "places.yaml",
        "region: eu-west-1",
        "region: eu-west-9",
        "region: eu-west-9",
        "`eu-west-9` is not an AWS region",
        None,
    ),
    (
        "places.yaml",
        "region: eu-west-1",
        "region: eu-west-3",
        "- id: bedrock-ireland",
        "`eu-west-3` does not serve `gpt-oss-20b`",
        "the nearest that do: `eu-central-1`, `eu-north-1`, `eu-south-1`, `eu-west-1`",
    ),
    (
        "places.yaml",
        "region: us-east-2",
        "region: ca-central-1",
        "region: ca-central-1",
        "`ca-central-1` does not serve `gpt-oss-20b`",
        None,
    ),
    (
        "places.yaml",
        FRANKFURT,
        FRANKFURT.replace("openai.", "us.openai."),
        "us.openai",
        "`us.openai.gpt-oss-20b-1:0` is the cross-region profile `us.`, which may serve outside "
        "`eu-central-1`",
        "write `openai.gpt-oss-20b-1:0`, which is served in `eu-central-1` alone",
    ),
    (
        "places.yaml",
        FRANKFURT,
        FRANKFURT.replace("-1:0", ""),
        '"openai.gpt-oss-20b"',
        "`openai.gpt-oss-20b` is not Bedrock's in-region id of `gpt-oss-20b`",
        "write `openai.gpt-oss-20b-1:0`, which is served in `eu-central-1` alone",
    ),
    (
        "places.yaml",
        FRANKFURT,
        FRANKFURT.replace("{gpt-oss-20b", "{gpt-oss-21b"),
        "{gpt-oss-21b",
        "zones.yaml does not say where Bedrock serves `gpt-oss-21b`",
        "did you mean `gpt-oss-20b`?",
    ),
    (
        "places.yaml",
        "region: eu-west-2",
        "region: eu-west-2\n    country: GB",
        "    country: GB",
        "the country of a bedrock place follows from its region",
        "remove `country`",
    ),
    (
        "places.yaml",
        "region: eu-west-2",
        "region: eu-west-2\n    operator: self",
        "    operator: self\n    models",
        "the operator of a bedrock place follows from its region",
        "remove `operator`",
    ),
    (
        "places.yaml",
        "region: eu-west-2",
        "region: eu-west-2\n    attested: on-premises",
        "attested: on-premises",
        "a place that `aws` operates cannot be `on-premises`",
        "only places operated by `self` can",
    ),
    (
        "places.yaml",
        "id: bedrock-ohio",
        "id: bedrock-virginia",
        None,
        "`bedrock-virginia` is already a place",
        "give each place its own id",
    ),
    (
        "places.yaml",
        "kind: audit\n    country: DE",
        "kind: audit\n    country: EU",
        "country: EU",
        "`EU` is not a known ISO 3166 country",
        "a place stands in one country; write that one",
    ),
    (
        "places.yaml",
        "kind: audit\n    country: DE",
        "kind: audit\n    country: UK",
        "country: UK",
        "`UK` is not a known ISO 3166 country",
        "did you mean `GB`?",
    ),
    (
        "places.yaml",
        "kind: audit\n    country: DE\n",
        "kind: audit\n",
        "- id: audit-files",
        "a place of kind `audit` needs `country`",
        "add `country: ...`",
    ),
    (
        "places.yaml",
        "kind: audit\n",
        "kind: audit\n    region: eu-west-1\n",
        "region: eu-west-1\n    country",
        "only a bedrock place has a region",
        "write `country` instead",
    ),
    (
        "places.yaml",
        "kind: audit\n",
        "kind: audit\n    models: {gpt-oss-20b: x}\n",
        "models: {gpt-oss-20b: x}",
        "a place of kind `audit` serves no models",
        "remove `models`",
    ),
    (
        "places.yaml",
        "    models: {gpt-oss-20b: gpt-oss-20b, gpt-oss-120b: gpt-oss-120b}\n",
        "",
        "- id: local-engine",
        "`local-engine` serves no model",
        "add `models:` with a line such as `gpt-oss-20b: <id of the backend>`",
    ),
    (
        "places.yaml",
        "kind: metrics\n    country: DE\n    operator: self",
        "kind: metrics\n    country: DE\n    operator: selv",
        "operator: selv",
        "`selv` is not a known operator",
        None,
    ),
    (
        "places.yaml",
        "kind: metrics\n    country: DE",
        "kind: metrics\n    country:",
        "country:\n",
        "`country` has no value",
        "give it one, or remove the key",
    ),
    # tenants.yaml
    (
        "tenants.yaml",
        "zone: GB",
        "zone: UK",
        "zone: UK",
        "`UK` is not a known ISO 3166 country",
        "did you mean `GB`?",
    ),
    (
        "tenants.yaml",
        "zone: GB",
        "zone: EEA",
        "zone: EEA",
        "`EEA` is not a known ISO 3166 country",
        "a tenant is in one country; write that one, rules can still name the union",
    ),
    ("tenants.yaml", "zone: GB", "zone: true", "zone: true", "`zone`: `True` is not a text", "quote it"),
    (
        "tenants.yaml",
        "purpose: care",
        "purpose: cure",
        "purpose: cure",
        "`cure` is not a known purpose",
        "did you mean `care`?",
    ),
    (
        "tenants.yaml",
        "{default: [public]}\n    limits",
        "{default: [pubic]}\n    limits",
        "[pubic]",
        "`pubic` is not a label of this bundle",
        "did you mean `public`?",
    ),
    (
        "tenants.yaml",
        "default: [internal]\n",
        "default: [secret]\n",
        "default: [secret]\n",
        "`secret` lies above the ceiling `confidential, financial, personal`",
        "raise the ceiling or lower these labels",
    ),
    (
        "tenants.yaml",
        "labels: {always: [personal]}",
        "labels: {always: [health]}",
        "[health]",
        "`public, health` lies above the ceiling `confidential, financial, personal`",
        "raise the ceiling or lower these labels",
    ),
    (
        "tenants.yaml",
        "limits: {requests_per_minute: 60, usd_per_day: 5}",
        "limits: {requests_per_minute: 601}",
        "requests_per_minute: 601",
        "`requests_per_minute` of the key, 601, is above the tenant's 600",
        "a key can only narrow; lower it",
    ),
    (
        "tenants.yaml",
        "usd_per_day: 25",
        "usd_per_day: 0",
        "usd_per_day: 0",
        "`usd_per_day`: input should be greater than 0",
        "`0` does not fit",
    ),
    (
        "tenants.yaml",
        "max_concurrent: 16",
        "max_concurrent: '16'",
        "max_concurrent: '16'",
        "`max_concurrent`: `16` is not a whole number",
        "rewrite it",
    ),
    (
        "tenants.yaml",
        "models: [gpt-oss-20b]\n",
        "models: [gpt-oss-21b]\n",
        "models: [gpt-oss-21b]",
        "`gpt-oss-21b` is not a known model",
        "did you mean `gpt-oss-20b`?",
    ),
    (
        "tenants.yaml",
        "      - id: main\n",
        "      - id: main\n        models: [gpt-oss-120b]\n",
        "models: [gpt-oss-120b]\n",
        "the tenant may not use `gpt-oss-120b`",
        "a key can only narrow; remove it",
    ),
    (
        "tenants.yaml",
        "id: nhs-gb ",
        "id: demo ",
        "id: demo                # has",
        "`demo` is already a tenant",
        "give each tenant its own id",
    ),
    (
        "tenants.yaml",
        "id: reporting",
        "id: helpdesk",
        None,
        "`helpdesk` is already a key of `acme-de`",
        "give it another id",
    ),
    # residency
    (
        "residency/10-secrecy.yaml",
        "sensitivity_at_least: secret",
        "sensitivity_atleast: secret",
        "sensitivity_atleast",
        "unknown key `sensitivity_atleast`",
        "did you mean `sensitivity_at_least`?",
    ),
    (
        "residency/10-secrecy.yaml",
        "{attested: on-premises}",
        "{labels_any: [personal]}",
        "{labels_any",
        "unknown key `labels_any`",
        "`unless` may name only `place_in`, `operator_under` and `attested`, so that rules stay provable",
    ),
    (
        "residency/10-secrecy.yaml",
        "{attested: on-premises}",
        "{}",
        "unless: {}",
        "`unless` is empty",
        "name a condition, or remove `unless`",
    ),
    (
        "residency/10-secrecy.yaml",
        "{attested: on-premises}",
        "{attested: []}",
        "attested: []",
        "`attested` is empty",
        "name at least one, or remove the key",
    ),
    (
        "residency/10-secrecy.yaml",
        "sensitivity_at_least: secret",
        "labels_any: [secret]",
        "labels_any: [secret]",
        "`secret` is not a known category",
        "`secret` is a sensitivity; write `sensitivity_at_least: secret`",
    ),
    (
        "residency/10-secrecy.yaml",
        "sensitivity_at_least: secret",
        "sensitivity_at_least: health",
        "sensitivity_at_least: health",
        "`health` is not a known word of the sensitivity scale",
        "`health` is a category; write `labels_any: [health]`",
    ),
    (
        "residency/10-secrecy.yaml",
        "forbid: [infer, cache, log, record]",
        "forbid: [infer, cash]",
        "forbid:",
        "`cash` is not a value of `1`",
        "did you mean `cache`?",
    ),
    (
        "residency/10-secrecy.yaml",
        "forbid: [infer, cache, log, record]",
        "forbids: [infer]",
        "forbids:",
        "unknown key `forbids`",
        "did you mean `forbid`?",
    ),
    (
        "residency/10-secrecy.yaml",
        "  forbid: [log]\n",
        "  forbid: [log]\n  permit: [log]\n",
        "- id: confidential-content",
        "`confidential-content-is-not-logged` must permit or forbid",
        "write one of `permit: [...]` and `forbid: [...]`",
    ),
    (
        "residency/10-secrecy.yaml",
        "id: confidential-content-is-not-logged",
        "id: default-deny",
        "default-deny",
        "`default-deny` is what Douane itself says when no rule decides",
        "give the rule another id",
    ),
    (
        "residency/10-secrecy.yaml",
        "id: confidential-content-is-not-logged",
        "id: secret-stays-on-the-premises",
        None,
        "`secret-stays-on-the-premises` is already a rule, at residency/10-secrecy.yaml:4",
        "give each rule its own id",
    ),
    (
        "residency/20-personal-data.yaml",
        "place_in: [GB, EEA]",
        "place_in: [UK, EEA]",
        "place_in: [UK",
        "`UK` is not a known zone or place",
        "did you mean `GB`?",
    ),
    (
        "residency/20-personal-data.yaml",
        "tenant_in: EEA",
        "tenant_in: EAA",
        "tenant_in: EAA",
        "`EAA` is not a known zone or tenant",
        None,
    ),
    (
        "residency/20-personal-data.yaml",
        "purpose_in: [analytics]",
        "purpose_in: [analysis]",
        "[analysis]",
        "`analysis` is not a known purpose",
        "did you mean `analytics`?",
    ),
    (
        "residency/30-region.yaml",
        "operator_under: us-cloud-act",
        "operator_under: cloud-act",
        "operator_under: cloud",
        "`cloud-act` is not a known regime",
        "did you mean `us-cloud-act`?",
    ),
    (
        "residency/90-permits.yaml",
        "{attested: on-premises}",
        "{attested: on-premise}",
        "on-premise}",
        "`on-premise` is not a known attestation",
        "did you mean `on-premises`?",
    ),
    (
        "residency/90-permits.yaml",
        "tenant_in: [EEA, GB, US], ",
        "model_in: gpt-oss, ",
        "model_in",
        "`gpt-oss` is not a known model",
        None,
    ),
    # routes.yaml
    (
        "routes.yaml",
        "place: bedrock-milan",
        "place: bedrock-mailand",
        "bedrock-mailand",
        "`bedrock-mailand` is not a known backend",
        None,
    ),
    (
        "routes.yaml",
        "place: bedrock-milan",
        "place: audit-files",
        "audit-files",
        "`audit-files` is not a known backend",
        None,
    ),
    (
        "routes.yaml",
        "place: bedrock-milan",
        "place: bedrock-frankfurt",
        None,
        "`bedrock-frankfurt` is already in this route",
        "keep one of them",
    ),
    (
        "routes.yaml",
        "tenant_in: [GB]",
        "tenant_in: [GB]\n    hedge: {after_s: 1}",
        "hedge:",
        "`hedge` is not a key of a route",
        "write `hedge_after_s: <seconds>`",
    ),
    (
        "routes.yaml",
        "tenant_in: [GB]",
        "tenant_in: [GB]\n    hedge_after: 1",
        "hedge_after:",
        "unknown key `hedge_after`",
        "did you mean `hedge_after_s`?",
    ),
    (
        "routes.yaml",
        "tenant_in: [GB]",
        "tenant_in: [GB]\n    hedge_after_s: 30",
        "hedge_after_s:",
        "`hedge_after_s` is not shorter than `first_byte_timeout_s`: the place is given up by then",
        "lower it",
    ),
    (
        "routes.yaml",
        "tenant_in: [GB]",
        "tenant_in: [GB]\n    hedge_after_s: 0",
        "hedge_after_s:",
        "`hedge_after_s`: input should be greater than 0",
        None,
    ),
    (
        "routes.yaml",
        "tenant_in: [GB]",
        "tenant_in: [GB]\n    on_context_window: nxt",
        "on_context_window:",
        "`nxt` is not a value of `on_context_window`",
        "did you mean `next`?",
    ),
    (
        "routes.yaml",
        """bedrock-frankfurt}]
    attempts_max: 4
""",
        """bedrock-frankfurt}]
    attempts_max: 1
    on_content_filter: next
""",
        "on_content_filter:",
        "`on_content_filter` leads to another place, and `attempts_max` is 1",
        "raise `attempts_max`, or remove `on_content_filter`",
    ),
    (
        "routes.yaml",
        """      - [{place: local-engine, spill_when_waiting_over: 4}]
      - [{place: bedrock-london}]
      - [{place: bedrock-ireland}, {place: bedrock-frankfurt}]
""",
        """      - [{place: local-engine}]
    hedge_after_s: 2
""",
        "hedge_after_s:",
        "`hedge_after_s` leads to another place, and there is none",
        "add a hop, or remove `hedge_after_s`",
    ),
    (
        "routes.yaml",
        "      - [{place: bedrock-london}]\n      - [{place: bedrock-ireland}, {place: bedrock-frankfurt}]\n",
        "      - [{place: bedrock-london, context_tokens: 128000}]\n",
        "context_tokens:",
        "`context_tokens` has no effect here",
        "add `on_context_window: next` to the route, or remove `context_tokens`",
    ),
    (
        "routes.yaml",
        """      - [{place: local-engine, spill_when_waiting_over: 4}]
      - [{place: bedrock-london}]
      - [{place: bedrock-ireland}, {place: bedrock-frankfurt}]
""",
        """      - [{place: local-engine, context_tokens: 8}, {place: bedrock-london, context_tokens: 8}]
    on_context_window: next
""",
        "on_context_window:",
        "`on_context_window: next` leads nowhere: no hop has a larger `context_tokens` than another",
        "correct `context_tokens`, or remove `on_context_window`",
    ),
    (
        "routes.yaml",
        "    tenant_in: [GB]\n",
        "",
        "- id: everyone",
        "`everyone` is never used for `gpt-oss-120b`: `tenants-of-the-united-kingdom` is for everyone",
        "put the route for everyone last",
    ),
    (
        "routes.yaml",
        "openai/gpt-oss-20b: gpt-oss-20b",
        "openai/gpt-oss-20b: gpt-oss",
        "gpt-oss\n",
        "`gpt-oss` is not a known model",
        None,
    ),
    (
        "routes.yaml",
        "aliases:\n",
        "aliases:\n  gpt-oss-20b: gpt-oss-120b\n",
        "  gpt-oss-20b: gpt-oss-120b",
        "`gpt-oss-20b` is a model itself",
        "remove the alias",
    ),
    (
        "routes.yaml",
        "{place: bedrock-london}]\n      - [{place: bedrock-ireland",
        "{place: bedrock-london, weight: 0}]\n      - [{place: bedrock-ireland",
        "weight: 0",
        "every hop of this tier has weight 0",
        "give one of them a weight",
    ),
    (
        "routes.yaml",
        "id: everyone",
        "id: tenants-of-the-united-states",
        None,
        "`tenants-of-the-united-states` is already a route",
        "rename it",
    ),
    (
        "routes.yaml",
        "attempts_max: 3",
        "attempts_max: 3.5",
        "attempts_max: 3.5",
        "`attempts_max`: `3.5` is not a whole number",
        "rewrite it",
    ),
    # tests
    (
        "tests/secrecy.yaml",
        "tenant: globex-us",
        "tenant: globex",
        "tenant: globex,",
        "`globex` is not a known tenant",
        "did you mean `globex-us`?",
    ),
    (
        "tests/eea.yaml",
        "key: helpdesk",
        "key: help",
        "key: help,",
        "`help` is not a key of `acme-de`",
        "did you mean `helpdesk`?",
    ),
    (
        "tests/eea.yaml",
        "labels: [health], purpose: care",
        "labels: [helth], purpose: care",
        "helth",
        "`helth` is not a label of this bundle",
        "did you mean `health`?",
    ),
    (
        "tests/eea.yaml",
        "labels: [health], purpose: care",
        "labels: [health], purpose: carre",
        "carre",
        "`carre` is not a known purpose",
        "did you mean `care`?",
    ),
    (
        "tests/eea.yaml",
        "model: gpt-oss-120b",
        "model: gpt-oss-12b",
        "gpt-oss-12b",
        "`gpt-oss-12b` is not a known model",
        None,
    ),
    (
        "tests/eea.yaml",
        "permitted: [bedrock-milan]",
        "permitted: [bedrock-mailand]",
        "bedrock-mailand",
        "`bedrock-mailand` is not a known place",
        None,
    ),
    (
        "tests/secrecy.yaml",
        "gateway: our-premises-serve-every-tenant",
        "gateway: our-premises",
        "gateway: our",
        "`our-premises` is not a known rule",
        None,
    ),
    (
        "tests/secrecy.yaml",
        "      permitted: {gateway: our-premises-serve-every-tenant}",
        "      permited: {gateway: our-premises-serve-every-tenant}",
        "permited",
        "unknown key `permited`",
        "did you mean `permitted`?",
    ),
    (
        "tests/secrecy.yaml",
        "  expect:\n    infer:\n      permitted: {gateway: our-premises-serve-every-tenant}",
        "  expect: {}",
        "expect: {}",
        "the case expects nothing",
        "name places under `permitted` or `denied`",
    ),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "marked", "message", "hint"),
    CASES,
    ids=[f"{case[0]}: {case[4]}" for case in CASES],
)
def test_a_mistake_is_shown_with_its_line_and_what_to_write_instead(
    name: str, old: str, new: str, marked: str | None, message: str, hint: str | None
) -> None:
    files = edited(name, old, new)

    found = [problem for problem in problems_of(files) if problem.message == message]

    assert found, [problem.text() for problem in problems_of(files)]
    assert {problem.file for problem in found} == {name}
    assert all(problem.line > 0 and problem.column for problem in found)
    if marked is not None:
        assert abs(found[0].line - line_of(files, name, marked)) <= (3 if "does not serve" in message else 0)
    if hint is not None:
        assert found[0].hint == hint
    assert found[0].text() == f"{name}:{found[0].line}:{found[0].column}: {message}; {found[0].hint}"


@pytest.mark.parametrize("prefix", ["us", "eu", "apac", "jp", "au", "us-gov", "global"])
def test_a_model_id_with_a_geographic_or_global_prefix_is_refused(prefix: str) -> None:
    files = edited("places.yaml", FRANKFURT, FRANKFURT.replace("openai.", f"{prefix}.openai."))

    (problem,) = problems_of(files)

    assert (
        f"is the cross-region profile `{prefix}.`, which may serve outside `eu-central-1`" in problem.message
    )


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:bedrock:eu-central-1::foundation-model/openai.gpt-oss-20b-1:0",
        "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/abc",
        "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:inference-profile/us-gov.openai.gpt-oss-20b-1:0",
    ],
)
def test_any_arn_as_a_model_id_is_refused(arn: str) -> None:
    files = edited("places.yaml", FRANKFURT, FRANKFURT.replace("openai.gpt-oss-20b-1:0", arn))

    (problem,) = problems_of(files)

    assert problem.message == f"`{arn}` is an ARN, and an inference profile may serve it in another region"


@pytest.mark.parametrize(
    "region", ["eu-west-3", "eu-central-2", "eu-south-2", "ca-central-1", "ca-west-1", "eusc-de-east-1",
               "us-gov-east-1", "cn-north-1"],
)  # fmt: skip
def test_a_region_that_does_not_serve_gpt_oss_is_refused_with_those_that_do(region: str) -> None:
    files = edited("places.yaml", "region: eu-west-1", f"region: {region}")

    found = problems_of(files)

    assert {problem.message for problem in found} == {
        f"`{region}` does not serve `gpt-oss-20b`",
        f"`{region}` does not serve `gpt-oss-120b`",
    }
    assert all(problem.hint.startswith("the nearest that do: `") for problem in found)


def test_all_mistakes_of_all_files_are_shown_at_once() -> None:
    files = edited("places.yaml", "kind: engine", "kind: engin")
    files["routes.yaml"] = files["routes.yaml"].replace(b"attempts_max: 3", b"attempts: 3")
    files["residency/10-secrecy.yaml"] = b"- id: x\n  forbid: [infer]\n  wen: {}\n"
    files["tenants.yaml"] = b"tenants: [\n"

    found = problems_of(files)

    assert {problem.file for problem in found} == {
        "places.yaml",
        "residency/10-secrecy.yaml",
        "routes.yaml",
        "tenants.yaml",
    }
    assert list(found) == sorted(found)


def test_a_bundle_whose_examples_fail_does_not_load(tmp_path: Path) -> None:
    files = edited(
        "tests/secrecy.yaml", "denied: {logs: confidential-content-is-not-logged}", "permitted: [logs]"
    )

    with pytest.raises(PolicyTestsFailed) as raised:
        load_bundle(write(files, tmp_path))

    (failure,) = raised.value.failures
    assert failure.startswith("tests/secrecy.yaml:")
    assert (
        "confidential content is not logged, but the request is recorded: `log` at `logs` was to be "
        "permitted, but `confidential-content-is-not-logged` denies it (tenant `acme-de` in `DE`, labels "
        "`confidential`, purpose `customer-support`, model `gpt-oss-20b`)"
    ) in failure


def test_the_text_of_an_invalid_bundle_is_one_line_for_each_problem(tmp_path: Path) -> None:
    files = edited("places.yaml", "kind: engine", "kind: engin")

    with pytest.raises(PolicyInvalid) as raised:
        load_bundle(write(files, tmp_path))

    assert str(raised.value) == (
        f"places.yaml:{line_of(files, 'places.yaml', 'kind: engin')}:11: `engin` is not a value of `kind`; "
        "did you mean `engine`?"
    )


def test_the_default_files_are_the_ones_being_edited() -> None:
    assert len(default_files()) == 15
