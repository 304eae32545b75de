"""The bundle changes while the gateway runs: whole and checked, or not at all."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bundle import bundle_with_keys, edit, without_examples
from tests.integration.caller import Said
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import GatewayProcess, until
from tests.integration.regions import Regions
from tests.integration.scripted_engine import ScriptedEngine

NO_CLOUD = """
- id: no-cloud-for-now
  forbid: [infer]
  when: {operator_under: us-cloud-act}
"""

NO_COPIES = """- {id: no-copies, basis: a promise that the rules do not keep, never: [cache]}
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the test's own, reached through a symlink, as a deployment would swap it."""
    bundle_with_keys(tmp_path / "bundle-1")
    link = tmp_path / "current"
    link.symlink_to("bundle-1")
    return link


def revision(gateway: GatewayProcess) -> str:
    said = gateway.caller().ask("which revision")
    assert said.status == 200
    return said.receipt().policy.revision


def test_a_hangup_signal_loads_the_bundle_again(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, bundle: Path
) -> None:
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 3600})
    before = revision(gateway)

    edit(bundle / "bundle.yaml", "serial: 1 ", "serial: 7 ")
    assert revision(gateway) == before
    gateway.signal(signal.SIGHUP)
    until(lambda: gateway.metric("douane_policy_serial") == 7, "serial 7 is in force")

    after = revision(gateway)
    assert after != before
    loaded = gateway.records("policy_loaded")
    assert [(one["serial"], one["previous"]) for one in loaded] == [(1, None), (7, before)]
    assert loaded[-1]["revision"] == after


def test_a_swapped_symlink_is_noticed(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, bundle: Path
) -> None:
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 0.1})
    new = shutil.copytree(bundle.parent / "bundle-1", bundle.parent / "bundle-2")
    edit(new / "bundle.yaml", "serial: 1 ", "serial: 2 ")

    draft = bundle.with_name("current.draft")
    draft.symlink_to("bundle-2")
    draft.replace(bundle)

    until(lambda: gateway.metric("douane_policy_serial") == 2, "the bundle behind the link is in force")
    assert gateway.records("policy_loaded")[-1]["serial"] == 2


def test_a_broken_bundle_changes_nothing_and_is_told_loudly(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, bundle: Path
) -> None:
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 0.1})
    before = revision(gateway)

    edit(
        bundle / "routes.yaml",
        "first_byte_timeout_s: 30\n    total_timeout_s: 300\n\n  - id: everyone",
        "first_byte_timeout: 30\n    total_timeout_s: 300\n\n  - id: everyone",
    )
    until(lambda: gateway.events("policy_refused"), "the refusal is logged")

    assert revision(gateway) == before
    (logged,) = gateway.events("policy_refused")
    assert "routes.yaml:" in logged["problems"]
    assert "first_byte_timeout" in logged["problems"]
    (recorded,) = gateway.records("policy_refused")
    assert recorded["kept"] == before
    assert recorded["problems"][0].startswith("routes.yaml:")
    assert gateway.metric("douane_policy_loads_total", outcome="refused") == 1

    edit(bundle / "routes.yaml", "first_byte_timeout: 30", "first_byte_timeout_s: 30")
    edit(bundle / "bundle.yaml", "serial: 1 ", "serial: 2 ")
    until(lambda: gateway.metric("douane_policy_serial") == 2, "the mended bundle is in force")


def test_a_bundle_whose_own_example_fails_changes_nothing(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, bundle: Path
) -> None:
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 0.1})
    before = revision(gateway)

    (bundle / "residency" / "50-new.yaml").write_text(NO_CLOUD)
    until(lambda: gateway.events("policy_refused"), "the refusal is logged")

    assert revision(gateway) == before
    assert "tests/eea.yaml:" in gateway.events("policy_refused")[0]["problems"]


def test_a_bundle_whose_claims_do_not_hold_changes_nothing_and_says_what_breaks_them(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, bundle: Path
) -> None:
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 3600})
    before = revision(gateway)

    edit(bundle / "bundle.yaml", "serial: 1 ", "serial: 2 ")
    claims = (bundle / "claims.yaml").read_text()
    line = claims.count("\n") + 1
    (bundle / "claims.yaml").write_text(f"{claims}{NO_COPIES}")
    gateway.signal(signal.SIGHUP)
    until(lambda: gateway.events("policy_refused"), "the refusal is logged")

    assert revision(gateway) == before
    (logged,) = gateway.events("policy_refused")
    assert (
        f"claims.yaml:{line}: the claim `no-copies` does not hold for tenant `acme-de`" in logged["problems"]
    )
    assert "is permitted by `our-premises-serve-every-tenant`" in logged["problems"]
    (recorded,) = gateway.records("policy_refused")
    assert (recorded["kept"], list(recorded["problems"])) == (before, [f"claims.yaml:{line}"])
    assert gateway.metric("douane_policy_loads_total", outcome="refused") == 1
    assert gateway.metric("douane_policy_serial") == 1

    (bundle / "claims.yaml").write_text(claims)
    gateway.signal(signal.SIGHUP)
    until(lambda: gateway.metric("douane_policy_serial") == 2, "the bundle whose claims hold is in force")


def test_a_bundle_that_is_gone_changes_nothing(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, bundle: Path
) -> None:
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 0.1})
    before = revision(gateway)

    bundle.unlink()
    until(lambda: gateway.events("policy_refused"), "the refusal is logged")

    assert revision(gateway) == before


def test_a_further_attempt_must_be_permitted_by_both_revisions(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    regions: Regions,
    start: StartGateway,
    bundle: Path,
) -> None:
    """The engine fails only after a bundle came into force that forbids what was planned next."""
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 0.1})
    without_examples(bundle)
    until(lambda: gateway.events("policy_loaded"), "the bundle without examples is in force")
    script.free.clear()
    script.break_after = 0
    answers: list[Said] = []
    asking = threading.Thread(target=lambda: answers.append(gateway.caller().ask("in between")))
    asking.start()
    assert script.started.wait(40)

    (bundle / "residency" / "50-new.yaml").write_text(NO_CLOUD)
    until(lambda: len(gateway.events("policy_loaded")) == 2, "the stricter bundle is in force")
    script.free.set()
    asking.join()

    (said,) = answers
    assert (said.status, said.code) == (503, "permitted_backend_unavailable")
    outcomes = [(one.place, one.outcome) for one in said.receipt().attempts]
    assert outcomes[0] == ("local-engine", "broken")
    assert {outcome for place, outcome in outcomes if place.startswith("bedrock-")} == {"withdrawn"}
    assert regions.touched() == set()
