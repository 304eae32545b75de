"""With a content log and traces, content is found in these where that is permitted, and nowhere else.

The traces go to a collector that may be told of content; the content log holds it sealed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.keys.opening import MASTER_KEY
from tests.canary.tokens import files_under, new_token, search
from tests.integration.bundle import DEMO, HELPDESK
from tests.integration.caller import Said
from tests.integration.gateway_process import ROOT, GatewayProcess, running_gateway
from tests.integration.regions import running_regions
from tests.integration.scripted_engine import SECRET as SCRIPTED_SECRET
from tests.integration.scripted_engine import ScriptedEngine, running_scripted_engine
from tests.sinks.bundle import COLLECTOR, CONTENT_LOG, bundle_with_sinks
from tests.sinks.collector import Collector, running_collector

pytestmark = pytest.mark.timeout(300)

# What each kind of request carries, whether its content may be logged, and whether it may be answered here.
KINDS: Mapping[str, tuple[str, str, bool]] = {
    "public": (DEMO, "public", True),
    "personal": (HELPDESK, "internal", True),
    "confidential": (DEMO, "confidential", False),
    "secret": (DEMO, "secret", False),
    "turned away": (DEMO, "financial", False),
}


@dataclass(slots=True)
class Evidence:
    """Tokens that may be found in a sink, those that may not, and everything that there is to be searched."""

    permitted: dict[str, str] = field(default_factory=dict)
    forbidden: dict[str, str] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    places: dict[str, bytes] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    collector: Collector = field(default_factory=Collector)

    def tokens(self) -> dict[str, str]:
        return self.permitted | self.forbidden


def drive(gateway: GatewayProcess, script: ScriptedEngine, found: Evidence) -> None:
    """Each kind of request, plain and streamed, once more from the cache, and once broken off."""
    for kind, (key, labels, logged) in KINDS.items():
        tokens = found.permitted if logged else found.forbidden
        for stream in (False, True):
            prompt, answer = (f"{what} of {kind}, {stream}" for what in ("prompt", "answer"))
            tokens[prompt] = new_token()
            if kind != "turned away":
                tokens[answer] = new_token()
                script.text = f"x {tokens[answer]} y"
            for _ in range(2):
                found.said.append(gateway.caller(key).ask(tokens[prompt], labels=labels, stream=stream))
        if kind == "turned away":
            continue
        broken = f"broken answer of {kind}"
        tokens[broken] = new_token()
        script.text, script.break_after = f"{tokens[broken]} b c d", 2
        gateway.caller(key).ask("hello", labels=labels, stream=True)
        script.reset()
        gateway.caller(key).ask(f"good, {kind}", labels=labels)  # so that the breaker stays closed
    headers = {"traceparent": new_token(), "tracestate": new_token(), "baggage": new_token()}
    for name, token in headers.items():
        found.forbidden[f"header {name}"] = token
    gateway.caller().ask("hello", headers=headers)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    base, found = tmp_path_factory.mktemp("sinks"), Evidence()
    (base / "temporary").mkdir()
    with running_regions() as regions, running_scripted_engine() as script, running_collector() as collector:
        settings = {
            "policies": str(bundle_with_sinks(base / "bundle")),
            "emulator_urls": regions.urls,
            "engine_url": script.url,
            "engine_secret": SCRIPTED_SECRET,
            "content_log": str(base / "content-log"),
            "content_log_place": CONTENT_LOG,
            "trace_url": collector.url,
            "trace_place": COLLECTOR,
            "trace_content": True,
        }
        environ = {"TMPDIR": str(base / "temporary")}
        with running_gateway(base / "gateway", settings, environ=environ) as gateway:
            drive(gateway, script, found)
            found.places["/metrics"] = gateway.http.get("/metrics").content
            assert gateway.stop() == 0
        state = gateway.state_dir
    assert (state / MASTER_KEY).exists()
    read = [sys.executable, "-m", "gateway.cli.main", "log", "read", "--state-dir", str(state)]
    done = subprocess.run([*read, str(base / "content-log")], cwd=ROOT, capture_output=True, check=True)
    found.log = [json.loads(line) for line in done.stdout.splitlines()]
    found.collector = collector
    found.places |= files_under(base, but=("spec.json",))
    return found


def test_the_tokens_did_travel(evidence: Evidence) -> None:
    statuses = [said.status for said in evidence.said]

    assert statuses == [200] * (len(statuses) - 4) + [403] * 4
    assert {said.cache for said in evidence.said} >= {"miss", "hit"}
    assert len(evidence.permitted) == 10
    assert len(evidence.forbidden) == 10 + 2 + 3


def test_no_token_is_left_in_clear_in_any_file_or_metric(evidence: Evidence) -> None:
    names = {Path(name).name for name in evidence.places}

    assert {"printed.txt", "/metrics", "metrics"} & names
    assert sum(name.endswith(".jsonl") for name in names) == 2
    assert search(evidence.tokens(), evidence.places) == []


def test_what_is_permitted_is_in_the_content_log_for_whoever_has_the_key(evidence: Evidence) -> None:
    opened = {"content log": json.dumps(evidence.log).encode()}

    found = {finding.token for finding in search(evidence.permitted, opened) if finding.form == "raw"}
    assert found == set(evidence.permitted)
    assert search(evidence.forbidden, opened) == []


def test_what_is_forbidden_is_there_as_digests(evidence: Evidence) -> None:
    details: dict[tuple[str, ...], set[str]] = {}
    for entry in evidence.log:
        details.setdefault(tuple(entry["labels"]), set()).add(entry["detail"])

    assert details == {
        ("public",): {"content"},
        ("internal", "personal"): {"content"},
        ("confidential",): {"metadata"},
        ("secret",): {"metadata"},
        ("public", "financial"): {"metadata"},
    }
    assert all(len(entry["request_hmac"]) == len(entry["answer_hmac"]) == 64 for entry in evidence.log)


def test_what_is_permitted_is_in_the_traces_and_what_is_forbidden_is_not(evidence: Evidence) -> None:
    sent = {"traces": b"\n".join(evidence.collector.bodies)}

    found = {finding.token for finding in search(evidence.permitted, sent) if finding.form == "raw"}
    assert found == set(evidence.permitted)
    assert search(evidence.forbidden, sent) == []
    roots = [span for span in evidence.collector.spans() if span.kind == 2]
    assert len(roots) == len(evidence.log)
    requests = {entry["request"] for entry in evidence.log}
    assert {span.attributes["douane.request"] for span in roots} == requests
