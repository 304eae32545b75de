"""`python -m tests.egress.inside SCENARIO FOLDER [CHECKPOINT]`: writes `report.json`. For new namespaces.

`whole` drives every part of the product; `planted` has something in the gateway's process try to leave, with
the guard up and with the guard down.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.demo.stack import prepare_state
from gateway.testing.bedrock.faults import Fault
from tests.conftest import clean_environment
from tests.egress.planted import ATTEMPTS
from tests.egress.trap import Trap, set_trap
from tests.egress.world import ADDRESSES, World, name_everything, running_world, settings_of
from tests.integration.bundle import GLOBEX, HELPDESK, REPORTING, edit
from tests.redis_server import free_port

ROOT = Path(__file__).parents[2]
START_S = 120.0
COMMAND = {"serve": ["-m", "gateway.cli.main", "serve"], "planted": ["-m", "tests.egress.planted"]}


@dataclass(slots=True)
class Gateway:
    """A running `douane serve`."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    printed: Path
    port: int

    def ask(
        self,
        prompt: str,
        *,
        key: str = REPORTING,
        labels: str = "",
        model: str = "gpt-oss-120b",
        **fields: Any,
    ) -> str:
        """Status, place and error code, in words."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, **fields}
        headers = {"authorization": f"Bearer {key}", **({"x-douane-labels": labels} if labels else {})}
        said = self.http.post("/v1/chat/completions", json=body, headers=headers)
        if said.status_code != 200:
            return f"{said.status_code} {said.json()['error']['code']}"
        ended = " streamed" if said.text.rstrip().endswith("data: [DONE]") else ""
        return f"200 {said.headers['x-douane-backend']} {said.headers['x-douane-cache']}{ended}"

    def metrics(self, name: str) -> dict[str, float]:
        lines = [line for line in self.http.get("/metrics").text.splitlines() if line.startswith(name)]
        return {sample: float(value) for sample, _, value in (line.rpartition(" ") for line in lines)}

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.printed.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def until(self, condition: Any, what: str) -> None:
        deadline_s = time.monotonic() + START_S
        while not condition():
            assert self.process.poll() is None, self.printed.read_text()
            assert time.monotonic() < deadline_s, f"{what}\n{self.printed.read_text()}"
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def environment(world: World, settings: dict[str, Any], name: str) -> dict[str, str]:
    config = world.folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    config.chmod(0o600)
    return {**os.environ, **world.environ, "DOUANE_CONFIG": str(config)}


@contextmanager
def gateway(
    world: World, settings: dict[str, Any], name: str, command: str, **environ: str
) -> Iterator[Gateway]:
    printed = world.folder / f"{name}.txt"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *COMMAND[command]], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
            env={**environment(world, settings, name), **environ},
        )  # fmt: skip
    with httpx.Client(base_url=f"http://127.0.0.1:{settings['port']}", trust_env=False, timeout=90) as http:
        running = Gateway(process, http, printed, settings["port"])
        try:
            running.until(running.answers, "it does not answer")
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def douane(world: World, settings: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli.main", *arguments]
    environ = environment(world, settings, "command")
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)


def whole(world: World, trap: Trap, checkpoint: Path) -> dict[str, Any]:
    """Start, every backend, fallbacks, refusals, a reload, stop, and the commands."""
    settings = settings_of(world, free_port(), model=str(checkpoint), engine_port=free_port())
    listed = douane(world, settings, "egress", "--format", "json")
    assert listed.returncode == 0, listed.stderr
    said: dict[str, str] = {}
    with gateway(world, settings, "whole", "serve") as running:
        said["engine"] = running.ask("hello", model="gpt-oss-20b", key=HELPDESK)
        said["engine, streamed"] = running.ask("hello there", model="gpt-oss-20b", key=HELPDESK, stream=True)
        said["bedrock"] = running.ask("hello")
        said["bedrock, from the cache"] = running.ask("hello", seed=None)
        said["bedrock, streamed"] = running.ask("again", stream=True)
        for region in ("eu-central-1", "eu-west-1"):
            world.emulators[region].faults.add(
                *(Fault(kind="error", code="InternalServerException") for _ in range(4))
            )
        said["bedrock, after two regions failed"] = running.ask("a fallback")
        said["litellm"] = running.ask("hello", model="mistral-small")
        said["litellm, streamed"] = running.ask("again", model="mistral-small", stream=True)
        said["litellm, redirected"] = running.ask("redirect me", model="mistral-small")
        said["litellm, redirected to a permitted host"] = running.ask(
            "redirect me to one that is allowed", model="mistral-small"
        )
        said["house"] = running.ask("hello", model="house-model")
        said["house, redirected"] = running.ask("redirect me", model="house-model")
        said["dns outside the private range"] = running.ask("hello", model="rebound-model")
        said["refused by a rule"] = running.ask("mine", labels="health", model="gpt-oss-120b")
        said["no such key"] = running.ask("hello", key="sk-nobody")
        edit(world.bundle / "bundle.yaml", "serial: 1 ", "serial: 2 ")
        edit(
            world.bundle / "places.yaml",
            "id: rebound, kind: openai, country: DE",
            "id: rebound, kind: openai, country: FR",
        )
        running.process.send_signal(signal.SIGHUP)
        running.until(
            lambda: running.metrics("douane_policy_serial") == {"douane_policy_serial": 2.0}, "reload"
        )
        said["after the reload"] = running.ask("after", model="house-model")
        said["another tenant"] = running.ask("hello", key=GLOBEX, model="gpt-oss-20b")
        refused = running.metrics("douane_egress_refused_total")
        events = running.events("egress_refused")
        status = running.stop()
    check = douane(world, settings, "policy", "check", str(world.bundle))
    return {
        "said": said,
        "refused": refused,
        "events": [[event["destination"], event["refused"]] for event in events],
        "exit": status,
        "check": check.returncode,
        "listed": json.loads(listed.stdout),
        "received": world.counts(),
        "port": running.port,
        "seen": trap.seen(),
        "connected": sorted(trap.connected()),
        "printed": running.printed.read_text(),
    }


def planted(world: World, trap: Trap) -> dict[str, Any]:
    """The same attempts with the guard up, then with the guard down."""
    report: dict[str, Any] = {}
    for name, environ in (("guarded", {}), ("unguarded", {"UNGUARDED": "1"})):
        settings = settings_of(world, free_port(), backends={})  # without litellm, which takes long to load
        with gateway(world, settings, name, "planted", **environ) as running:
            before = set(trap.seen())

            def attempt(planted: str, http: httpx.Client = running.http) -> Any:
                return http.post(f"/planted/{planted}").json()

            with concurrent.futures.ThreadPoolExecutor(len(ATTEMPTS)) as pool:
                met = dict(zip(ATTEMPTS, pool.map(attempt, ATTEMPTS), strict=True))
            answered = running.ask("hello")
            report[name] = {
                "met": met,
                "answered": answered,
                "refused": running.metrics("douane_egress_refused_total"),
                "events": [event["destination"] for event in running.events("egress_refused")],
                "seen": [one for one in trap.seen() if one not in before],
                "seen_before": sorted(before),
                "printed": running.printed.read_text(),
            }
    return report


def main(scenario: str, folder: Path, checkpoint: Path | None) -> None:
    clean_environment()
    trap = set_trap(*ADDRESSES)
    name_everything(folder)
    prepare_state(folder / "state")
    with running_world(folder) as world:
        if scenario == "whole":
            assert checkpoint is not None
            report = whole(world, trap, checkpoint)
        else:
            report = planted(world, trap)
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
