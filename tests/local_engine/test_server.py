"""The HTTP face in process: the secret, the shapes, the errors, and silence about contents."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import httpx
import pytest

from local_engine.engine import Engine
from local_engine.errors import SetupError
from local_engine.feed import HIGH_WATER_STEPS
from local_engine.generation import Generation
from local_engine.harmony.tokens import END, RETURN
from local_engine.kv import tenant_salt
from local_engine.sampling import SamplingParams
from local_engine.server import create_app
from local_engine.service import Service
from local_engine.structure.request import Structures
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import (
    SECRET,
    ScriptedRunner,
    encode,
    eventually,
    scripted_engine,
    scripted_service,
)

CANARY = "Xyzzy-canary"
FINAL = "<|channel|>final<|message|>"
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/models/gpt-oss-20b",
    "/health",
    "/load",
    "/metrics",
    "/",
    "/docs",
    "/openapi.json",
)


@pytest.fixture(scope="module")
def structures(vocabulary: Vocabulary) -> Structures:
    """Half a second to make, so made once."""
    return Structures(vocabulary)


@pytest.fixture
def service(vocabulary: Vocabulary, structures: Structures) -> Service:
    ids = iter(f"id{n}" for n in range(1000))
    made = scripted_service(vocabulary, structures, scripted_engine(vocabulary))
    return replace(made, now_s=lambda: 1700000000.5, new_id=lambda: next(ids))


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has the secret, against the running application of one request at a time."""
    async with serving(service) as client:
        yield client


@pytest.fixture
async def wide(vocabulary: Vocabulary, structures: Structures) -> AsyncIterator[httpx.AsyncClient]:
    """The same with room for eight choices at once."""
    engine = scripted_engine(vocabulary, max_running=8)
    async with serving(scripted_service(vocabulary, structures, engine)) as client:
        yield client


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Runs a service's engine while the block lasts."""
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
        "usage": {
            "completion_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
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
    # How many chunks the content takes depends on what was ready when.
    opening, reasoning, *contents, closing = chunks
    assert opening == chunk({"role": "assistant", "content": ""})
    assert reasoning == chunk({"reasoning": "hm"})
    said = [content["choices"][0]["delta"]["content"] for content in contents]
    assert "".join(said) == "Hi there"
    assert contents == [chunk({"content": text}) for text in said]
    assert closing == chunk({}, "stop")
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


async def test_logprobs_of_arguments_are_in_the_choices_list(client: httpx.AsyncClient) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    script = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    plain = (await ask(client, script, tools=tools, logprobs=True)).json()["choices"][0]
    streamed = events(await ask(client, script, tools=tools, logprobs=True, stream=True))
    carrying = [chunk["choices"][0] for chunk in streamed[:-1] if chunk["choices"][0]["logprobs"]]

    assert [one["token"] for one in plain["logprobs"]["content"]] == ["{}"]
    assert [chunk["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in carrying] == ["{}"]
    assert [one["token"] for chunk in carrying for one in chunk["logprobs"]["content"]] == ["{}"]


async def test_the_model_is_asked_what_was_meant(
    client: httpx.AsyncClient, service: Service, vocabulary: Vocabulary
) -> None:
    await ask(client, f"{FINAL}x<|return|>", reasoning_effort="high")
    (prompt,) = runner(service).prompts
    fed = b"".join(vocabulary.token_bytes(token) for token in prompt).decode()

    assert f"Current date: {service.today().isoformat()}\n\nReasoning: high\n" in fed
    assert fed.endswith(f"<|start|>user<|message|>{FINAL}x<|return|><|end|><|start|>assistant")


async def test_what_a_request_says_of_sampling_reaches_the_engine(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watched_submits(monkeypatch)
    await ask(
        client,
        f"{FINAL}x<|return|>",
        n=2,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.05,
        seed=-3,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.2,
        logit_bias={"5": -100},
        logprobs=True,
        top_logprobs=4,
        max_tokens=9,
    )
    await ask(client, f"{FINAL}x<|return|>", top_k=-1)
    (_, first), (prompt, second) = asked

    assert first == {
        "params": SamplingParams(
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.05,
            seed=-3,
            presence_penalty=1.0,
            frequency_penalty=-1.0,
            repetition_penalty=1.2,
            logit_bias=((5, -100.0),),
            top_logprobs=4,
        ),
        "n": 2,
        "cache_salt": None,
        "grammar": None,
    }
    assert second["params"] == SamplingParams(max_tokens=4096 - len(prompt), seed=second["params"].seed)


def watched_submits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], dict[str, Any]]]:
    """What `Engine.submit` is called with from now on."""
    asked: list[tuple[list[int], dict[str, Any]]] = []
    submit = Engine.submit

    def watched(self: Engine, prompt: Any, params: Any, deliver: Any, **how: Any) -> Any:
        asked.append((prompt, {"params": params, **how}))
        return submit(self, prompt, params, deliver, **how)

    monkeypatch.setattr(Engine, "submit", watched)
    return asked


def runner(service: Service) -> ScriptedRunner:
    """The scripted runner under a service."""
    found = service.engine.runner
    assert isinstance(found, ScriptedRunner)
    return found


async def test_several_choices_come_from_one_prompt_and_are_counted_once(wide: httpx.AsyncClient) -> None:
    script = f"{FINAL}one<|return|>|||{FINAL}two words<|return|>"
    plain = (await ask(wide, script, n=3)).json()
    streamed = events(await ask(wide, script, n=3, stream=True, stream_options={"include_usage": True}))
    said = ["", "", ""]
    reasons: dict[int, str | None] = {}
    for chunk in streamed[:-2]:
        (choice,) = chunk["choices"]
        said[choice["index"]] += choice["delta"].get("content", "")
        reasons |= {choice["index"]: choice["finish_reason"]}

    assert [choice["message"]["content"] for choice in plain["choices"]] == ["one", "two words", "one"]
    assert [choice["index"] for choice in plain["choices"]] == [0, 1, 2]
    assert said == ["one", "two words", "one"]
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}
    assert plain["usage"]["completion_tokens"] == 5 + 6 + 5
    assert plain["usage"]["prompt_tokens"] == streamed[-2]["usage"]["prompt_tokens"]


async def test_the_prompt_of_several_choices_is_billed_once_and_so_is_what_was_cached_of_it(
    wide: httpx.AsyncClient,
) -> None:
    script = f"{FINAL}x<|return|>"
    alone = (await ask(wide, script)).json()["usage"]
    several = (await ask(wide, script, n=3)).json()["usage"]
    streamed = events(await ask(wide, script, n=3, stream=True, stream_options={"include_usage": True}))

    cached = several["prompt_tokens_details"]["cached_tokens"]
    assert 0 < cached < alone["prompt_tokens"]
    assert several == alone | {
        "completion_tokens": 3 * alone["completion_tokens"],
        "total_tokens": alone["prompt_tokens"] + 3 * alone["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    assert cached == (alone["prompt_tokens"] - 1) // 16 * 16
    assert streamed[-2]["usage"] == several


async def test_a_stop_string_ends_one_choice_and_not_its_neighbours(wide: httpx.AsyncClient) -> None:
    script = f"{FINAL}one STOP no<|return|>|||{FINAL}all of it<|return|>"
    found = (await ask(wide, script, n=2, stop=" STOP")).json()

    assert [choice["message"]["content"] for choice in found["choices"]] == ["one", "all of it"]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["stop", "stop"]


async def test_a_repeated_prompt_is_told_as_cached(client: httpx.AsyncClient) -> None:
    script = f"{FINAL}x<|return|>" + " word" * 300
    first, second = [(await ask(client, script)).json()["usage"] for _ in range(2)]
    streamed = events(await ask(client, script, stream=True, stream_options={"include_usage": True}))

    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert second["prompt_tokens_details"]["cached_tokens"] >= 300
    assert second["prompt_tokens_details"]["cached_tokens"] < second["prompt_tokens"]
    assert streamed[-2]["usage"] == second


async def test_an_answer_is_held_to_its_schema_whatever_the_model_would_say(wide: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": False}}
    found = (await ask(wide, f'{FINAL}{{"n":3}} and more<|return|>', response_format=form, n=2)).json()

    for choice in found["choices"]:
        assert json.loads(choice["message"]["content"])["n"] in (1, 2)
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
async def test_a_call_that_is_required_comes(client: httpx.AsyncClient, choice: Any) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": {"type": "boolean"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    script = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x":true}<|call|>'
    found = (await ask(client, script, tools=tools, tool_choice=choice)).json()["choices"][0]

    assert found["finish_reason"] == "tool_calls"
    (call,) = found["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("f", {"x": True})


@pytest.mark.parametrize("name", ["f", "g"])
async def test_a_call_of_the_function_that_is_named_comes(wide: httpx.AsyncClient, name: str) -> None:
    parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    tools = [
        {"type": "function", "function": {"name": one, "parameters": parameters}} for one in ("f", "g", "h")
    ]
    # What the model would say is a call of another.
    script = "<|channel|>commentary to=functions.h <|constrain|>json<|message|>{}<|call|>"
    choice = {"type": "function", "function": {"name": name}}
    found = (await ask(wide, script, tools=tools, tool_choice=choice, parallel_tool_calls=False)).json()
    answer = found["choices"][0]

    assert answer["finish_reason"] == "tool_calls"
    assert [call["function"] for call in answer["message"]["tool_calls"]] == [
        {"name": name, "arguments": "{}"}
    ]


async def test_a_schema_that_cannot_be_enforced_is_refused_by_its_place(client: httpx.AsyncClient) -> None:
    schema = {"$ref": f"https://example.com/{CANARY}"}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    response = await ask(client, f"{FINAL}x<|return|>", response_format=form)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"
    assert CANARY not in response.text


async def test_a_past_answer_goes_back_to_the_model_as_it_was_sampled(
    client: httpx.AsyncClient, service: Service, vocabulary: Vocabulary
) -> None:
    # "Hello" of five tokens is another cut of the text than the tokenizer's own.
    letters = [token for letter in "Hello" for token in vocabulary.encode(letter)]
    model = runner(service)
    model.spellings = {"spell": [*encode(FINAL, vocabulary), *letters, RETURN]}
    first = (await ask(client, "spell")).json()["choices"][0]["message"]
    history = [
        {"role": "user", "content": "spell"},
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": f"{FINAL}x<|return|>"},
    ]
    await client.post("/v1/chat/completions", json={"model": "gpt-oss-20b", "messages": history})
    prompt = model.prompts[-1]

    assert first["content"] == "Hello"
    start = next(n for n in range(len(prompt)) if prompt[n : n + 5] == letters)
    assert prompt[start + 5] == END


async def test_a_past_answer_is_recalled_for_the_tenant_that_it_was_given_to_and_for_no_other(
    client: httpx.AsyncClient, service: Service, vocabulary: Vocabulary
) -> None:
    letters = [token for letter in "Hello" for token in vocabulary.encode(letter)]
    model = runner(service)
    model.spellings = {"spell": [*encode(FINAL, vocabulary), *letters, RETURN]}
    salted: list[dict[str, str]] = [{"x-douane-cache-salt": salt} for salt in ("tenant-7", "tenant-8")]
    await client.post("/v1/chat/completions", json=body("spell"), headers=salted[0])
    history = [
        {"role": "user", "content": "spell"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": f"{FINAL}x<|return|>"},
    ]
    recalled = []
    for headers in (*salted, {}):
        await client.post(
            "/v1/chat/completions", json={"model": "gpt-oss-20b", "messages": history}, headers=headers
        )
        prompt = model.prompts[-1]
        recalled.append(any(prompt[n : n + 5] == letters for n in range(len(prompt))))

    assert recalled == [True, False, False]


@pytest.mark.parametrize("recipient", ["functions.z!z", "functions.", "functions." + "z" * 90, "python"])
async def test_a_call_of_a_function_that_there_is_not_can_come_back_with_its_error(
    client: httpx.AsyncClient, recipient: str
) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    script = f"<|channel|>commentary to={recipient} <|constrain|>json<|message|>{{}}<|call|>"
    message = (await ask(client, script, tools=tools)).json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    history = [
        {"role": "user", "content": "hi"},
        message,
        {"role": "tool", "tool_call_id": call["id"], "content": "there is no such function"},
        {"role": "user", "content": f"{FINAL}sorry<|return|>"},
    ]
    request = {"model": "gpt-oss-20b", "messages": history, "tools": tools}
    answer = await client.post("/v1/chat/completions", json=request)

    assert call["function"]["name"] == recipient.removeprefix("functions.")
    assert answer.json()["choices"][0]["message"]["content"] == "sorry"


@pytest.mark.parametrize("path", PATHS)
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
            if (method, path, headers) == ("GET", "/health", []):
                continue  # the one thing that is open, by the test below
            response = await client.request(method, path, headers=headers)

            assert response.status_code == 401
            assert response.content == b""
            assert dict(response.headers) == {"content-length": "0"}


async def test_without_the_secret_health_says_one_word(service: Service) -> None:
    transport = httpx.ASGITransport(create_app(service, SECRET))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        well = await client.get("/health")
        service.engine.stop()
        ill = await client.get("/health")

    assert (well.status_code, well.json()) == (200, {"status": "ok"})
    assert (ill.status_code, ill.json()) == (503, {"status": "stopping"})


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
    assert (await client.get("/v1/models/gpt-oss-20b")).json()["id"] == "gpt-oss-20b"
    missing = await client.get(f"/v1/models/{CANARY}/x")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert CANARY not in missing.text
    assert (await client.get("/health")).json() == {
        "status": "ok",
        "running": 0,
        "waiting": 0,
        "max_waiting": 2,
        "fingerprint": "scripted",
    }


async def test_load_tells_all_that_the_engine_knows_of_itself(
    client: httpx.AsyncClient, service: Service
) -> None:
    headers = {"x-douane-cache-salt": "tenant-7"}
    await client.post("/v1/chat/completions", json=body(f"{FINAL}x<|return|>"), headers=headers)
    found = (await client.get("/load")).json()

    assert found == asdict(service.engine.load())
    assert list(found["prefix"]) == [tenant_salt("tenant-7").hex()[:8]]
    assert found["finished_total"] == {"stop": 1}
    assert found["generated_tokens_total"] == 5


async def test_metrics_count_what_happened(client: httpx.AsyncClient) -> None:
    script = f"{FINAL}one two<|return|>"
    for more in ({}, {"max_tokens": 2}, {"stop": "two", "stream": True}):
        await ask(client, script, **more)
    await ask(client, "?", stream=True)
    response = await client.get("/metrics")
    found = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))

    assert response.headers["content-type"].startswith("text/plain")
    assert found['local_engine_finished_total{reason="stop"}'] == "2.0"
    assert found['local_engine_finished_total{reason="length"}'] == "1.0"
    assert found['local_engine_finished_total{reason="failed"}'] == "1.0"
    assert found["local_engine_time_to_first_token_seconds_count"] == "3.0"
    assert found["local_engine_inter_token_seconds_count"] == str(
        float(found["local_engine_generated_tokens_total"]) - 3
    )
    assert found["local_engine_running"] == found["local_engine_waiting"] == "0.0"
    blocks = [
        float(found[f'local_engine_kv_blocks{{state="{state}"}}']) for state in ("used", "cached", "free")
    ]
    assert blocks[0] == 0
    assert sum(blocks) == 2048
    assert {"local_engine_prefix_cache_hit_tokens_total", "local_engine_preemptions_total"} <= found.keys()


async def test_a_stopping_engine_is_unhealthy_and_refuses(
    client: httpx.AsyncClient, service: Service
) -> None:
    service.engine.stop()
    health, chat = await client.get("/health"), await ask(client, f"{FINAL}x<|return|>")

    assert (health.status_code, health.json()["status"]) == (503, "stopping")
    assert (chat.status_code, chat.json()["error"]["code"]) == (503, "engine_stopping")
    assert int(chat.headers["retry-after"]) >= 1


async def test_a_lost_device_fails_what_runs_and_shows_in_health(
    client: httpx.AsyncClient, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    failed = await ask(client, f"!lost {CANARY}")
    after = await ask(client, f"{FINAL}x<|return|>")
    health = await client.get("/health")

    assert [(one.status_code, one.json()["error"]["code"]) for one in (failed, after)] == [
        (503, "engine_fault")
    ] * 2
    assert (health.status_code, health.json()["status"]) == (503, "lost")
    assert CANARY not in failed.text + caplog.text


@pytest.mark.parametrize(
    ("request_kwargs", "status", "code"),
    [
        ({"content": b"{" + CANARY.encode()}, 400, "invalid_json"),
        ({"json": body(CANARY, temperature=9)}, 400, "invalid_value"),
        ({"json": body(CANARY, user=CANARY)}, 400, "unsupported_parameter"),
        ({"json": body(CANARY, n=4)}, 400, "invalid_request"),
        ({"json": body(CANARY, foo=CANARY)}, 400, "unknown_parameter"),
        ({"json": body(CANARY) | {"model": CANARY}}, 404, "model_not_found"),
        ({"json": body(CANARY + " x" * 4096)}, 400, "context_length_exceeded"),
        ({"json": body(CANARY, max_completion_tokens=4096)}, 400, "context_length_exceeded"),
        ({"json": body(CANARY + "x" * 200_000)}, 413, "body_too_large"),
        ({"content": b"x", "headers": {"content-encoding": "gzip"}}, 415, "invalid_request"),
        ({"json": body(CANARY), "headers": {"x-douane-cache-salt": CANARY * 30}}, 400, "invalid_request"),
        ({"json": body(f"!{CANARY}")}, 500, "engine_fault"),
        ({"json": body(f"?{CANARY}")}, 500, "engine_fault"),
        ({"json": body(f"!{CANARY}", stream=True)}, 500, "engine_fault"),
    ],
    ids=[
        "no json",
        "bad value",
        "unsupported",
        "more choices than there is room for",
        "unknown",
        "no such model",
        "long prompt",
        "long answer",
        "large body",
        "compressed",
        "long salt",
        "a broken model",
        "unusable logits",
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


async def test_what_does_not_fit_is_told_with_what_would_and_without_what_was_asked_for(
    client: httpx.AsyncClient,
) -> None:
    asked = 10**400
    tokens = (await ask(client, f"{FINAL}x<|return|>")).json()["usage"]["prompt_tokens"]
    refused = await ask(client, f"{FINAL}x<|return|>", max_completion_tokens=asked)
    fits = await ask(client, f"{FINAL}x<|return|>", max_completion_tokens=4096 - tokens)
    too_long = await ask(client, " x" * 5000)

    assert refused.json()["error"]["message"] == (
        f"the context holds 4096 tokens and the prompt has {tokens}: shorten `messages` or ask for at most "
        f"{4096 - tokens} tokens"
    )
    assert fits.status_code == 200
    assert too_long.json()["error"]["message"].endswith(": shorten `messages`")


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
    slow = [asyncio.create_task(ask(client, f"@0.2 {FINAL}a b c d e f<|return|>")) for _ in range(3)]
    await eventually(lambda: service.engine.load().waiting == 2)
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
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watched_submits(monkeypatch)
    await ask(client, f"{FINAL}x<|return|>")
    await client.post(
        "/v1/chat/completions", json=body(f"{FINAL}x<|return|>"), headers={"x-douane-cache-salt": "tenant-7"}
    )

    assert [how["cache_salt"] for _, how in asked] == [None, "tenant-7"]


async def test_tokens_that_are_ready_together_leave_in_one_chunk(
    vocabulary: Vocabulary, structures: Structures
) -> None:
    engine = scripted_engine(vocabulary)
    service = scripted_service(vocabulary, structures, engine)
    app = create_app(service, SECRET)
    reader = SlowReader(body(f"{FINAL}" + " word" * 100 + "<|return|>", stream=True))
    engine.start()
    answering = asyncio.create_task(app(reader.scope, reader.receive, reader.send))
    await reader.stuck.wait()
    await eventually(lambda: engine.load().running + engine.load().waiting == 0)
    reader.go.set()
    await answering
    await asyncio.to_thread(engine.close)
    contents = [c["choices"][0]["delta"].get("content") for c in reader.chunks()]

    # What was ready before the client stopped reading, then all the rest at once.
    opening, *said, closing = contents
    assert (opening, closing) == ("", None)
    assert "".join(said) == " word" * 100
    assert len(said) <= 2


async def test_nothing_more_is_computed_for_a_client_that_does_not_read(
    vocabulary: Vocabulary, structures: Structures
) -> None:
    engine = scripted_engine(vocabulary, max_running=2)
    service = scripted_service(vocabulary, structures, engine)
    app = create_app(service, SECRET)
    many = HIGH_WATER_STEPS * 4
    reader = SlowReader(body(f"{FINAL}" + " word" * many + "<|return|>", stream=True))
    held = asyncio.Event()
    loop = asyncio.get_running_loop()
    engine.start()
    with pytest.MonkeyPatch.context() as patch:
        hold = Generation.hold

        def watched(generation: Generation) -> None:
            hold(generation)
            loop.call_soon_threadsafe(held.set)

        patch.setattr(Generation, "hold", watched)
        answering = asyncio.create_task(app(reader.scope, reader.receive, reader.send))
        async with asyncio.timeout(30):
            await held.wait()
    made = []
    transport = httpx.ASGITransport(app)
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as other:
        for _ in range(2):
            # Others go on, and by the time that they are done nothing more came for the one that is held.
            answer = await ask(other, f"{FINAL}x<|return|>")
            made.append(runner(service).made)
            assert answer.json()["choices"][0]["message"]["content"] == "x"
    reader.go.set()
    await answering
    await asyncio.to_thread(engine.close)

    assert made[1] - made[0] == 5
    assert HIGH_WATER_STEPS <= made[0] < many
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in reader.chunks())
    assert text == " word" * many


async def test_a_client_that_goes_away_while_it_is_held_frees_everything(
    vocabulary: Vocabulary, structures: Structures
) -> None:
    engine = scripted_engine(vocabulary)
    service = scripted_service(vocabulary, structures, engine)
    script = f"{FINAL}" + " word" * HIGH_WATER_STEPS * 4 + "<|return|>"
    reader = SlowReader(body(script, stream=True))
    engine.start()
    answering = asyncio.create_task(create_app(service, SECRET)(reader.scope, reader.receive, reader.send))
    await eventually(lambda: runner(service).made >= HIGH_WATER_STEPS)
    reader.leave.set()
    await eventually(lambda: engine.load().running == 0)
    reader.go.set()
    await answering
    await asyncio.to_thread(engine.close)

    assert engine.load().kv_blocks_free == engine.load().kv_blocks_total
    assert engine.load().finished_total == {"cancelled": 1}
    assert b'local_engine_finished_total{reason="cancelled"} 1.0' in service.metrics.exposition()


async def test_a_client_that_goes_away_while_its_request_is_prepared_leaves_nothing(
    vocabulary: Vocabulary, structures: Structures
) -> None:
    preparing, go = threading.Event(), threading.Event()

    def today() -> date:
        preparing.set()
        assert go.wait(30)
        return date(2026, 1, 1)

    engine = scripted_engine(vocabulary)
    service = replace(scripted_service(vocabulary, structures, engine), today=today)
    reader = SlowReader(body(f"{FINAL}x<|return|>"))
    engine.start()
    answering = asyncio.create_task(create_app(service, SECRET)(reader.scope, reader.receive, reader.send))
    assert await asyncio.to_thread(preparing.wait, 30)
    reader.leave.set()
    await reader.left.wait()
    go.set()
    reader.go.set()
    await answering
    await asyncio.to_thread(engine.close)

    assert runner(service).prompts == []
    assert engine.load().finished_total == {}


class SlowReader:
    """A client of one request that takes nothing behind the first write until `go` is set, and hangs up when
    `leave` is."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.stuck, self.go, self.leave, self.left = (asyncio.Event() for _ in range(4))
        self.taken = b""
        self._body: bytes | None = json.dumps(request).encode()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"authorization", f"Bearer {SECRET}".encode())],
        }

    async def receive(self) -> dict[str, Any]:
        """The body, then nothing for as long as the client stays."""
        if self._body is None:
            await self.leave.wait()
            self.left.set()
            return {"type": "http.disconnect"}
        data, self._body = self._body, None
        return {"type": "http.request", "body": data}

    async def send(self, message: Any) -> None:
        """Takes the first write at once."""
        if self.taken:
            self.stuck.set()
            await self.go.wait()
        self.taken += message.get("body", b"")

    def chunks(self) -> list[Any]:
        """The events but for `[DONE]`."""
        *data, done, end = self.taken.decode().split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        return [json.loads(one.removeprefix("data: ")) for one in data]
