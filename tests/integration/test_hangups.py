"""A caller who hangs up stops the work, and what was used is still settled and recorded."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.testing.bedrock.faults import Fault
from tests.integration.bundle import DEMO, HELPDESK, bundle_with_keys, edit
from tests.integration.caller import CHAT
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import GatewayProcess, until
from tests.integration.regions import ALL, Regions
from tests.integration.scripted_engine import ScriptedEngine


def leave_early(
    gateway: GatewayProcess, body: dict[str, Any], reached: Callable[[], object], key: str = DEMO
) -> str:
    """Asks, waits until `reached` (of a stream: for its beginning too), and hangs up; the request's id."""
    before = {one["request"] for one in gateway.records("begin")}
    said = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "a long story"}], **body}
    content = json.dumps(said).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    head += f"content-length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + content)
        until(reached, "the request reaches its place")
        heard = b""
        while said.get("stream") and b"data: " not in heard:
            heard += connection.recv(65536)
    (request,) = {one["request"] for one in gateway.records("begin")} - before
    return str(request)


def ended(gateway: GatewayProcess, request: str) -> dict[str, Any]:
    until(lambda: request in [one["request"] for one in gateway.records("end")], "the end is recorded")
    return gateway.record_of(request, "end")


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_is_told_at_once(
    scripted_gateway: GatewayProcess, script: ScriptedEngine, stream: bool
) -> None:
    script.pause_s = 60.0

    request = leave_early(scripted_gateway, {"stream": stream}, script.started.is_set)

    assert script.hung_up.wait(40)
    end = ended(scripted_gateway, request)
    assert (end["outcome"], end["code"]) == ("incomplete", "client_gone")
    assert end["status"] == (200 if stream else 499)
    assert [one["outcome"] for one in end["attempts"]] == ["answered" if stream else "cancelled"]
    until(lambda: scripted_gateway.metric("douane_in_flight") == 0, "nothing is in flight")


@pytest.mark.parametrize("stream", [False, True])
def test_bedrock_is_told_at_once(
    scripted_gateway: GatewayProcess, script: ScriptedEngine, regions: Regions, stream: bool
) -> None:
    script.status, script.error = 429, {"message": "full", "code": "x"}
    regions.give(ALL, Fault(kind="stall", after_events=3, delay_s=60))

    request = leave_early(scripted_gateway, {"stream": stream}, regions.received)

    until(lambda: regions.hangups() == 1, "the region sees the caller hang up")
    end = ended(scripted_gateway, request)
    assert (end["outcome"], end["code"]) == ("incomplete", "client_gone")
    assert [one["outcome"] for one in end["attempts"]] == ["saturated", "answered" if stream else "cancelled"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_room_that_a_caller_took_is_free_again(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    start: StartGateway,
    tmp_path: Path,
    stream: bool,
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    edit(bundle / "tenants.yaml", "max_concurrent: 32", "max_concurrent: 1")
    gateway = start({**scripted_settings, "policies": str(bundle)})
    script.pause_s = 60.0
    request = leave_early(gateway, {"stream": stream}, script.started.is_set, HELPDESK)
    ended(gateway, request)
    script.pause_s = 0.0

    assert [gateway.caller(HELPDESK).ask(f"next {n}").status for n in range(3)] == [200, 200, 200]


def test_one_request_too_many_at_once_is_told_so(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    edit(bundle / "tenants.yaml", "max_concurrent: 32", "max_concurrent: 1")
    gateway = start({**scripted_settings, "policies": str(bundle)})
    script.pause_s = 0.5
    body = {"model": "gpt-oss-20b", "stream": True, "messages": [{"role": "user", "content": "slow"}]}
    headers = {"authorization": f"Bearer {HELPDESK}"}
    with gateway.http.stream("POST", CHAT, json=body, headers=headers) as response:
        pieces = response.iter_raw()  # kept: httpx hangs up when it is forgotten
        next(pieces)
        refused = gateway.caller(HELPDESK).ask("meanwhile")

    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.error["douane"] == {"limit": "max_concurrent"}
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.receipt().outcome == "refused"


def test_a_caller_who_leaves_before_the_body_is_there_leaves_no_record(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    before = len(scripted_gateway.records())
    port = httpx.URL(scripted_gateway.url).port
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {DEMO}\r\ncontent-length: 900\r\n\r\n"
        )
        connection.sendall(head.encode() + json.dumps({"model": "gpt-oss-20b"}).encode())
    until(
        lambda: scripted_gateway.metric("douane_requests_total", outcome="client_gone", status="499") >= 1,
        "the hang-up is counted",
    )

    until(lambda: scripted_gateway.metric("douane_in_flight") == 0, "nothing is under way")
    assert len(scripted_gateway.records()) == before
