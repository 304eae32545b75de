"""Every answer carries a receipt that verifies offline; nobody fetches another tenant's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.receipts.pinned import load_pinned
from gateway.receipts.verify import read_unverified, verify_receipt
from gateway.testing.bedrock.faults import Fault
from tests.integration.bundle import GLOBEX, HELPDESK, bundle_with_keys
from tests.integration.caller import Said
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import ROOT, GatewayProcess, until
from tests.integration.regions import ALL, Regions
from tests.integration.scripted_engine import ScriptedEngine


def verified_by_command(said: Said, folder: Path, jws: str | None = None) -> str:
    """`douane receipt verify` with the pinned public key and what was sent and received; what it printed."""
    key, request, answer = folder / "pinned.pem", folder / "request.json", folder / "answer"
    douane = [sys.executable, "-m", "gateway.cli.main", "receipt"]
    public = [*douane, "public-key", str(said.state_dir / "receipt-key.pem")]
    key.write_bytes(subprocess.run(public, cwd=ROOT, capture_output=True, check=True).stdout)
    request.write_bytes(said.sent)
    answer.write_bytes(said.body)
    source = str(answer) if said.streamed and jws is None else jws or said.jws
    command = [
        *douane,
        "verify",
        source,
        "--key",
        str(key),
        "--request",
        str(request),
        "--answer",
        str(answer),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["plain", "stream", "hit", "hit-stream", "refused", "failed", "incomplete"])
def test_each_kind_of_answer_verifies_with_the_command(
    scripted_gateway: GatewayProcess, script: ScriptedEngine, tmp_path: Path, kind: str
) -> None:
    caller = scripted_gateway.caller()
    text = f"a question for the receipt of {kind}"
    match kind:
        case "plain":
            said, outcome, status = caller.ask(text), "answered", 200
        case "stream":
            said, outcome, status = caller.ask(text, stream=True), "answered", 200
        case "hit" | "hit-stream":
            caller.ask(text)
            said, outcome, status = caller.ask(text, stream=kind == "hit-stream"), "cached", 200
        case "refused":
            said, outcome, status = caller.ask(text, labels="nonsense"), "refused", 400
        case "failed":
            script.status, script.error = 500, {"message": "x", "code": "x"}
            said, outcome, status = caller.ask(text, labels="secret"), "failed", 503
        case _:
            script.break_after = 2
            said, outcome, status = caller.ask(text, stream=True), "incomplete", 200

    receipt = said.receipt()
    printed = verified_by_command(said, tmp_path)

    assert (receipt.outcome, receipt.status) == (outcome, status)
    assert "verified: signed by a pinned key" in printed
    assert "request: matches   answer: matches   nonce: not checked" in printed
    assert "signed with a demo key" in printed
    assert receipt.audit is not None
    records = [one for one in scripted_gateway.records() if one["seq"] == receipt.audit.sequence]
    assert [one["hash"] for one in records] == [receipt.audit.hash]


def test_a_receipt_names_where_each_attempt_went(
    scripted_gateway: GatewayProcess, script: ScriptedEngine, regions: Regions
) -> None:
    script.status, script.error = 429, {"message": "full", "code": "x"}
    regions.give(ALL, Fault(kind="error", code="ThrottlingException", times=2))

    caller = scripted_gateway.caller()
    asked = caller.ask("around the houses", labels="personal")
    name = f"rcpt_{asked.headers['x-request-id'].removeprefix('req_')}"  # so many attempts fill a header
    receipt = read_unverified(caller.get(f"/v1/receipts/{name}").json()["jws"]).receipt

    assert receipt.attempts[0].outcome == "saturated"
    assert {one.outcome for one in receipt.attempts[1:]} == {"throttled"}
    for one in receipt.attempts[1:]:
        assert (one.kind, one.operator, one.place_source, one.emulated) == ("bedrock", "aws", "derived", True)
        assert "EEA" in one.zones
        assert one.upstream_request_id is not None
    reasons = [one.reason for one in receipt.attempts]
    assert reasons == ["first", "spill", "retry", *["fallback", "retry"] * (len(reasons) // 2 - 1)]


def test_only_the_own_tenant_fetches_a_receipt(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    said = scripted_gateway.caller(HELPDESK).ask("whose receipt")
    path = f"/v1/receipts/{said.receipt().id}"

    own = scripted_gateway.caller(HELPDESK).get(path)
    assert own.status_code == 200
    assert own.json() == {"id": said.receipt().id, "object": "receipt", "jws": said.jws}
    for other in (scripted_gateway.caller(), scripted_gateway.caller(GLOBEX)):
        assert other.get(path).json()["error"]["code"] == "not_found"
    assert scripted_gateway.caller(None).get(path).status_code == 401
    for id_ in ("rcpt_" + "0" * 32, "nonsense", "..%2f..%2fmaster.key", "rcpt_%00"):
        assert scripted_gateway.caller(HELPDESK).get(f"/v1/receipts/{id_}").status_code == 404


def test_a_receipt_over_four_kilobytes_is_sent_by_its_id(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    regions: Regions,
    start: StartGateway,
    tmp_path: Path,
) -> None:
    """Many attempts make a receipt long."""
    bundle = bundle_with_keys(tmp_path / "bundle")
    routes = bundle / "routes.yaml"
    routes.write_text(routes.read_text().replace("attempts_max: 4", "attempts_max: 8"))
    gateway = start({**scripted_settings, "policies": str(bundle)})
    script.status, script.error = 429, {"message": "full", "code": "x"}
    regions.give(ALL, Fault(kind="error", code="ThrottlingException", times=None))

    said = gateway.caller().ask("around all the houses")

    header = said.headers["x-douane-receipt"]
    assert header == f"rcpt_{said.headers['x-request-id'].removeprefix('req_')}"
    fetched = gateway.caller().get(f"/v1/receipts/{header}").json()
    assert len(fetched["jws"]) > 4096
    assert "verified: signed by a pinned key" in verified_by_command(said, tmp_path, fetched["jws"])
    assert len(regions.received()) == len(ALL)


def test_the_published_keys_are_those_that_sign(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    said = scripted_gateway.caller().ask("which key")
    keys = scripted_gateway.http.get("/.well-known/jwks.json").json()["keys"]

    assert [key["kid"] for key in keys] == [read_unverified(said.jws).kid]
    assert keys[0]["crv"] == "Ed25519"
    assert "d" not in keys[0]


def test_a_hangup_signal_takes_the_rotated_key_without_a_restart(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    gateway = start({**scripted_settings, "policy_poll_s": 3600})
    first = gateway.caller().ask("before the rotation")
    before = read_unverified(first.jws).kid

    rotate = [sys.executable, "-m", "gateway.cli.main", "receipt", "rotate", "--state-dir"]
    subprocess.run([*rotate, str(gateway.state_dir)], cwd=ROOT, check=True, capture_output=True)
    gateway.signal(signal.SIGHUP)
    until(lambda: gateway.records("signing_key_changed"), "the change is on record")
    last = gateway.caller().ask("after the rotation")
    after = read_unverified(last.jws).kid

    response = gateway.http.get("/.well-known/jwks.json")
    assert [key["kid"] for key in response.json()["keys"]] == [after, before]
    assert response.headers["cache-control"] == "public, max-age=300"
    (tmp_path / "jwks.json").write_bytes(response.content)
    pinned = load_pinned(tmp_path / "jwks.json")
    for said in (first, last):
        assert verify_receipt(said.jws, pinned).receipt.outcome == "answered"
    (record,) = gateway.records("signing_key_changed")
    assert (record["before"], record["after"]) == (before, after)
    assert before != after
    assert gateway.verified().intact
