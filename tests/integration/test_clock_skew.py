"""A region whose clock is ten minutes from this machine's: answered, told, nothing but signatures moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.testing.bedrock.faults import Fault
from tests.integration.conftest import StartGateway
from tests.integration.regions import ALL, Regions
from tests.integration.scripted_engine import ScriptedEngine


def test_requests_are_answered_and_only_their_signatures_have_the_other_time(
    scripted_settings: dict[str, Any], script: ScriptedEngine, regions: Regions, start: StartGateway
) -> None:
    gateway = start(scripted_settings)
    assert gateway.http.get("/readyz").json() == {"status": "ready"}
    script.status, script.error = 429, {"message": "full", "code": "x"}
    regions.give(ALL, Fault(kind="wrong_time", offset_s=600, times=None))

    began = datetime.now(UTC)
    said = gateway.caller().ask("what time is it")
    receipt, ended = said.receipt(), datetime.now(UTC)

    assert said.status == 200
    assert [one.outcome for one in receipt.attempts] == ["saturated", "answered"]
    region = str(receipt.attempts[1].region)
    assert regions.received() == {region: 2}
    assert began <= datetime.fromisoformat(receipt.issued_at) <= ended
    records = [one for one in gateway.records() if one.get("request") == receipt.request.id]
    for record in records:
        assert began <= datetime.fromisoformat(record["time"]) <= ended
    assert [one["kind"] for one in records] == ["begin", "end"]

    (told,) = gateway.events("clock_skew")
    assert (told["level"], told["region"]) == ("warning", region)
    assert timedelta(seconds=told["skew_s"]) > timedelta(minutes=9, seconds=50)
    assert gateway.http.get("/readyz").json() == {
        "status": "ready", "clock_skew_s": {region: told["skew_s"]},
    }  # fmt: skip
    assert abs(gateway.metric("douane_clock_skew_seconds", region=region) - 600) < 10
    assert gateway.metric("douane_clock_retries_total", region=region) == 1
