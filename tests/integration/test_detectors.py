"""What a request's own text says of it decides where it goes, whatever its caller declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bundle import DEMO, HELPDESK, bundle_with_keys, without_examples
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.regions import Regions
from tests.integration.scripted_engine import ScriptedEngine

IBAN = "DE89 3704 0044 0532 0130 00"

RULE = """
- id: financial-data-stays-on-the-premises
  basis: contract
  forbid: [infer, cache, log]
  when: {labels_any: [financial]}
  unless: {attested: on-premises}

- id: financial-data-is-not-for-the-larger-model
  basis: contract
  forbid: [infer]
  when: {labels_any: [financial], model_in: gpt-oss-120b}
  unless: {place_in: gateway}
"""
DETECTORS = r"""
detect:
  - {kinds: [iban, card], labels: [financial]}
patterns:
  - {id: project-name, tenants: [acme-de], pattern: '(?i)\bproject (?:osprey|heron)\b', labels: [financial]}
limits: {inline_bytes: 2048, text_bytes_max: 16384}
"""


@pytest.fixture(scope="module")
def detecting(
    scripted_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway with a bundle that keeps financial data on the premises, where only the smaller model is."""
    bundle = bundle_with_keys(tmp_path_factory.mktemp("detecting") / "bundle")
    (bundle / "residency" / "15-financial.yaml").write_text(RULE)
    (bundle / "detectors.yaml").write_text(DETECTORS)
    without_examples(bundle)
    settings = {**scripted_settings, "policies": str(bundle), "engine_models": ["gpt-oss-20b"]}
    with running_gateway(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


@pytest.fixture(autouse=True)
def engine_as_ever(script: ScriptedEngine) -> None:
    """It has forgotten what tests of other modules told it."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("header", [None, "public"])
def test_an_iban_goes_to_the_local_engine_and_to_no_cloud_whatever_the_header_says(
    detecting: GatewayProcess, regions: Regions, header: str | None, stream: bool
) -> None:
    said = detecting.caller().ask(
        f"pay it to {IBAN}, {header}, {stream}", labels=header, stream=stream, max_tokens=2
    )

    assert (said.status, said.place) == (200, "local-engine")
    assert said.receipt().labels == ("public", "financial")
    assert regions.touched() == set()


@pytest.mark.parametrize("header", [None, "public"])
def test_an_iban_for_a_model_that_only_clouds_have_is_refused_and_no_cloud_hears_of_it(
    detecting: GatewayProcess, regions: Regions, header: str | None
) -> None:
    said = detecting.caller().ask(f"pay it to {IBAN}", labels=header, model="gpt-oss-120b")

    assert (said.status, said.code) == (403, "residency_denied")
    assert said.error["douane"]["rules"] == [
        "financial-data-is-not-for-the-larger-model",
        "financial-data-stays-on-the-premises",
    ]
    assert said.receipt().labels == ("public", "financial")
    assert IBAN not in said.body.decode()
    assert regions.touched() == set()


def test_without_the_iban_the_same_request_goes_to_a_cloud(
    detecting: GatewayProcess, regions: Regions
) -> None:
    said = detecting.caller().ask("pay it to the usual account", model="gpt-oss-120b")

    assert said.status == 200
    assert said.receipt().labels == ("public",)
    assert sum(regions.received().values()) == 1


def test_a_pattern_of_one_tenant_is_looked_for_in_its_requests_alone(
    detecting: GatewayProcess, regions: Regions
) -> None:
    named = "the schedule of Project Osprey"

    assert detecting.caller(HELPDESK).ask(named, model="gpt-oss-120b").code == "residency_denied"
    assert regions.touched() == set()
    assert detecting.caller(DEMO).ask(named, model="gpt-oss-120b").status == 200


@pytest.mark.parametrize("body", ["x " * 9_000, "x " * 4_000 + IBAN])
def test_a_text_that_is_too_long_to_read_counts_as_holding_everything_and_a_long_one_is_read(
    detecting: GatewayProcess, regions: Regions, body: str
) -> None:
    assert detecting.caller().ask(body, model="gpt-oss-120b").code == "residency_denied"
    assert regions.touched() == set()
    assert detecting.caller().ask("x " * 4_000, model="gpt-oss-120b").status == 200


def test_the_audit_names_what_was_found_and_no_record_log_or_metric_repeats_it(
    detecting: GatewayProcess,
) -> None:
    said = detecting.caller().ask(f"this is found: {IBAN}", max_tokens=2)

    assert said.status == 200
    kept = detecting.text() + detecting.http.get("/metrics").text
    kept += "".join(file.read_text() for file in (detecting.state_dir / "audit").rglob("*") if file.is_file())
    assert 'douane_detected_total{kind="iban"}' in kept
    assert '"detected":["iban"]' in kept
    assert IBAN not in kept
    assert IBAN.replace(" ", "") not in kept
