"""A gateway with a sink that the policy cannot judge, or that cannot be written, does not start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.serve import require_clean_environment
from gateway.policy.problems import PolicyInvalid
from gateway.settings import Settings, SettingsInvalid
from gateway.sinks.files import SinkUnusable
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import edit
from tests.sinks.bundle import COLLECTOR, CONTENT_LOG, bundle_with_sinks

TRACES = {"trace_url": "http://127.0.0.1:9/v1/traces"}


@pytest.mark.parametrize(
    ("settings", "setting", "kind"),
    [
        ({"content_log": "log", "content_log_place": "PLACE"}, "content_log_place", "log"),
        ({**TRACES, "trace_place": "PLACE"}, "trace_place", "trace"),
        ({"log_place": "PLACE"}, "log_place", "log"),
        ({"audit_place": "PLACE"}, "audit_place", "audit"),
        ({"redis_url": "redis://127.0.0.1:9", "redis_place": "PLACE"}, "redis_place", "redis"),
    ],
)
async def test_a_place_that_is_missing_or_no_such_sink_stops_the_start(
    tmp_path: Path, settings: dict[str, Any], setting: str, kind: str
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    said = {
        "no-such-place": f"the setting `{setting}` names the place `no-such-place`, which is not there",
        "store-memory": f"the setting `{setting}` names the place `store-memory`, which is of kind `memory`; "
        f"name a place of kind `{kind}`",
    }
    for place, text in said.items():
        given = {name: place if value == "PLACE" else value for name, value in settings.items()}
        with pytest.raises(PolicyInvalid) as raised:
            async with gateway(tmp_path / place, policies, **given):
                pytest.fail("it started")
        assert [text in problem.text() for problem in raised.value.problems] == [True]


@pytest.mark.parametrize("named", [{"log_place": "logs"}, {}])
async def test_a_reload_that_takes_a_sinks_place_away_is_refused(
    tmp_path: Path, named: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    given = {"content_log": tmp_path / "log", "content_log_place": CONTENT_LOG, **named}
    async with gateway(tmp_path / "state", policies, **given) as context:
        script(context)
        before = context.policies.current
        for place in ("content-log", "logs"):
            log = f"- id: {place}\n    kind: log"
            edit(policies / "places.yaml", log, log.replace("kind: log", "kind: trace"))
        assert not await context.policies.reload()
        assert context.policies.current is before
        client = chat("hello")
        await client.ask(context)
        assert client.status == 200

    (refused,) = [one.fields["problems"] for one in caplog.records if one.msg == "policy_refused"]  # type: ignore[attr-defined]
    assert "`content_log_place` names the place `content-log`, which is of kind `trace`" in refused
    assert "`log_place` names the place `logs`, which is of kind `trace`" in refused


async def test_a_content_log_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    (tmp_path / "log").mkdir(mode=0o755)
    (tmp_path / "file").write_text("")
    for directory, said in (("log", "chmod 700"), ("file", "cannot be written: file exists")):
        given = {"content_log": tmp_path / directory, "content_log_place": CONTENT_LOG}
        with pytest.raises(SinkUnusable, match=said):
            async with gateway(tmp_path / f"state-{directory}", policies, **given):
                pytest.fail("it started")


@pytest.mark.parametrize(
    "name",
    [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "OTEL_TRACES_EXPORTER",
        "OTEL_SDK_DISABLED",
    ],
)
def test_variables_that_say_where_traces_go_are_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "s3cr3t")
    traced = Settings.model_validate({**TRACES, "trace_place": COLLECTOR})

    require_clean_environment(Settings())
    with pytest.raises(SettingsInvalid) as raised:
        require_clean_environment(traced)
    assert f"`{name}` is set; unset it: traces go to `trace_url` and nowhere else" in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


def test_without_traces_nothing_of_them_is_loaded() -> None:
    # Not the whole of `opentelemetry`: redis loads its API and SDK wherever they are installed.
    parts = ("opentelemetry.exporter", "opentelemetry.proto", "google.protobuf", "gateway.sinks.traces")
    program = (
        "import sys, gateway.cli.serve, gateway.opening, gateway.app\n"
        f"print([name for name in sys.modules if name.startswith({parts})])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
