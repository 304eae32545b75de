"""How the process ends: on request without cutting anybody off, by force without losing a record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.caller import Said
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import ROOT, GatewayProcess, records_in, until
from tests.integration.scripted_engine import ScriptedEngine
from tests.redis_server import free_port


class Asking(threading.Thread):
    """One request under way."""

    def __init__(self, gateway: GatewayProcess, **fields: Any) -> None:
        super().__init__()
        self.gateway = gateway
        self.fields = fields
        self.said: Said | None = None
        self.failed: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.said = self.gateway.caller().ask("a long story", **self.fields)
        except httpx.HTTPError as error:
            self.failed = error


def audit_verify(state_dir: Path) -> tuple[int, dict[str, Any]]:
    """`douane audit verify` on the real files: exit status and report."""
    files = [str(path) for path in sorted((state_dir / "audit").glob("*.jsonl"))]
    command = [sys.executable, "-m", "gateway.cli.main", "audit", "verify", "--format", "json", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_takes_nobody_new_and_finishes_what_it_began(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, number: int
) -> None:
    gateway = start(scripted_settings)
    script.pause_s = 0.3
    streaming, plain = Asking(gateway, stream=True), Asking(gateway)
    until(lambda: len(script.received) == 2, "both requests have reached the engine")

    gateway.signal(number)
    until(lambda: refused(gateway), "new callers are turned away")
    streaming.join()
    plain.join()

    assert gateway.process.wait(60) == 0
    assert streaming.said is not None
    assert streaming.said.body.endswith(b"data: [DONE]\n\n")
    assert streaming.said.receipt().outcome == "answered"
    assert plain.said is not None
    assert plain.said.receipt().outcome == "answered"
    code, report = audit_verify(gateway.state_dir)
    assert code == 0
    assert report["chains"][0]["unfinished"] == []
    stopped, signed = records_in(gateway.state_dir)[-2:]
    assert (stopped["kind"], stopped["unfinished_count"]) == ("stopped", 0)
    assert signed["kind"] == "checkpoint"


def refused(gateway: GatewayProcess) -> bool:
    try:
        return httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 503
    except httpx.TransportError:
        return True


@pytest.mark.parametrize("stream", [False, True])
def test_what_outlasts_the_grace_time_is_cut_off_and_says_so(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, stream: bool
) -> None:
    gateway = start({**scripted_settings, "grace_s": 1})
    script.pause_s = 60.0
    asking = Asking(gateway, stream=stream)
    assert script.started.wait(40)
    until(lambda: gateway.records("begin"), "the beginning is recorded")

    gateway.signal(signal.SIGTERM)
    asking.join()

    assert gateway.process.wait(60) == 0
    assert script.hung_up.wait(40)
    code, report = audit_verify(gateway.state_dir)
    assert code == 0
    assert report["chains"][0]["unfinished"] == []
    (end,) = gateway.records("end")
    assert end["outcome"] == ("incomplete" if stream else "failed")
    assert end["code"] == ("cut_off" if stream else "shutting_down")
    if asking.said is not None:
        error = list(asking.said.events())[-1]["error"] if stream else asking.said.error
        assert error["code"] == "shutting_down"


def test_a_second_signal_does_not_wait_for_the_grace_time(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway
) -> None:
    gateway = start({**scripted_settings, "grace_s": 600})
    script.pause_s = 60.0
    asking = Asking(gateway, stream=True)
    until(lambda: gateway.records("begin"), "the beginning is recorded")

    gateway.signal(signal.SIGINT)
    until(lambda: refused(gateway), "new callers are turned away")
    gateway.signal(signal.SIGINT)
    asking.join()

    assert gateway.process.wait(60) == 0
    assert audit_verify(gateway.state_dir)[1]["chains"][0]["unfinished"] == []


def test_killed_it_loses_no_record_and_goes_on_in_the_same_chain(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    settings = {**scripted_settings, "state_dir": str(tmp_path / "state")}
    gateway = start(settings)
    finished = gateway.caller().ask("done before")
    script.pause_s = 60.0
    asking = Asking(gateway, stream=True)
    until(lambda: len(gateway.records("begin")) == 2, "the second request has begun")
    gateway.signal(signal.SIGKILL)
    gateway.process.wait(40)
    asking.join()
    script.pause_s = 0.0

    again = start(settings)
    after = again.caller().ask("done after")
    assert again.stop() == 0

    code, report = audit_verify(tmp_path / "state")
    (chain,) = report["chains"]
    begun = [one["request"] for one in again.records("begin")]
    assert code == 0
    assert [one["request"] for one in chain["unfinished"]] == [begun[1]]
    assert begun[0] == finished.receipt().request.id
    assert begun[2] == after.receipt().request.id


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_engine_that_it_started_ends_with_it(
    policies: Path, checkpoint: Path, start: StartGateway, number: int
) -> None:
    gateway = start(
        {
            "policies": str(policies),
            "bedrock": "off",
            "model": str(checkpoint),
            "engine_port": free_port(),
        }
    )
    (engine,) = children(gateway.process.pid)
    assert gateway.caller().ask(max_tokens=2).place == "local-engine"

    gateway.signal(number)

    assert gateway.process.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: not running(engine), "the engine has ended")


def test_ctrl_c_ends_everything_that_the_demo_started(tmp_path: Path) -> None:
    port, engine_port = free_port(), free_port()
    environ = {
        "DOUANE_PORT": str(port),
        "DOUANE_ENGINE_PORT": str(engine_port),
        "DOUANE_DEMO_KEY": "sk-demo",
        "DOUANE_STATE_DIR": str(tmp_path / "state"),
        "AWS_ACCESS_KEY_ID": "AKIAREALKEYOFTHEMACHINE",
        "AWS_SECRET_ACCESS_KEY": "real",
        "AWS_REGION": "us-east-1",
    }
    printed = tmp_path / "printed.txt"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.main", "serve", "--demo"],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "Douane is ready" in printed.read_text(), "the demo is ready", within_s=120)
        headers = {"authorization": "Bearer sk-demo"}
        body = {
            "model": "gpt-oss-120b",
            "messages": [{"role": "user", "content": "the engine lacks this model"}],
        }
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, headers=headers) as http:
            spilled = http.post("/v1/chat/completions", json=body)
        engines = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # AWS credentials that merely exist on the machine switch nothing: it is still the emulator that answers.
    assert spilled.headers["x-douane-emulated"] == "true"
    assert len(engines) == 1
    assert not running(engines[0])
    assert "sk-demo" in printed.read_text()
    assert "Traceback" not in printed.read_text()
