"""The Bedrock backend against the emulator, over real HTTP and real signatures."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.backends.base import (
    Answer,
    BackendFault,
    Broken,
    Chunk,
    Misconfigured,
    NotReady,
    Refused,
    ServerFault,
    Throttled,
    TimedOut,
    Unreachable,
    Upstream,
    Usage,
)
from gateway.backends.bedrock import BedrockBackend
from gateway.backends.bedrock_errors import FAULTS
from gateway.backends.endpoint import Endpoint
from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.quota import TokenQuota
from gateway.testing.bedrock.server import Running, running_emulator
from gateway.testing.bedrock.signature import Keys
from tests.backends.support import MODEL, SERVICE_MODEL, attempt, bedrock_place, chat, emulator_signer, tool

WEATHER = tool("get_weather", city={"type": "string"})
TEXT = "[emulated Bedrock, eu-central-1, no model] You said: hello there"
REASONING = "The user wrote 11 characters. No model is at work here."


async def complete(bedrock: BedrockBackend, content: str = "hello there", **fields: Any) -> Answer:
    return await bedrock.complete(attempt(bedrock.place), chat(content, **fields), "r1")


async def streamed(bedrock: BedrockBackend, content: str = "hello there", **fields: Any) -> list[Chunk]:
    stream = await bedrock.stream(attempt(bedrock.place), chat(content, stream=True, **fields), "r1")
    return [chunk async for batch in stream for chunk in batch]


def joined(chunks: list[Chunk], member: str) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in orjson.loads(chunk.data)["choices"]]
    return "".join(delta.get(member) or "" for delta in deltas)


async def test_a_plain_answer_is_an_openai_chat_completion_with_reasoning(bedrock: BedrockBackend) -> None:
    answer = await complete(bedrock)
    assert answer.body == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "reasoning": REASONING},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": Usage(7, 20).wire(),
    }
    parsed = ChatCompletion.model_validate(answer.body)
    assert parsed.choices[0].message.content == TEXT
    assert answer.usage == Usage(prompt_tokens=7, completion_tokens=20)


async def test_the_upstream_of_an_answer_is_the_host_that_was_signed_for(
    bedrock: BedrockBackend, frankfurt: Running
) -> None:
    upstream = (await complete(bedrock)).upstream
    assert upstream == Upstream(
        host=f"127.0.0.1:{frankfurt.port}",
        region="eu-central-1",
        request_id=upstream.request_id,
        emulated=True,
    )
    assert len(upstream.request_id or "") == 36


async def test_a_streamed_answer_has_role_reasoning_text_finish_and_usage_in_this_order(
    bedrock: BedrockBackend,
) -> None:
    chunks = await streamed(bedrock)
    parsed = [ChatCompletionChunk.model_validate_json(chunk.data) for chunk in chunks]
    assert {(one.id, one.model, one.created) for one in parsed} == {("chatcmpl-r1", MODEL, 1_700_000_000)}
    assert orjson.loads(chunks[0].data)["choices"][0]["delta"] == {
        "role": "assistant",
        "content": "",
        "reasoning": "The",
    }
    assert joined(chunks, "reasoning") == REASONING
    assert joined(chunks, "content") == TEXT
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].usage == Usage(7, 20)
    assert orjson.loads(chunks[-1].data)["choices"] == []
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_only_the_region_of_the_place_receives_anything(
    bedrock: BedrockBackend, frankfurt: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    await complete(bedrock)
    (received,) = frankfurt.emulator.ledger.requests
    assert (received.path, received.signed_region, received.status) == (
        "/model/openai.gpt-oss-20b-1%3A0/converse",
        "eu-central-1",
        200,
    )


async def test_tool_calls_come_back_as_openai_tool_calls_plain_and_streamed(bedrock: BedrockBackend) -> None:
    asked = '[[call get_weather {"city": "Köln"}]] [[call get_weather {"city": "Bonn"}]]'
    answer = await complete(bedrock, asked, tools=[WEATHER])
    message = answer.body["choices"][0]["message"]
    assert answer.body["choices"][0]["finish_reason"] == "tool_calls"
    assert message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather"] * 2
    assert [orjson.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [
        {"city": "Köln"},
        {"city": "Bonn"},
    ]
    assert ChatCompletion.model_validate(answer.body).choices[0].message.tool_calls is not None

    chunks = await streamed(bedrock, asked, tools=[WEATHER])
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for choice in orjson.loads(chunk.data)["choices"]:
            for part in choice["delta"].get("tool_calls", []):
                call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
                call["id"] += part.get("id", "")
                call["name"] += part["function"].get("name", "")
                call["arguments"] += part["function"].get("arguments", "")
    assert [
        {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
        for c in calls.values()
    ] == message["tool_calls"]
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "first"), ({"type": "function", "function": {"name": "second"}}, "second")],
)
async def test_a_demanded_tool_is_called(bedrock: BedrockBackend, choice: Any, name: str) -> None:
    tools = [tool("first", n={"type": "integer"}), tool("second")]
    answer = await complete(bedrock, tools=tools, tool_choice=choice)
    (call,) = answer.body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == name


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "stop"),
        ("malformed_tool_use", "stop"),
        ("a_reason_of_next_year", "stop"),
    ],
)
async def test_stop_reasons_become_finish_reasons(
    bedrock: BedrockBackend, stop_reason: str, finish: str
) -> None:
    content = f"[[stop {stop_reason}]]"
    assert (await complete(bedrock, content)).body["choices"][0]["finish_reason"] == finish
    assert [c.finish_reason for c in await streamed(bedrock, content) if c.finish_reason] == [finish]


async def test_max_tokens_cuts_the_answer_and_counts_reasoning(bedrock: BedrockBackend) -> None:
    answer = await complete(bedrock, "[[silent]] [[words 500]]", max_completion_tokens=12)
    assert answer.body["choices"][0]["finish_reason"] == "length"
    assert answer.usage.completion_tokens == 12


async def test_a_conversation_with_tool_results_and_past_reasoning_is_accepted(
    bedrock: BedrockBackend,
) -> None:
    call = {
        "id": "x" * 100,
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Ulm"}'},
    }
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": "", "reasoning": "secret thoughts", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x" * 100, "content": "sunny"},
        {"role": "user", "content": "thanks"},
    ]
    answer = await complete(bedrock, messages=messages, tools=[WEATHER])
    assert answer.body["choices"][0]["message"]["content"].endswith("You said: sunny\nthanks")


ERRORS: list[tuple[str, type[BackendFault]]] = [
    ("AccessDeniedException", Misconfigured),
    ("ConflictException", ServerFault),
    ("ExpiredTokenException", Misconfigured),
    ("IncompleteSignatureException", Misconfigured),
    ("InternalServerException", ServerFault),
    ("InvalidSignatureException", Misconfigured),
    ("MissingAuthenticationTokenException", Misconfigured),
    ("ModelErrorException", ServerFault),
    ("ModelNotReadyException", NotReady),
    ("ModelStreamErrorException", ServerFault),
    ("ModelTimeoutException", TimedOut),
    ("RequestEntityTooLargeException", Refused),
    ("RequestExpired", Misconfigured),
    ("RequestTimeTooSkewed", Misconfigured),
    ("RequestTimeTooSkewedException", Misconfigured),
    ("ResourceNotFoundException", Misconfigured),
    ("SerializationException", Refused),
    ("ServiceQuotaExceededException", Throttled),
    ("ServiceUnavailableException", ServerFault),
    ("ThrottlingException", Throttled),
    ("UnknownOperationException", Misconfigured),
    ("UnrecognizedClientException", Misconfigured),
    ("ValidationException", Refused),
]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
async def test_every_error_becomes_its_fault_plain_and_streamed(
    bedrock: BedrockBackend, frankfurt: Running, code: str, kind: type[BackendFault]
) -> None:
    frankfurt.emulator.faults.add(Fault(kind="error", code=code, message="canary-text", times=2))
    for call in (complete, streamed):
        with pytest.raises(BackendFault) as caught:
            await call(bedrock)
        assert type(caught.value) is kind
        assert "canary-text" not in str(caught.value)
        assert caught.value.upstream is not None
        assert caught.value.upstream.region == "eu-central-1"


def test_every_error_of_the_service_model_is_mapped_by_name() -> None:
    tested = {code for code, _ in ERRORS}
    assert SERVICE_MODEL.error_shapes().keys() <= tested
    assert FAULTS.keys() == tested


STREAM_ERRORS: list[tuple[str, type[BackendFault]]] = [
    ("InternalServerException", ServerFault),
    ("ModelStreamErrorException", ServerFault),
    ("ServiceUnavailableException", ServerFault),
    ("ThrottlingException", Throttled),
    ("ValidationException", Refused),
]


def test_every_exception_that_a_stream_may_carry_is_tested() -> None:
    assert sorted(SERVICE_MODEL.stream_exceptions()) == [code for code, _ in STREAM_ERRORS]


@pytest.mark.parametrize("after_events", [0, 1])
@pytest.mark.parametrize(("code", "kind"), STREAM_ERRORS)
async def test_an_exception_frame_before_the_first_token_is_a_fault_of_the_call(
    bedrock: BedrockBackend, frankfurt: Running, code: str, kind: type[BackendFault], after_events: int
) -> None:
    fault = Fault(kind="stream_error", code=code, message="canary-text", after_events=after_events)
    frankfurt.emulator.faults.add(fault)
    with pytest.raises(BackendFault) as caught:
        await bedrock.stream(attempt(bedrock.place), chat(), "r1")
    assert type(caught.value) is kind
    assert "canary-text" not in str(caught.value)


@pytest.mark.parametrize(("code", "kind"), STREAM_ERRORS)
async def test_an_exception_frame_in_the_middle_breaks_the_stream(
    bedrock: BedrockBackend, frankfurt: Running, code: str, kind: type[BackendFault]
) -> None:
    frankfurt.emulator.faults.add(Fault(kind="stream_error", code=code, after_events=4, delay_s=0.2))
    stream = await bedrock.stream(attempt(bedrock.place), chat(), "r1")
    read = await anext(aiter(stream))
    with pytest.raises(kind):
        await anext(aiter(stream))
    assert joined(list(read), "reasoning") == "The user wrote"


@pytest.mark.parametrize("kind", ["cut", "reset", "truncated_frame", "bad_crc", "no_metadata"])
async def test_a_stream_that_breaks_in_the_middle_is_broken_and_never_ends_silently(
    bedrock: BedrockBackend, frankfurt: Running, kind: Any
) -> None:
    frankfurt.emulator.faults.add(Fault(kind=kind, after_events=5))
    with pytest.raises(Broken):
        await streamed(bedrock)


@pytest.mark.parametrize("kind", ["cut", "reset", "garbage", "bad_crc"])
async def test_a_plain_answer_that_is_cut_or_garbage_is_broken(
    bedrock: BedrockBackend, frankfurt: Running, kind: Any
) -> None:
    frankfurt.emulator.faults.add(Fault(kind=kind))
    with pytest.raises(Broken):
        await complete(bedrock)


async def test_a_redirect_is_never_followed(bedrock: BedrockBackend, frankfurt: Running) -> None:
    elsewhere = f"{frankfurt.url}/elsewhere"
    frankfurt.emulator.faults.add(Fault(kind="redirect", location=elsewhere, times=2))
    for call in (complete, streamed):
        with pytest.raises(Misconfigured, match="redirect 307, which is never followed"):
            await call(bedrock)
    assert [one.path for one in frankfurt.emulator.ledger.requests] == [
        "/model/openai.gpt-oss-20b-1%3A0/converse",
        "/model/openai.gpt-oss-20b-1%3A0/converse-stream",
    ]


async def test_an_answer_over_the_bound_is_broken(
    bedrock: BedrockBackend, frankfurt: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.backends.http.ANSWER_BYTES_MAX", 10_000)
    frankfurt.emulator.faults.add(Fault(kind="oversize", size_bytes=20_000))
    with pytest.raises(Broken, match="over 10000 bytes"):
        await complete(bedrock)


async def test_no_first_token_in_time_is_timed_out(bedrock: BedrockBackend, frankfurt: Running) -> None:
    frankfurt.emulator.faults.add(Fault(kind="slow_first_token", delay_s=30))
    with pytest.raises(TimedOut, match=r"sent nothing for 0\.2 s"):
        await bedrock.stream(attempt(bedrock.place, first_byte_timeout_s=0.2), chat(), "r1")


async def test_a_plain_answer_may_take_longer_than_the_first_byte_but_not_than_the_whole(
    bedrock: BedrockBackend, frankfurt: Running
) -> None:
    frankfurt.emulator.faults.add(
        Fault(kind="slow_first_token", delay_s=0.5), Fault(kind="stall", delay_s=30)
    )
    slow = attempt(bedrock.place, first_byte_timeout_s=0.1, total_timeout_s=20)
    assert (await bedrock.complete(slow, chat(), "r1")).usage.prompt_tokens == 7
    with pytest.raises(TimedOut):
        await bedrock.complete(attempt(bedrock.place, total_timeout_s=0.3), chat(), "r1")


async def test_a_stream_that_falls_silent_is_given_up(http: Any, frankfurt: Running) -> None:
    bedrock = BedrockBackend(
        bedrock_place(), http, emulator_signer(), endpoint=Endpoint(frankfurt.url), idle_timeout_s=0.3
    )
    frankfurt.emulator.faults.add(Fault(kind="stall", after_events=6, delay_s=30))
    stream = await bedrock.stream(attempt(bedrock.place, first_byte_timeout_s=0.2), chat(), "r1")
    with pytest.raises(TimedOut, match="`bedrock-eu-central-1` fell silent in the middle of its answer"):
        async for _ in stream:
            pass


async def test_nobody_at_the_address_is_unreachable(http: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    bedrock = BedrockBackend(
        bedrock_place(), http, emulator_signer(), endpoint=Endpoint(f"http://127.0.0.1:{port}")
    )
    with pytest.raises(
        Unreachable, match=rf"`bedrock-eu-central-1` cannot be reached at `127\.0\.0\.1:{port}`"
    ):
        await complete(bedrock)
    with pytest.raises(Unreachable):
        await bedrock.probe()


async def test_a_model_that_the_region_does_not_serve_is_our_mistake_not_the_callers(
    http: Any, frankfurt: Running
) -> None:
    async with running_emulator("eu-west-3") as paris:
        bedrock = BedrockBackend(
            bedrock_place("eu-west-3"), http, emulator_signer("eu-west-3"), endpoint=Endpoint(paris.url)
        )
        with pytest.raises(Misconfigured, match="does not serve this model in its region"):
            await complete(bedrock)
        with pytest.raises(Misconfigured):
            await bedrock.probe()


async def test_a_probe_costs_no_answer_and_tells_wrong_keys(
    bedrock: BedrockBackend, http: Any, frankfurt: Running
) -> None:
    await bedrock.probe()
    stranger = BedrockBackend(
        bedrock_place(),
        http,
        emulator_signer(keys=Keys(secret_key="wrong")),
        endpoint=Endpoint(frankfurt.url),
    )
    with pytest.raises(Misconfigured, match="refused the request's signature"):
        await stranger.probe()
    frankfurt.emulator.faults.clear()
    assert [one.status for one in frankfurt.emulator.ledger.requests] == [400, 403]


async def test_a_context_that_is_too_long_is_told_apart(bedrock: BedrockBackend, frankfurt: Running) -> None:
    message = (
        "This model's maximum context length is 131072 tokens. However, you requested 200000 tokens: canary"
    )
    frankfurt.emulator.faults.add(Fault(kind="error", code="ValidationException", message=message))
    with pytest.raises(Refused) as caught:
        await complete(bedrock)
    assert caught.value.code == "context_length_exceeded"
    assert "canary" not in str(caught.value)


async def test_a_quota_is_reserved_with_the_whole_bound_and_given_back(http: Any) -> None:
    emulator = Emulator("eu-central-1", model=SERVICE_MODEL, quota=TokenQuota(1000, lambda: 0.0))
    async with running_emulator("eu-central-1", emulator=emulator) as running:
        bedrock = BedrockBackend(bedrock_place(), http, emulator_signer(), endpoint=Endpoint(running.url))
        with pytest.raises(Throttled):
            await complete(bedrock)  # no bound named: 4,096 are reserved
        for _ in range(5):
            assert (await complete(bedrock, max_tokens=800)).usage == Usage(7, 20)
    assert [one.status for one in emulator.ledger.requests] == [429, 200, 200, 200, 200, 200]


async def test_cancelling_a_stream_closes_the_connection(bedrock: BedrockBackend, frankfurt: Running) -> None:
    frankfurt.emulator.faults.add(Fault(kind="stall", after_events=4, delay_s=60))
    stream = await bedrock.stream(attempt(bedrock.place), chat(), "r1")
    await stream.aclose()
    await stream.aclose()
    assert [batch async for batch in stream][1:] == []


async def test_one_connection_serves_many_calls(bedrock: BedrockBackend, frankfurt: Running) -> None:
    for _ in range(3):
        await complete(bedrock)
        await streamed(bedrock)
    assert len(frankfurt.emulator.ledger.requests) == 6
    assert len(frankfurt.emulator.ledger.connections) == 1


async def test_calls_run_side_by_side(bedrock: BedrockBackend) -> None:
    answers = await asyncio.gather(*(complete(bedrock, f"number {n}") for n in range(20)))
    texts = [answer.body["choices"][0]["message"]["content"] for answer in answers]
    assert [text.rpartition("You said: ")[2] for text in texts] == [f"number {n}" for n in range(20)]
