"""A client's receipts against the operator's files: the operator may hold every key, and is found out."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from gateway.audit.anchors import read_anchors
from gateway.audit.verify import ChainReport, verify_files
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import load_signing_key
from gateway.receipts.signer import ReceiptSigner
from tests.audit.signed import read, relinked, write
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import GatewayProcess
from tests.integration.scripted_engine import ScriptedEngine

SMALL = {"audit_file_bytes": 4096, "audit_checkpoint_records": 5}


def asked(gateway: GatewayProcess, count: int, receipts: Path) -> list[str]:
    """So many answers, plain and streamed; their receipts are kept, as a client would; the requests' ids."""
    caller = gateway.caller()
    said = [caller.ask(f"question {number}", stream=bool(number % 2)) for number in range(count)]
    with receipts.open("a") as kept:
        kept.writelines(f"{one.jws}\n" for one in said)
    return [one.receipt().request.id for one in said]


def report(gateway: GatewayProcess, receipts: Path) -> ChainReport:
    pinned = load_signing_key(gateway.state_dir / RECEIPT_KEY).public
    keys = {pinned.thumbprint: pinned}
    (only,) = verify_files([gateway.state_dir / "audit"], keys, read_anchors([receipts], keys))
    return only


def test_receipts_of_clients_hold_across_files_a_kill_and_a_restart_and_show_a_log_that_was_signed_anew(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    settings, receipts = {**scripted_settings, **SMALL}, tmp_path / "receipts.txt"
    first = start(settings, folder=tmp_path / "state-1")
    requests = asked(first, 8, receipts)
    first.signal(signal.SIGKILL)
    first.process.wait()
    again = start({**settings, "state_dir": str(first.state_dir)})
    requests += asked(again, 4, receipts)
    assert again.stop() == 0

    honest = report(again, receipts)
    assert honest.alterations == ()
    assert len(honest.files) > 2
    live = again.state_dir / "audit" / f"{honest.replica}.jsonl"
    records = read(live)
    ends = {one["request"]: one["seq"] for one in records if one["kind"] == "end"}
    assert honest.anchored is not None
    assert ends[requests[-2]] < honest.anchored <= ends[requests[-1]]

    # The operator changes one word, and makes every hash and every signature fit again.
    signer = ReceiptSigner(load_signing_key(again.state_dir / RECEIPT_KEY))
    index = next(i for i, one in enumerate(records) if one.get("request") == requests[3])
    changed = [*records[:index], {**records[index], "model": "gpt-oss-120b"}, *records[index + 1 :]]
    write(live, relinked(changed, signer.sign_checkpoint))

    found = report(again, receipts)
    assert {finding.code for finding in found.alterations} == {"rewritten"}
    assert f"record {records[index]['seq']} is not the one that the receipt" in found.alterations[0].message
