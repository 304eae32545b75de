"""The engine and any OpenAI-compatible server as backends, over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletion

from gateway.backends.base import (
    BackendFault,
    Broken,
    Misconfigured,
    NotReady,
    Refused,
    Reported,
    Saturated,
    Throttled,
    TimedOut,
    Unreachable,
    Usage,
)
from gateway.backends.engine import engine_backend, engine_unsupported
from gateway.backends.openai import OpenAIBackend
from gateway.openai import ChatRequest
from local_engine.errors import Refused as EngineRefused
from local_engine.wire import parse_chat_request
from tests.backends.support import MODEL, attempt, chat, place, tool
from tests.backends.upstream import (
    DONE,
    USAGE,
    Handler,
    answering,
    chunk,
    completion,
    event,
    running,
    streaming,
)

ENGINE = place("engine", "local-engine")
HELLO = event(chunk({"role": "assistant", "content": "hello"}))
END = event(chunk({}, "stop")) + event(chunk(None, usage=USAGE)) + DONE


def engine(http: aiohttp.ClientSession, url: str, **options: Any) -> OpenAIBackend:
    return engine_backend(ENGINE, http, url, "engine-secret", lambda tenant: f"salt-of-{tenant}", **options)


async def test_a_call_carries_secret_salt_and_request_id(http: aiohttp.ClientSession) -> None:
    handler = answering(200, completion({"content": "hi"}), X_Request_Id="up-1")
    async with running(handler) as upstream:
        backend = engine(http, upstream.url)
        answer = await backend.complete(attempt(ENGINE, tenant="acme"), chat("hi"), "r1")
    assert upstream.paths == ["/v1/chat/completions"]
    assert upstream.bodies == [{"messages": [{"role": "user", "content": "hi"}], "model": MODEL}]
    sent = upstream.headers[0]
    assert sent["authorization"] == "Bearer engine-secret"
    assert sent["x-douane-cache-salt"] == "salt-of-acme"
    assert sent["x-request-id"] == "r1"
    assert sent["accept-encoding"] == "identity"
    assert answer.body["id"] == "chatcmpl-r1"
    assert answer.usage == Usage(5, 3)
    assert answer.upstream.host == upstream.url.removeprefix("http://")
    assert (answer.upstream.request_id, answer.upstream.emulated) == ("up-1", False)
    assert ChatCompletion.model_validate(answer.body).model == MODEL


async def test_cached_tokens_arrive_from_the_engines_usage(http: aiohttp.ClientSession) -> None:
    usage = {
        "prompt_tokens": 300,
        "completion_tokens": 3,
        "total_tokens": 303,
        "prompt_tokens_details": {"cached_tokens": 256},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    async with running(answering(200, completion({"content": "hi"}) | {"usage": usage})) as upstream:
        answer = await engine(http, upstream.url).complete(attempt(ENGINE), chat(), "r1")
    assert answer.usage == Usage(300, 3, reasoning_tokens=1, cached_tokens=256)
    end = event(chunk({}, "stop")) + event(chunk(None, usage=usage)) + DONE
    async with running(streaming(HELLO, end)) as upstream:
        stream = await engine(http, upstream.url).stream(attempt(ENGINE), chat(), "r1")
        chunks = [one async for batch in stream for one in batch]
    assert chunks[-1].usage == Usage(300, 3, reasoning_tokens=1, cached_tokens=256)


async def test_a_stream_comes_in_batches_and_always_asks_for_usage(http: aiohttp.ClientSession) -> None:
    async with running(streaming(HELLO, END)) as upstream:
        stream = await engine(http, upstream.url).stream(attempt(ENGINE), chat(stream=True), "r1")
        batches = [batch async for batch in stream]
    chunks = [one for batch in batches for one in batch]
    assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
    assert [orjson.loads(one.data)["id"] for one in chunks] == ["chatcmpl-r1"] * 3
    assert [one.finish_reason for one in chunks] == [None, "stop", None]
    assert chunks[-1].usage == Usage(5, 3)
    assert all(batches)


async def test_an_end_that_comes_in_reads_of_its_own_ends_the_stream(http: aiohttp.ClientSession) -> None:
    async def handler(request: Any) -> Any:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in (HELLO, event(chunk({}, "stop")), event(chunk(None, usage=USAGE)), b": bye\n\n", DONE):
            await response.write(part)
            await asyncio.sleep(0.05)
        return response

    async with running(handler) as upstream:
        stream = await engine(http, upstream.url).stream(attempt(ENGINE), chat(), "r1")
        chunks = [one async for batch in stream for one in batch]
    assert [one.finish_reason for one in chunks] == [None, "stop", None]
    assert chunks[-1].usage == Usage(5, 3)


async def test_a_tenants_salt_is_sent_by_the_engine_backend_only(http: aiohttp.ClientSession) -> None:
    other = place("openai", "cluster", models={MODEL: "openai/gpt-oss-20b"})
    async with running(answering(200, completion({"content": "hi"}))) as upstream:
        backend = OpenAIBackend(other, http, upstream.url + "/base/", None)
        await backend.complete(attempt(other), chat(), "r1")
        await backend.probe()
    assert upstream.paths == ["/base/v1/chat/completions", "/base/v1/models"]
    assert upstream.bodies[0]["model"] == "openai/gpt-oss-20b"
    assert "x-douane-cache-salt" not in upstream.headers[0]
    assert "authorization" not in upstream.headers[0]


async def read_all(backend: OpenAIBackend) -> int:
    stream = await backend.stream(attempt(backend.place), chat(), "r1")
    return len([batch async for batch in stream])


CASES: list[tuple[str, Handler, type[BackendFault]]] = [
    ("full", answering(429, {}, Retry_After="3"), Saturated),
    ("too long", answering(400, {"error": {"code": "context_length_exceeded"}}), Refused),
    ("wrong secret", answering(401, b""), Misconfigured),
    ("redirect", answering(307, b"", Location="http://127.0.0.1:9/"), Misconfigured),
    ("no json", answering(200, b"canary"), Broken),
]


@pytest.mark.parametrize(("handler", "kind"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
async def test_refusals_and_nonsense_are_faults_plain_and_streamed(
    http: aiohttp.ClientSession, handler: Handler, kind: type[BackendFault]
) -> None:
    async with running(handler) as upstream:
        backend = engine(http, upstream.url)
        for call in (backend.complete, backend.stream):
            with pytest.raises(kind) as caught:
                await call(attempt(ENGINE), chat(), "r1")
            assert "canary" not in str(caught.value)
            if kind is Saturated:
                assert caught.value.retry_after_s == 3.0
    assert len(upstream.paths) == 2  # nothing was followed or repeated


async def test_429_of_another_server_is_throttled(http: aiohttp.ClientSession) -> None:
    async with running(answering(429, {})) as upstream:
        backend = OpenAIBackend(place("openai", "cluster"), http, upstream.url, "s")
        with pytest.raises(Throttled):
            await backend.complete(attempt(backend.place), chat(), "r1")


@pytest.mark.parametrize(
    "handler",
    [
        streaming(HELLO, cut=True),
        streaming(HELLO, event(chunk({}, "stop"))),
        streaming(HELLO, event(chunk({}, "stop")) + DONE),
        streaming(HELLO, event(chunk({}, "stop")) + event(chunk(None, usage=USAGE))),
        streaming(HELLO, b"data: {"),
    ],
    ids=["cut", "no usage and no done", "no usage", "no done", "half an event"],
)
async def test_a_stream_without_its_end_is_broken(http: aiohttp.ClientSession, handler: Handler) -> None:
    async with running(handler) as upstream:
        stream = await engine(http, upstream.url).stream(attempt(ENGINE), chat(), "r1")
        with pytest.raises(Broken):
            async for _ in stream:
                pass
        assert [batch async for batch in stream] == []


async def test_an_error_event_in_the_middle_is_a_fault_not_an_end(http: aiohttp.ClientSession) -> None:
    failing = streaming(HELLO, event({"error": {"message": "canary", "code": "engine_fault"}}), DONE)
    async with running(failing) as upstream:
        backend = engine(http, upstream.url)
        with pytest.raises(BackendFault) as caught:
            await read_all(backend)
    assert str(caught.value) == "`local-engine` failed in the middle of its answer"


async def test_a_slow_first_byte_is_timed_out_and_closes_the_connection(http: aiohttp.ClientSession) -> None:
    async def silent(request: Any) -> Any:
        await asyncio.sleep(60)

    async with running(silent) as upstream:
        with pytest.raises(TimedOut, match=r"sent nothing for 0\.2 s"):
            await engine(http, upstream.url).stream(attempt(ENGINE, first_byte_timeout_s=0.2), chat(), "r1")
        async with asyncio.timeout(10):
            await upstream.gone.wait()


@pytest.mark.parametrize("how", ["aclose", "cancel while reading", "cancel while waiting for the answer"])
async def test_going_away_closes_the_upstream_connection_at_once(
    http: aiohttp.ClientSession, how: str
) -> None:
    handler = streaming(*([] if "waiting" in how else [HELLO]), then_hang=True)
    async with running(handler) as upstream:
        backend = engine(http, upstream.url)
        if how == "cancel while waiting for the answer":
            task: asyncio.Task[Any] = asyncio.create_task(backend.complete(attempt(ENGINE), chat(), "r1"))
            await upstream.arrived.wait()
            task.cancel()
        else:
            stream = await backend.stream(attempt(ENGINE), chat(), "r1")
            if how == "aclose":
                await stream.aclose()
                await stream.aclose()
            else:

                async def read() -> None:
                    async for _ in stream:
                        pass

                task = asyncio.create_task(read())
                await asyncio.sleep(0.05)
                task.cancel()
        async with asyncio.timeout(10):
            await upstream.gone.wait()
        if how != "aclose":
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_finished_stream_leaves_its_connection_for_the_next_call(http: aiohttp.ClientSession) -> None:
    ports = set()

    async def handler(request: Any) -> Any:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await streaming(HELLO, END)(request)

    async with running(handler) as upstream:
        backend = engine(http, upstream.url)
        for _ in range(3):
            stream = await backend.stream(attempt(ENGINE), chat(), "r1")
            assert [one async for batch in stream for one in batch][-1].usage == Usage(5, 3)
    assert len(ports) == 1


LOAD = {"running": 3, "waiting": 7, "max_running": 16, "max_waiting": 32, "stopping": False, "lost": False}


async def test_a_probe_asks_for_the_load_with_the_secret(http: aiohttp.ClientSession) -> None:
    async with running(answering(200, LOAD)) as upstream:
        backend = engine(http, upstream.url)
        assert await backend.probe() == Reported(slots=16, waiting=7)
    assert (upstream.paths, upstream.headers[0]["authorization"]) == (["/load"], "Bearer engine-secret")
    with pytest.raises(Unreachable, match="`local-engine` cannot be reached"):
        await backend.probe()


@pytest.mark.parametrize(
    "said", [LOAD | {"stopping": True}, LOAD | {"lost": True}, {"status": "ok"}, [], LOAD | {"waiting": "7"}]
)
async def test_an_engine_that_goes_down_or_says_something_else_is_not_ready(
    http: aiohttp.ClientSession, said: object
) -> None:
    async with running(answering(200, said)) as upstream:
        with pytest.raises(NotReady):
            await engine(http, upstream.url).probe()


def test_what_cannot_be_safe_is_refused_at_construction(http: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match="needs the engine's secret"):
        engine_backend(ENGINE, http, "http://127.0.0.1:1", "", str)
    with pytest.raises(ValueError, match="must be an https URL"):
        OpenAIBackend(ENGINE, http, "http://engine.internal", "s")


REFUSED_BY_THE_ENGINE: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ()),
    ({"stop": ["x"], "seed": 1, "logprobs": True, "top_logprobs": 3, "reasoning_effort": "high"}, ()),
    ({"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "n": 1}, ()),
    ({"logit_bias": {}, "tool_choice": "none", "tools": [tool("f")], "parallel_tool_calls": False}, ()),
    ({"frequency_penalty": 0.5, "presence_penalty": -1, "logit_bias": {"5": 1.0, "201087": -100}}, ()),
    ({"response_format": {"type": "json_object"}}, ()),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "description": "d", "schema": {}, "strict": True},
            }
        },
        (),
    ),
    ({"tools": [tool("f")], "tool_choice": "required", "parallel_tool_calls": True}, ()),
    ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "f"}}}, ()),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, ()),
    ({"logit_bias": {"201088": 1.0}}, ("logit_bias",)),
    ({"logit_bias": {"hello": 1.0}}, ("logit_bias",)),
    ({"logit_bias": {"5": 1.0, "05": 1.0}}, ("logit_bias",)),
    ({"logit_bias": {"5": 101.0}}, ("logit_bias",)),
    ({"logit_bias": {str(token): 1.0 for token in range(301)}}, ("logit_bias",)),
    ({"tools": [tool("f"), tool("f")]}, ("tools",)),
    ({"tools": [tool("auto")]}, ("tools",)),
    ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, ()),
    (
        {"messages": [{"role": "system", "content": "x", "name": "s"}, {"role": "user", "content": "x"}]},
        ("messages[0].name",),
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "assistant", "content": None, "refusal": "no", "reasoning_content": "hm"},
                {
                    "role": "assistant",
                    "content": "y",
                    "annotations": [],
                    "audio": None,
                    "function_call": None,
                },
                {"role": "user", "content": "z"},
            ]
        },
        (),
    ),
]


@pytest.mark.parametrize(("fields", "expected"), REFUSED_BY_THE_ENGINE)
def test_what_is_said_to_be_unsupported_is_what_the_engine_refuses(
    fields: dict[str, Any], expected: tuple[str, ...]
) -> None:
    from gateway.backends.openai_wire import request_body

    request: ChatRequest = chat("hi", **fields)
    assert engine_unsupported(request) == expected
    body = request_body(request, MODEL, stream=False)
    if expected:
        with pytest.raises(EngineRefused):
            parse_chat_request(body)
    else:
        assert parse_chat_request(body).model == MODEL
