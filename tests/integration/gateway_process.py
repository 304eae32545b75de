"""The gateway as a process of its own: started over given settings, asked, signalled, and read afterwards."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.audit.verify import ChainReport, verify_files
from gateway.demo.stack import prepare_state
from tests.integration.bundle import DEMO, DEMO_KEYS
from tests.integration.caller import Caller

ROOT = Path(__file__).parents[2]
START_S = 60.0
END_S = 60.0


def until(condition: Callable[[], object], what: str, within_s: float = 40.0) -> None:
    """Waits for something that must come about; fails saying what did not."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s in vain: {what}"
        time.sleep(0.01)


@dataclass(slots=True)
class GatewayProcess:
    """A running gateway. `printed` holds everything that it has written to stdout and stderr."""

    process: subprocess.Popen[bytes]
    url: str
    state_dir: Path
    printed: Path
    http: httpx.Client

    def caller(self, key: str | None = DEMO) -> Caller:
        return Caller(self.http, key, self.state_dir)

    def text(self) -> str:
        return self.printed.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        lines = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Asks it to stop as an operator would; its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def metric(self, name: str, **labels: str) -> float:
        """One sample of `/metrics`; 0 when it is not there."""
        wanted = name + (
            "{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}" if labels else ""
        )
        for line in self.http.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample == wanted:
                return float(value)
        return 0.0

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The audit's records in their order."""
        return [one for one in records_in(self.state_dir) if kind in (None, one["kind"])]

    def record_of(self, request_id: str, kind: str) -> dict[str, Any]:
        (record,) = [one for one in self.records(kind) if one["request"] == request_id]
        return record

    def verified(self) -> ChainReport:
        """What `douane audit verify` finds in this gateway's files."""
        (report,) = verify_files(sorted((self.state_dir / "audit").glob("*.jsonl")))
        return report


def records_in(state_dir: Path) -> list[dict[str, Any]]:
    files = sorted((state_dir / "audit").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@contextmanager
def running_gateway(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    serve: str | None = None,
    verify: ssl.SSLContext | bool = True,
    environ: Mapping[str, str] | None = None,
) -> Iterator[GatewayProcess]:
    """Starts a gateway over `settings` with its state in `folder`, and ends it.

    `serve` names a composition of the test's own (`launch.py`); `verify` trusts the certificate of a gateway
    with TLS.
    """
    state_dir = Path(settings.get("state_dir", folder / "state"))
    prepare_state(state_dir)
    given = {"port": 0, "state_dir": str(state_dir), "bedrock": "emulator", **settings}
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"settings": given, "demo_keys": DEMO_KEYS, "serve": serve}))
    printed = folder / "printed.txt"
    with printed.open("ab") as output:
        offset = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.launch", str(spec)],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        port = wait_for_port(process, printed, offset)
        url = f"{'https' if given.get('tls_cert') else 'http'}://127.0.0.1:{port}"
        with httpx.Client(base_url=url, trust_env=False, timeout=60, verify=verify) as http:
            yield GatewayProcess(process, url, state_dir, printed, http)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_for_port(process: subprocess.Popen[bytes], printed: Path, offset: int) -> int:
    deadline = time.monotonic() + START_S
    while True:
        for line in printed.read_text()[offset:].splitlines():
            if line.startswith("listening "):
                return int(line.removeprefix("listening "))
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the gateway did not start; it printed:\n{printed.read_text()[offset:]}")
        time.sleep(0.02)
