"""Traces tell of a request what may be recorded where they go, and of its content what may be logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Broken, ServerFault, Throttled, Upstream
from gateway.context import GatewayContext
from gateway.policy.summary import Offered
from gateway.sinks import traces
from gateway.sinks.traceparent import TraceIds, parse_traceparent
from gateway.sinks.traces import Traces
from tests.gateway.inprocess import Client, chat, gateway, script, word
from tests.sinks.bundle import ABROAD, COLLECTOR, bundle_with_sinks, forbid_log, forbid_record
from tests.sinks.collector import Collector, Span, running_collector
from tests.sinks.test_content_log import told

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries that fail are repeated without a pause."""
    monkeypatch.setattr(traces, "RETRY_S", 0.0)


@asynccontextmanager
async def tracing(tmp_path: Path, collector: Collector, **settings: Any) -> AsyncIterator[GatewayContext]:
    """A gateway that traces; at the end of the block everything has been sent."""
    policies = bundle_with_sinks(tmp_path / "policies")
    given = {"trace_url": collector.url, "trace_place": COLLECTOR, **settings}
    async with gateway(tmp_path / "state", policies, **given) as context:
        yield context


def with_header(client: Client, name: bytes, value: bytes) -> Client:
    return replace(client, headers=(*client.headers, (name, value)))


def by_name(collector: Collector) -> dict[str, Span]:
    spans = collector.spans()
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


async def test_a_request_is_a_span_and_its_steps_are_spans_below(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector, trace_secret="of-the-collector") as context:
        script(context, upstream=Upstream("engine.internal:8443", None, "upstream-1", False))
        client = with_header(chat("hello"), b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())
        await client.ask(context)
        revision = context.policies.current.revision

    request_id = str(client.header("x-request-id"))
    spans = by_name(collector)
    assert set(spans) == {"POST /v1/chat/completions", "store", "plan", "chat gpt-oss-20b"}
    root, call = spans["POST /v1/chat/completions"], spans["chat gpt-oss-20b"]
    assert {span.trace for span in spans.values()} == {TRACE}
    assert (root.parent, {span.parent for span in spans.values() if span is not root}) == (PARENT, {root.id})
    assert len({span.id for span in spans.values()}) == 4
    assert (root.kind, call.kind, root.failed, call.failed) == (2, 3, False, False)
    assert all(root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns for span in spans.values())
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-oss-20b",
        "gen_ai.request.stream": False,
        "gen_ai.response.id": f"chatcmpl-{request_id}",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "douane.request": request_id,
        "douane.receipt": f"rcpt_{request_id.removeprefix('req_')}",
        "douane.outcome": "answered",
        "douane.tenant": "demo",
        "douane.key": root.attributes["douane.key"],
        "douane.zone": "DE",
        "douane.purpose": "general",
        "douane.labels": ["public"],
        "douane.policy.revision": revision,
        "douane.policy.serial": 1,
        "douane.policy.rules": ["our-premises-serve-every-tenant"],
        "douane.route": "everyone",
        "douane.cache": "miss",
    }
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "douane.engine",
        "gen_ai.request.model": "gpt-oss-20b",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "server.address": "engine.internal",
        "server.port": 8443,
        "douane.place": "local-engine",
        "douane.place.country": "DE",
        "douane.place.operator": "self",
        "douane.attempt.outcome": "answered",
    }
    assert root.resource["service.name"] == "douane"
    assert root.resource["douane.place"] == "gateway"
    assert set(collector.paths) == {"/v1/traces"}
    (headers,) = collector.headers
    assert headers["authorization"] == "Bearer of-the-collector"
    assert headers["content-type"] == "application/x-protobuf"
    assert told(context, "traces", "metadata") == 1


async def test_each_call_to_a_backend_is_a_span_with_what_went_wrong(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector) as context:
        engine = script(context)
        script(context, "bedrock-frankfurt")
        failures = [ServerFault("failed"), Throttled("not now")]

        async def fail() -> None:
            if failures:
                raise failures.pop(0)

        engine.before = fail
        client = chat("hello")
        await client.ask(context)

    assert client.status == 200
    calls = [span for span in collector.spans() if span.name.startswith("chat")]
    assert [
        (span.attributes["douane.place"], span.attributes.get("error.type"), span.failed) for span in calls
    ] == [
        ("local-engine", "server_fault", True),
        ("local-engine", "throttled", True),
        (client.header("x-douane-backend"), None, False),
    ]
    assert [name for span in calls for name in span.attributes if "usage" in name] == [
        name for name in calls[-1].attributes if "usage" in name
    ]


async def test_a_streams_call_lasts_to_its_end_and_says_how_it_broke(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector) as context:
        script(context, steps=((word("half"),), Broken("cut")))
        await chat("hello", stream=True).ask(context)

    spans = by_name(collector)
    root, call = spans["POST /v1/chat/completions"], spans["chat gpt-oss-20b"]
    assert call.end_ns == root.end_ns
    assert (root.failed, call.failed) == (True, True)
    assert root.attributes["error.type"] == call.attributes["error.type"] == "stream_broken"
    assert call.attributes["gen_ai.response.time_to_first_chunk"] >= 0


async def test_a_hit_calls_nobody(tmp_path: Path, collector: Collector) -> None:
    async with tracing(tmp_path, collector) as context:
        script(context)
        for _ in range(2):
            await chat("hello").ask(context)

    names = [span.name for span in collector.spans()]
    hit = ["POST /v1/chat/completions", "store"]
    assert names == [*hit, "plan", "chat gpt-oss-20b", *hit]
    roots = [span for span in collector.spans() if span.kind == 2]
    assert [span.attributes["douane.cache"] for span in roots] == ["miss", "hit"]
    assert roots[0].trace != roots[1].trace
    assert [span.parent for span in roots] == ["", ""]


async def test_where_record_is_forbidden_there_is_no_span(tmp_path: Path, collector: Collector) -> None:
    async with tracing(tmp_path, collector, trace_place=ABROAD) as context:
        script(context)
        for labels in ("internal", "public", "secret"):
            client = chat(f"{labels} words", labels=labels)
            await client.ask(context)
            assert client.status == 200

    roots = [span for span in collector.spans() if span.kind == 2]
    assert [span.attributes["douane.labels"] for span in roots] == [["public"]]
    assert told(context, "traces", "withheld") == 2


async def test_a_stricter_bundle_withholds_also_what_still_waits_to_be_sent(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector) as context:
        script(context)
        await chat("hello").ask(context)
        # What has changed is told in a process of its own; the spans would be sent meanwhile.
        context.policies._describe = lambda *_: Offered(None, None)
        forbid_record(context.settings.policies, COLLECTOR)
        assert await context.policies.reload()

    assert collector.bodies == []
    assert told(context, "traces", "withheld") == 1


async def test_a_stricter_bundle_withholds_what_is_sent_again(
    tmp_path: Path, collector: Collector, at_once: None
) -> None:
    async with tracing(tmp_path, collector) as context:
        script(context)
        collector.statuses = [503]
        collector.answering.clear()
        await chat("hello").ask(context)
        forbid_record(context.settings.policies, COLLECTOR)
        assert await context.policies.reload()
        closing = asyncio.create_task(context.sinks.traces.aclose())
        collector.answering.set()
        await closing

    assert collector.bodies == []
    assert told(context, "traces", "withheld") == 1


async def test_content_is_in_a_span_only_where_asked_for_and_permitted(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector, trace_content=True) as context:
        script(context, text="what was answered")
        await chat("what was asked").ask(context)
        await chat("what was asked", stream=True, labels="internal").ask(context)
        await chat("what was asked in confidence", labels="confidential").ask(context)
        await chat("what may not be read here", labels="financial").ask(context)

    roots = [span for span in collector.spans() if span.kind == 2]
    asked = [{"role": "user", "parts": [{"type": "text", "content": "what was asked"}]}]
    said = [
        [{"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": "stop"}]
        for text in ("what was answered", "one two")
    ]
    assert [json.loads(span.attributes["gen_ai.input.messages"]) for span in roots[:2]] == [asked, asked]
    assert [json.loads(span.attributes["gen_ai.output.messages"]) for span in roots[:2]] == said
    assert b"in confidence" not in b"".join(collector.bodies)
    assert b"not be read here" not in b"".join(collector.bodies)
    assert (told(context, "traces", "content"), told(context, "traces", "metadata")) == (2, 2)


async def test_content_is_in_no_span_unless_it_was_asked_for(tmp_path: Path, collector: Collector) -> None:
    async with tracing(tmp_path, collector) as context:
        script(context, text="what was answered")
        client = chat("what was asked", user="some-user", tools=[TOOL])
        for name, value in ((b"tracestate", b"what=was-asked"), (b"traceparent", b"what was asked")):
            client = with_header(client, name, value)
        await client.ask(context)
        await chat("what was asked", stream=True).ask(context)

    sent = b"".join(collector.bodies)
    assert len(collector.spans()) == 8
    for text in (b"what was", b"was-asked", b"some-user", b"a_tool", b"one two"):
        assert text not in sent


TOOL = {"type": "function", "function": {"name": "a_tool", "parameters": {"type": "object"}}}


async def test_a_stricter_bundle_before_the_end_withholds_the_content(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector, trace_content=True) as context:
        engine = script(context)

        async def swap() -> None:
            forbid_log(context.settings.policies)
            assert await context.policies.reload()
            script(context)

        engine.before = swap
        await chat("what was asked").ask(context)

    assert len(collector.spans()) == 4
    assert b"what was asked" not in b"".join(collector.bodies)


async def test_content_that_is_too_long_is_left_out_and_said_to_be(
    tmp_path: Path, collector: Collector
) -> None:
    async with tracing(tmp_path, collector, trace_content=True) as context:
        script(context)
        await chat("long " * 60_000).ask(context)

    (root,) = [span for span in collector.spans() if span.kind == 2]
    assert root.attributes["douane.content.omitted"] == "too_long"
    assert b"long long" not in b"".join(collector.bodies)


async def test_a_collector_that_hangs_holds_up_no_answer_and_what_is_too_much_is_dropped(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "CLOSE_S", 0.2)
    async with tracing(tmp_path, collector) as context:
        script(context)
        hanging = Traces(
            context.sinks.traces._http,  # type: ignore[attr-defined]
            collector.url, COLLECTOR, None, False, context.metrics, gather_s=0.0, waiting_max=3,
        )  # fmt: skip
        slow = replace(context, sinks=replace(context.sinks, traces=hanging))
        collector.answering.clear()
        for _ in range(3):  # these three in the queue or on the way
            await chat("hello").ask(slow)
        clients = [chat(f"hello {number}") for number in range(5)]
        for client in clients:
            await client.ask(slow)
        dropped = told(context, "traces", "dropped")
        await hanging.aclose()

    assert {client.status for client in clients} == {200}
    assert 2 <= dropped <= 5
    assert told(context, "traces", "dropped") == 8
    assert collector.bodies == []


async def test_what_a_collector_cannot_take_now_is_sent_again(
    tmp_path: Path, collector: Collector, at_once: None
) -> None:
    collector.statuses = [503, 429]
    async with tracing(tmp_path, collector) as context:
        script(context)
        await chat("hello").ask(context)

    assert len(collector.paths) == 3
    assert len(collector.spans()) == 4
    assert (told(context, "traces", "metadata"), told(context, "traces", "failed")) == (1, 0)


@pytest.mark.parametrize(("statuses", "tries"), [([400], 1), ([307], 1), ([503] * 9, 3)])
async def test_what_a_collector_does_not_take_is_counted_and_said_once(
    tmp_path: Path,
    collector: Collector,
    at_once: None,
    statuses: list[int],
    tries: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector.statuses = statuses
    async with tracing(tmp_path, collector) as context:
        script(context)
        await chat("hello").ask(context)

    assert collector.paths == ["/v1/traces"] * tries  # and no redirect was followed
    assert told(context, "traces", "failed") == 1
    assert [one.msg for one in caplog.records if one.name == "douane"] == ["traces_unavailable"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"what was asked",
        f"00-{TRACE}-{PARENT}".encode(),
        f"00-{TRACE}-{PARENT}-01-more".encode(),
        f"ff-{TRACE}-{PARENT}-01".encode(),
        f"00-{'0' * 32}-{PARENT}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE.upper()}-{PARENT}-01".encode(),
        f"00-{TRACE}-{PARENT}-01\n".encode(),
    ],
)
def test_what_is_no_traceparent_is_not_one(header: bytes | None) -> None:
    assert parse_traceparent(header) is None


@pytest.mark.parametrize("rest", ["00-{}-{}-01", "00-{}-{}-00", "01-{}-{}-01-of-a-later-version"])
def test_of_a_traceparent_the_ids_are_taken(rest: str) -> None:
    ids = parse_traceparent(rest.format(TRACE, PARENT).encode())

    assert ids == TraceIds(int(TRACE, 16), int(PARENT, 16))
