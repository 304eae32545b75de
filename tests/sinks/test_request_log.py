"""The log of the process says something of a request only where its place may record it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gateway import chat as life
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import edit
from tests.sinks.bundle import bundle_with_sinks, forbid_record
from tests.sinks.test_content_log import told

GATEWAY = Path(life.__file__).parent
# What an event of the process may say: nothing of these is a request's.
OF_THE_PROCESS = {
    "exc_info",
    "problems",
    "reason",
    "kept",
    "revision",
    "serial",
    "before",
    "place",
    "fault",
    "record",
    "destination",
    "refused",
    "files",
    "kid",
    "region",
    "skew_s",
}


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    return [(one.msg, one.fields) for one in caplog.records if one.name == "douane"]  # type: ignore[attr-defined]


async def bug() -> None:
    raise ZeroDivisionError


async def test_a_bug_is_told_under_its_requests_id_where_that_may_be_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as context:
        script(context).before = bug
        client = chat("hello")
        await client.ask(context)

    assert client.status == 500
    assert said(caplog) == [("bug", {"request": client.header("x-request-id")})]
    assert told(context, "log", "metadata") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_where_it_may_not_be_recorded_a_bug_is_counted_and_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, log_place="log-abroad") as context:
        script(context).before = bug
        secret, public = chat("secret words", labels="secret", stream=stream), chat("hello", stream=stream)
        await secret.ask(context)
        await public.ask(context)

    assert (secret.status, public.status) == (500, 500)
    assert said(caplog) == [("bug", {"request": public.header("x-request-id")})]
    assert (told(context, "log", "withheld"), told(context, "log", "metadata")) == (1, 1)


async def test_a_stricter_bundle_withholds_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)

        async def swap_and_break() -> None:
            forbid_record(policies, "logs")
            assert await context.policies.reload()
            await bug()

        engine.before = swap_and_break
        await chat("hello").ask(context)

    assert said(caplog) == []
    assert told(context, "log", "withheld") == 1


async def test_before_labels_are_known_only_the_program_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    monkeypatch.setattr(life, "parse_chat", lambda body: 1 / 0)
    async with gateway(tmp_path / "state", policies) as context:
        client = chat("hello")
        await client.ask(context)

    assert client.status == 500
    assert said(caplog) == [("bug", {})]
    assert caplog.records[0].exc_info


async def test_without_a_place_for_the_log_no_request_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    place = "  - id: logs\n    kind: log\n    country: DE\n    operator: self\n    attested: [on-premises]\n"
    edit(policies / "places.yaml", place, "")
    async with gateway(tmp_path / "state", policies) as context:
        script(context).before = bug
        await chat("hello").ask(context)

    assert said(caplog) == [("no_log_place", {"place": "logs"})]
    assert told(context, "log", "withheld") == 1


async def test_an_audit_that_cannot_be_written_is_told_of_by_the_same_rule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policies = bundle_with_sinks(tmp_path / "policies")
    settings = {"log_place": "log-abroad", "audit_failure": "continue"}
    async with gateway(tmp_path / "state", policies, **settings) as context:
        script(context)
        context.audit._closed = True  # type: ignore[attr-defined]
        secret, public = chat("secret words", labels="secret"), chat("hello")
        await secret.ask(context)
        await public.ask(context)
        told_of = said(caplog)

    request = public.header("x-request-id")
    assert (secret.status, public.status) == (200, 200)
    assert told_of == [
        ("audit_unavailable", {"request": request, "record": "begin"}),
        ("audit_unavailable", {"request": request}),
    ]
    assert told(context, "log", "withheld") == 2


def test_no_event_of_the_process_says_anything_of_a_request() -> None:
    """What does goes through `RequestLog.event`, which alone may call `logs.event` with fields of its own."""
    calls = {}
    for path in sorted(GATEWAY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logs.event":
                calls[f"{path.relative_to(GATEWAY)}:{node.lineno}"] = {one.arg for one in node.keywords}

    beyond = {where: names - OF_THE_PROCESS for where, names in calls.items() if names - OF_THE_PROCESS}
    assert len(calls) >= 10
    assert {where.partition(":")[0] for where in beyond} == {"sinks/request_log.py"}
