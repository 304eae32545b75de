"""After everything that can happen to a request, no token is found in anything that outlives it.

The default bundle lets contents be cached (which is encrypted) and logged on the premises (which this version
does not do), so the tokens may be found nowhere at all.
"""

from __future__ import annotations

import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.audit.verify import verify_files
from tests.canary import drive
from tests.canary.tokens import Finding, files_under, new_token, search
from tests.integration.bundle import bundle_with_keys, edit
from tests.integration.engine import SECRET, running_real_engine
from tests.integration.gateway_process import running_gateway
from tests.integration.regions import running_regions
from tests.integration.scripted_engine import SECRET as SCRIPTED_SECRET
from tests.integration.scripted_engine import running_scripted_engine
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.timeout(600)]  # one long drive, once


@dataclass(slots=True)
class Evidence:
    """What was planted, what is left of it to be searched, and what was seen on the way."""

    tokens: drive.Tokens = field(default_factory=drive.Tokens)
    places: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)


def dump(server: RedisServer) -> bytes:
    """Every key and every value that Redis holds."""
    parts: list[bytes] = []
    for database in range(16):
        with redis.Redis(port=server.port, db=database) as client:
            for key in client.scan_iter(count=1000):
                parts.append(key)
                if client.type(key) == b"string":
                    parts.append(client.get(key) or b"")
                else:
                    parts += [piece for pair in client.hgetall(key).items() for piece in pair]
    return b"\n".join(parts)


@pytest.fixture(scope="module")
def evidence(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """One long drive over several gateways, whose every trace is gathered at the end."""
    found, base = Evidence(), tmp_path_factory.mktemp("canary")
    temporary = base / "temporary"
    temporary.mkdir()
    environ = {"TMPDIR": str(temporary)}
    bundle = bundle_with_keys(base / "bundle")
    edit(bundle / "tenants.yaml", "requests_per_minute: 300", "requests_per_minute: 2")
    (base / "redis").mkdir()
    server = RedisServer(base / "redis", ["--rdbcompression", "no"])
    server.start()
    try:
        with running_regions() as regions, running_scripted_engine() as script:
            shared = {
                "policies": str(bundle),
                "emulator_urls": regions.urls,
                "body_limit_bytes": 256 * 1024,
            }

            def with_redis(settings: dict[str, object], database: int) -> dict[str, object]:
                """A database for each state directory: gateways that share one share their keys too."""
                return {**settings, "redis_url": f"{server.url[:-1]}{database}"}

            scripted = {**shared, "engine_url": script.url, "engine_secret": SCRIPTED_SECRET}
            (base / "engine").mkdir()
            with running_real_engine(checkpoint, base / "engine", environ) as engine:
                real = {
                    **shared,
                    "engine_url": engine.url,
                    "engine_secret": SECRET,
                    "engine_models": ["gpt-oss-20b"],
                }
                with running_gateway(base / "real", with_redis(real, 0), environ=environ) as gateway:
                    drive.drive_refusals(gateway, found.tokens)
                    found.seen["answers"] = drive.drive_answers(gateway, found.tokens)
                    drive.drive_faults(gateway, found.tokens, regions)
                    drive.drive_limits(gateway, found.tokens)
                    found.places["/metrics of the first gateway"] = gateway.http.get("/metrics").content
            with running_gateway(base / "scripted", with_redis(scripted, 1), environ=environ) as gateway:
                drive.drive_engine_faults(gateway, found.tokens, script)
                drive.drive_hangup(gateway, found.tokens, script)
                found.places["/metrics of the second gateway"] = gateway.http.get("/metrics").content
                found.seen["SIGTERM"] = drive.end_in_the_middle(gateway, found.tokens, script, signal.SIGTERM)
            with running_gateway(base / "scripted", with_redis(scripted, 1), environ=environ) as gateway:
                found.seen["SIGKILL"] = drive.end_in_the_middle(gateway, found.tokens, script, signal.SIGKILL)
            for number, composition in enumerate(("serve_sabotaged", "serve_flaky"), 2):
                named = f"tests.canary.sabotage:{composition}"
                with running_gateway(
                    base / composition, with_redis(scripted, number), serve=named, environ=environ
                ) as gateway:
                    found.seen[composition] = drive.drive_bugs(gateway, found.tokens)
                    found.seen[f"{composition} printed"] = gateway.text()
                    found.places[f"/metrics of {composition}"] = gateway.http.get("/metrics").content
            for number, how in enumerate(drive.CRASHES, 4):
                named = "tests.canary.sabotage:serve_sabotaged"
                with running_gateway(
                    base / f"crash-{how}", with_redis(scripted, number), serve=named, environ=environ
                ) as gateway:
                    found.seen[how] = drive.crash(gateway, found.tokens, how)
        found.places["redis"] = dump(server)
        with redis.Redis(port=server.port) as client:
            client.save()
    finally:
        server.end()
    found.seen["base"] = base
    found.places |= files_under(base, but=("spec.json",))
    return found


def test_no_token_is_left_anywhere(evidence: Evidence) -> None:
    assert search(evidence.tokens.planted, evidence.places) == []


def test_the_places_that_were_searched_are_those_that_exist(evidence: Evidence) -> None:
    names = {Path(name).name for name in evidence.places}

    assert {"printed.txt", "engine-printed.txt", "epochs.json", "dump.rdb", "redis"} <= names
    assert sum(name.endswith(".jsonl") for name in names) >= 4
    assert len(evidence.places["redis"]) > 10_000
    assert all(
        b"douane_requests_total" in text for name, text in evidence.places.items() if "/metrics" in name
    )


def test_a_token_planted_in_one_of_those_places_would_have_been_found(evidence: Evidence) -> None:
    token = new_token()
    for name, content in evidence.places.items():
        half = len(content) // 2
        planted = content[:half] + token.encode() + content[half:]

        assert search({"planted": token}, {name: planted}) == [Finding("planted", "raw", name)]


def test_the_tokens_did_travel(evidence: Evidence) -> None:
    """Else finding none would mean nothing: Bedrock's emulator says again what it was told."""
    answers = evidence.seen["answers"]

    assert [said.status for said in answers] == [200] * len(answers)
    assert evidence.tokens.planted["prompt"] in answers[1].text
    assert evidence.tokens.planted["prompt"] in answers[3].text
    assert {"miss", "hit"} <= {said.cache for said in answers}
    assert evidence.tokens.planted["called argument"].encode() in answers[8].body


def test_the_processes_did_break_as_they_were_told(evidence: Evidence) -> None:
    seen = evidence.seen

    assert (seen["SIGTERM"], seen["SIGKILL"]) == (0, -signal.SIGKILL)
    assert {how: seen[how] for how in drive.CRASHES} == drive.CRASHES
    assert seen["serve_sabotaged"] == [500] * 6 + [200] * 4
    assert 500 in seen["serve_flaky"]
    assert '"event":"bug"' in seen["serve_sabotaged printed"]
    assert '"event":"unhandled"' in seen["serve_sabotaged printed"]
    assert '"types":["ValueError","KeyError"]' in seen["serve_sabotaged printed"]


def test_what_was_recorded_is_intact(evidence: Evidence) -> None:
    files = sorted(Path(name) for name in evidence.places if name.endswith(".jsonl"))
    reports = verify_files(files)

    assert all(report.intact for report in reports)
    assert sum(report.records for report in reports) > 100


def test_no_core_was_left(evidence: Evidence) -> None:
    assert [name for name in evidence.places if Path(name).name.startswith("core")] == []
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] >= 0
