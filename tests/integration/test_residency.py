"""No request reaches a region that its labels do not permit, whatever fails and whatever the caller sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.testing.bedrock.faults import Fault
from tests.integration.bundle import (
    DEMO,
    GLOBEX,
    HELPDESK,
    WARD,
    bundle_with_keys,
    edit,
    without_examples,
)
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.regions import ALL, EEA, Regions
from tests.redis_server import free_port

ALL_DOWN = Fault(kind="error", code="ServiceUnavailableException", times=None)

SPOOFED_HEADERS: list[dict[str, str]] = [
    {"x-douane-backend": "bedrock-virginia", "x-douane-route": "tenants-of-the-united-states"},
    {"x-douane-zone": "US", "x-douane-tenant": "globex-us", "x-douane-decision": "allow"},
    {"x-douane-labels-override": "public", "x-douane-cache": "off", "x-douane-bundle": "none"},
    {"x-litellm-tags": "bedrock,us-east-1", "x-litellm-model": "bedrock/us.openai.gpt-oss-20b-1:0"},
    {"x-forwarded-for": "3.3.3.3", "x-forwarded-host": "bedrock-runtime.us-east-1.amazonaws.com"},
    {"x-amzn-bedrock-region": "us-east-1", "aws-region": "us-east-1", "x-real-ip": "127.0.0.1"},
    {"openai-organization": "globex-us", "openai-project": "bedrock", "x-portkey-provider": "bedrock"},
]
SPOOFED_FIELDS: list[dict[str, Any]] = [
    {
        "metadata": {
            "labels": "public",
            "region": "us-east-1",
            "x-douane-labels": "public",
            "route": "bedrock",
        }
    },
    {"metadata": {"session_id": "bedrock-virginia"}, "user": "globex-us", "safety_identifier": "public"},
    {"service_tier": "default"},
    {"service_tier": "auto", "store": False, "user": '{"labels": "public"}'},
    {"model": "openai/gpt-oss-20b"},
    {"model": "openai/gpt-oss-120b"},
]
SPELLINGS = [
    "bedrock/openai.gpt-oss-20b-1:0",
    "us.openai.gpt-oss-20b-1:0",
    "openai.gpt-oss-20b-1:0",
    "GPT-OSS-20B",
    " gpt-oss-20b",
    "gpt-oss-20b ",
    "gpt-oss-20b@us-east-1",
    "bedrock-virginia/gpt-oss-20b",
    "gpt-oss-20b\u0000",
    "gpt-oss-20b;region=us-east-1",
    "arn:aws:bedrock:us-east-1::foundation-model/openai.gpt-oss-20b-1:0",
    "\uff47pt-oss-20b",
]


@pytest.fixture(scope="module")
def without_engine(
    running_everywhere: Regions, policies: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway whose engine is down: nothing listens where it should."""
    settings = {
        "policies": str(policies),
        "emulator_urls": running_everywhere.urls,
        "engine_url": f"http://127.0.0.1:{free_port()}",
        "engine_secret": "secret",
    }
    with running_gateway(tmp_path_factory.mktemp("without-engine"), settings) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_a_secret_is_refused_while_the_engine_is_down(
    without_engine: GatewayProcess, regions: Regions, stream: bool
) -> None:
    said = without_engine.caller().ask(labels="secret", stream=stream)

    assert (said.status, said.code) == (503, "permitted_backend_unavailable")
    assert int(said.headers["retry-after"]) >= 1
    assert said.receipt().outcome == "failed"
    assert regions.touched() == set()


@pytest.mark.parametrize("headers", SPOOFED_HEADERS, ids=lambda headers: next(iter(headers)))
def test_no_header_sends_a_secret_away(
    without_engine: GatewayProcess, regions: Regions, headers: dict[str, str]
) -> None:
    said = without_engine.caller().ask(labels="secret", headers=headers)

    assert (said.status, said.code) == (503, "permitted_backend_unavailable")
    assert regions.touched() == set()


@pytest.mark.parametrize("fields", SPOOFED_FIELDS, ids=json.dumps)
def test_no_field_sends_a_secret_away(
    without_engine: GatewayProcess, regions: Regions, fields: dict[str, Any]
) -> None:
    said = without_engine.caller().ask(labels="secret", **fields)

    assert (said.status, said.code) == (503, "permitted_backend_unavailable")
    assert regions.touched() == set()


@pytest.mark.parametrize("model", SPELLINGS)
def test_no_spelling_of_a_model_sends_a_secret_away(
    without_engine: GatewayProcess, regions: Regions, model: str
) -> None:
    said = without_engine.caller().ask(labels="secret", model=model)

    assert (said.status, said.code, said.error["param"]) == (404, "model_not_found", "model")
    assert regions.touched() == set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_public_question_spills_over_within_the_tenants_own_region(
    without_engine: GatewayProcess, regions: Regions, stream: bool
) -> None:
    said = without_engine.caller().ask(f"spill {stream}", stream=stream)

    assert said.status == 200
    assert said.headers["x-douane-emulated"] == "true"
    assert set(regions.received()) < set(EEA)
    receipt = said.receipt()
    tried = [(one.place, one.outcome) for one in receipt.attempts[:-1]]
    assert tried in ([("local-engine", "unreachable")], [])  # not tried while its breaker is open
    assert receipt.attempts[-1].outcome == "answered"
    assert (receipt.attempts[-1].place, receipt.attempts[-1].operator) == (said.place, "aws")
    assert receipt.emulated


@pytest.mark.parametrize("key", [DEMO, HELPDESK])
def test_personal_data_stays_in_the_eea_when_all_is_well(
    without_engine: GatewayProcess, regions: Regions, key: str
) -> None:
    said = without_engine.caller(key).ask("whose", labels="personal")

    assert said.status == 200
    assert said.headers["x-douane-zone"] in ("DE", "IE", "SE", "IT")
    assert regions.touched() <= set(EEA)


@pytest.mark.parametrize("stream", [False, True])
def test_personal_data_is_refused_when_every_region_of_the_eea_fails(
    without_engine: GatewayProcess, regions: Regions, stream: bool
) -> None:
    regions.give(EEA, ALL_DOWN)

    said = without_engine.caller().ask(f"whose {stream}", labels="personal", stream=stream)

    assert (said.status, said.code) == (503, "permitted_backend_unavailable")
    assert regions.touched() <= set(EEA)


def allowed(key: str, labels: frozenset[str]) -> frozenset[str]:
    """Written by hand from the default bundle: the regions that may see a request."""
    if key == WARD:  # United Kingdom; always health and personal, and what it declares joins that
        return frozenset() if not labels or "secret" in labels else frozenset({*EEA, "eu-west-2"})
    if key == GLOBEX:  # United States; internal by default
        return frozenset() if "secret" in labels else frozenset({"us-east-1", "us-east-2"})
    if "secret" in labels or (key == HELPDESK and "health" in labels):
        return frozenset()
    if key == HELPDESK or labels & {"personal", "health", "internal", "confidential"}:
        return frozenset(EEA)
    return frozenset(ALL)


FAULTS = st.sampled_from(
    [
        Fault(kind="error", code="ServiceUnavailableException"),
        Fault(kind="error", code="InternalServerException"),
        Fault(kind="error", code="ThrottlingException"),
        Fault(kind="error", code="AccessDeniedException"),
        Fault(kind="error", code="ModelNotReadyException"),
        Fault(kind="error", code="ValidationException"),
        Fault(kind="error", code="ExpiredTokenException"),
        Fault(kind="redirect", location="http://127.0.0.1:1/"),
        Fault(kind="reset"),
        Fault(kind="cut", after_events=2),
        Fault(kind="stream_error", code="ModelStreamErrorException", after_events=1),
        Fault(kind="garbage"),
        Fault(kind="bad_crc"),
        Fault(kind="no_metadata"),
    ]
)
LABELS = st.frozensets(
    st.sampled_from(["public", "internal", "confidential", "secret", "personal", "health", "financial"]),
    max_size=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from([DEMO, HELPDESK, GLOBEX, WARD]),
    labels=LABELS,
    faults=st.dictionaries(st.sampled_from(ALL), st.lists(FAULTS, min_size=1, max_size=2), max_size=7),
    stream=st.booleans(),
    spoof=st.sampled_from([{}, *SPOOFED_HEADERS]),
    number=st.integers(0, 10**9),
)
def test_no_combination_of_faults_and_labels_reaches_a_forbidden_region(
    without_engine: GatewayProcess,
    running_everywhere: Regions,
    key: str,
    labels: frozenset[str],
    faults: dict[str, list[Fault]],
    stream: bool,
    spoof: dict[str, str],
    number: int,
) -> None:
    running_everywhere.mark()
    for region, some in faults.items():
        running_everywhere.give([region], *some)

    said = without_engine.caller(key).ask(
        f"question {number}", labels=",".join(sorted(labels)) or None, headers=spoof, stream=stream
    )

    assert running_everywhere.touched() <= allowed(key, labels)
    assert said.status in (200, 400, 403, 502, 503)
    assert said.receipt().status == said.status


def test_a_request_that_no_configured_backend_may_answer_is_told_the_rule_and_what_would_be_permitted(
    running_everywhere: Regions, policies: Path, start: StartGateway, regions: Regions
) -> None:
    no_engine = start({"policies": str(policies), "emulator_urls": running_everywhere.urls})

    said = no_engine.caller().ask("the formula", labels="secret")

    assert (said.status, said.code) == (403, "residency_denied")
    assert said.error["douane"]["rule"] == "secret-stays-on-the-premises"
    assert said.error["douane"]["basis"] == "own classification scheme, class `secret`"
    assert "secret-stays-on-the-premises" in said.error["message"]
    assert "permitted at" in said.error["message"]
    assert said.receipt().policy.rules == ("secret-stays-on-the-premises",)
    assert said.receipt().outcome == "refused"
    assert regions.touched() == set()


def test_a_bundle_that_permits_no_place_refuses_with_the_nearest_alternative(
    scripted_settings: dict[str, Any], tmp_path: Path, start: StartGateway, regions: Regions
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    without_examples(bundle)
    edit(
        bundle / "places.yaml",
        "  - id: local-engine\n    kind: engine\n    country: DE\n    operator: self\n"
        "    attested: [on-premises]\n",
        "  - id: local-engine\n    kind: engine\n    country: DE\n    operator: aws\n",
    )
    gateway = start({**scripted_settings, "policies": str(bundle)})

    said = gateway.caller().ask("the formula", labels="secret")

    assert (said.status, said.code) == (403, "residency_denied")
    assert said.error["douane"]["rule"] == "secret-stays-on-the-premises"
    assert (
        "only data labelled at most `confidential` is permitted, at `bedrock-frankfurt`"
        in said.error["message"]
    )
    assert regions.touched() == set()


def test_a_label_above_the_tenants_ceiling_is_refused(
    without_engine: GatewayProcess, regions: Regions
) -> None:
    said = without_engine.caller(HELPDESK).ask(labels="secret")

    assert (said.status, said.code) == (403, "residency_denied")
    assert said.error["douane"]["labels"] == ["secret"]
    assert regions.touched() == set()
