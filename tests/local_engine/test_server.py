"""The HTTP face in process: the secret, the shapes, the errors, and silence about contents."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from local_engine.chat import Service
from local_engine.engine import Engine
from local_engine.errors import SetupError
from local_engine.server import create_app
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import SECRET, ScriptedModel, scripted_service

CANARY = "Xyzzy-canary"
FINAL = "<|channel|>final<|message|>"


@pytest.fixture
def service(vocabulary: Vocabulary) -> Service:
    ids = iter(f"id{n}" for n in range(1000))
    return replace(scripted_service(vocabulary), now_s=lambda: 1700000000.5, new_id=lambda: next(ids))


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has the secret, against the running application."""
    service.engine.start()
    transport = httpx.ASGITransport(create_app(service, SECRET), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as client:
        yield client
    await asyncio.to_thread(service.engine.close)


def body(script: str, **more: Any) -> dict[str, Any]:
    """A request whose answer is `script`."""
    return {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": script}], **more}


async def ask(client: httpx.AsyncClient, script: str, **more: Any) -> httpx.Response:
    """One chat completion."""
    return await client.post("/v1/chat/completions", json=body(script, **more))


def events(response: httpx.Response) -> list[Any]:
    """The data of each server-sent event, parsed unless it is `[DONE]`."""
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    data = [line.removeprefix("data: ") for line in lines]
    assert [f"data: {one}" for one in data] == lines
    return [one if one == "[DONE]" else json.loads(one) for one in data]


async def test_a_plain_answer_has_openais_whole_shape(client: httpx.AsyncClient) -> None:
    script = f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{FINAL}Hi there<|return|>"
    response = await ask(client, script)
    found = response.json()
    prompt_tokens = found["usage"].pop("prompt_tokens")

    assert response.status_code == 200
    assert found["usage"].pop("total_tokens") == prompt_tokens + 13
    assert found == {
        "id": "chatcmpl-id0",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-oss-20b",
        "system_fingerprint": "scripted",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi there", "reasoning": "hm"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"completion_tokens": 13, "completion_tokens_details": {"reasoning_tokens": 1}},
    }


async def test_a_stream_says_the_same_in_pieces(client: httpx.AsyncClient) -> None:
    script = f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{FINAL}Hi there<|return|>"
    response = await ask(client, script, stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = events(response)
    base = {
        "id": "chatcmpl-id0",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-oss-20b",
        "system_fingerprint": "scripted",
    }

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return base | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert chunks == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "hm"}),
        chunk({"content": "Hi"}),
        chunk({"content": " there"}),
        chunk({}, "stop"),
    ]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert done == "[DONE]"


async def test_tool_calls_plain_and_streamed(client: httpx.AsyncClient) -> None:
    script = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>'
    tools = [{"type": "function", "function": {"name": "f"}}]
    plain = (await ask(client, script, tools=tools)).json()["choices"][0]
    streamed = events(await ask(client, script, tools=tools, stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed[:-1]]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]

    assert plain["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_id1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
        ],
    }
    assert plain["finish_reason"] == "tool_calls"
    assert calls[0] == {
        "index": 0,
        "id": "call_id3",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    assert "".join(call["function"]["arguments"] for call in calls) == '{"x": 1}'
    assert all(call.keys() == {"index", "function"} for call in calls[1:])
    assert streamed[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_limit_counts_reasoning_and_ends_with_length(client: httpx.AsyncClient) -> None:
    script = f"<|channel|>analysis<|message|>one two three<|end|><|start|>assistant{FINAL}x<|return|>"
    found = (await ask(client, script, max_completion_tokens=5)).json()

    assert found["choices"][0]["message"] == {"role": "assistant", "content": "", "reasoning": "one two"}
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 5


async def test_a_stop_string_ends_the_answer_and_frees_the_engine(
    client: httpx.AsyncClient, service: Service
) -> None:
    found = (await ask(client, f"{FINAL}one two three four<|return|>", stop=" three")).json()

    assert found["choices"][0]["message"]["content"] == "one two"
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == 6
    assert service.engine.load().running == 0


async def test_logprobs_are_given_for_content(client: httpx.AsyncClient) -> None:
    found = (await ask(client, f"{FINAL}é<|return|>", logprobs=True, top_logprobs=1)).json()
    (entry,) = found["choices"][0]["logprobs"]["content"]

    assert entry == {
        "token": "é",
        "logprob": 0.0,
        "bytes": [195, 169],
        "top_logprobs": [{"token": "é", "logprob": 0.0, "bytes": [195, 169]}],
    }
    streamed = events(await ask(client, f"{FINAL}é<|return|>", logprobs=True, stream=True))
    assert streamed[1]["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_the_same_seed_gives_the_same_answer_and_the_model_is_asked_what_was_meant(
    client: httpx.AsyncClient, service: Service, vocabulary: Vocabulary
) -> None:
    await ask(client, f"{FINAL}x<|return|>", reasoning_effort="high")
    model = service.engine._model
    assert isinstance(model, ScriptedModel)
    fed = b"".join(vocabulary.token_bytes(token) for token in model.caches[0].fed).decode()

    assert f"Current date: {service.today().isoformat()}\n\nReasoning: high\n" in fed
    assert fed.endswith(f"<|start|>user<|message|>{FINAL}x<|return|><|end|><|start|>assistant{FINAL}x")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/health", "/", "/docs", "/openapi.json"]
)
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", SECRET)],
        [("authorization", f"Basic {SECRET}")],
        [("authorization", f"Bearer {SECRET}x")],
        [("authorization", f"Bearer {SECRET}"), ("authorization", "Bearer wrong")],
    ],
    ids=["none", "wrong", "bare", "basic", "longer", "two"],
)
async def test_without_the_secret_there_is_a_bare_401_everywhere(
    service: Service, path: str, headers: list[tuple[str, str]]
) -> None:
    transport = httpx.ASGITransport(create_app(service, SECRET))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        for method in ("GET", "POST"):
            response = await client.request(method, path, headers=headers)

            assert response.status_code == 401
            assert response.content == b""
            assert dict(response.headers) == {"content-length": "0"}


@pytest.mark.parametrize("secret", ["", "  "])
def test_without_a_configured_secret_there_is_no_application(service: Service, secret: str) -> None:
    with pytest.raises(SetupError, match="no secret: set `DOUANE_ENGINE_SECRET`"):
        create_app(service, secret)


async def test_models_and_health_say_what_answers(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {
        "object": "list",
        "data": [
            {
                "id": "gpt-oss-20b",
                "object": "model",
                "created": 0,
                "owned_by": "scripted",
                "max_context_tokens": 4096,
            }
        ],
    }
    assert (await client.get("/health")).json() == {
        "status": "ok",
        "running": 0,
        "waiting": 0,
        "max_waiting": 2,
        "fingerprint": "scripted",
    }


async def test_a_stopping_engine_is_unhealthy_and_refuses(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.engine.stop()
    health, chat = await client.get("/health"), await ask(client, f"{FINAL}x<|return|>")

    assert (health.status_code, health.json()["status"]) == (503, "stopping")
    assert (chat.status_code, chat.json()["error"]["code"]) == (503, "engine_stopping")


@pytest.mark.parametrize(
    ("request_kwargs", "status", "code"),
    [
        ({"content": b"{" + CANARY.encode()}, 400, "invalid_json"),
        ({"json": body(CANARY, temperature=9)}, 400, "invalid_value"),
        ({"json": body(CANARY, n=2)}, 400, "unsupported_parameter"),
        ({"json": body(CANARY, foo=CANARY)}, 400, "unknown_parameter"),
        ({"json": body(CANARY) | {"model": CANARY}}, 404, "model_not_found"),
        ({"json": body(CANARY + " x" * 4096)}, 400, "context_length_exceeded"),
        ({"json": body(CANARY, max_completion_tokens=4096)}, 400, "context_length_exceeded"),
        ({"json": body(CANARY + "x" * 200_000)}, 413, "body_too_large"),
        ({"content": b"x", "headers": {"content-encoding": "gzip"}}, 415, "invalid_request"),
        ({"json": body(CANARY), "headers": {"x-douane-cache-salt": CANARY * 30}}, 400, "invalid_request"),
        ({"json": body(f"!{CANARY}")}, 500, "engine_fault"),
        ({"json": body(f"!{CANARY}", stream=True)}, 500, "engine_fault"),
    ],
    ids=[
        "no json",
        "bad value",
        "unsupported",
        "unknown",
        "no such model",
        "long prompt",
        "long answer",
        "large body",
        "compressed",
        "long salt",
        "a broken model",
        "a broken model, streaming",
    ],
)
async def test_every_refusal_has_openais_shape_and_quotes_nothing(
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    request_kwargs: dict[str, Any],
    status: int,
    code: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    response = await client.post("/v1/chat/completions", **request_kwargs)
    error = response.json()["error"]
    captured = capfd.readouterr()

    assert (response.status_code, error["code"]) == (status, code)
    assert error.keys() == {"message", "type", "param", "code"}
    for text in (response.text, caplog.text, captured.out, captured.err):
        assert CANARY not in text


async def test_a_body_without_declared_length_is_cut_off_at_the_limit(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 50_000

    response = await client.post("/v1/chat/completions", content=endless())

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


async def test_an_unknown_path_and_a_wrong_method_have_openais_shape(client: httpx.AsyncClient) -> None:
    missing, wrong = await client.get("/v1/nothing"), await client.get("/v1/chat/completions")

    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_a_full_queue_is_429_with_retry_after(client: httpx.AsyncClient, service: Service) -> None:
    slow = [asyncio.create_task(ask(client, f"@0.1 {FINAL}a b c d e f<|return|>")) for _ in range(3)]
    async with asyncio.timeout(30):
        while service.engine.load().waiting < 2:  # noqa: ASYNC110 - the engine tells nobody of its queue
            await asyncio.sleep(0.01)
    refused = await ask(client, f"{FINAL}x<|return|>")
    answers = await asyncio.gather(*slow)

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "engine_busy")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answers] == [200, 200, 200]


async def test_a_failure_inside_the_server_is_a_500_that_says_nothing(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise ValueError(CANARY)

    transport = httpx.ASGITransport(
        create_app(replace(service, today=broken), SECRET), raise_app_exceptions=False
    )
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as client:
        response = await ask(client, CANARY)

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_fault"
    assert "request failed: ValueError" in caplog.text
    assert CANARY not in response.text + caplog.text


async def test_the_cache_salt_reaches_the_engine(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    salts: list[str | None] = []
    submit = Engine.submit

    def watched(self: Engine, *args: Any, cache_salt: str | None = None) -> Any:
        salts.append(cache_salt)
        return submit(self, *args, cache_salt=cache_salt)

    monkeypatch.setattr(Engine, "submit", watched)
    await ask(client, f"{FINAL}x<|return|>")
    await client.post(
        "/v1/chat/completions", json=body(f"{FINAL}x<|return|>"), headers={"x-douane-cache-salt": "tenant-7"}
    )

    assert salts == [None, "tenant-7"]
