"""The engine as users meet it: a process, spoken to with the `openai` SDK."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme
from openai import OpenAI

from tests.local_engine.process import EngineProcess, running
from tests.local_engine.scripted import SECRET

FINAL = "<|channel|>final<|message|>"
SLOW = f"@0.05 {FINAL}" + " word" * 400 + "<|return|>"
CANARY = "Xyzzy-canary"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def scripted() -> Iterator[EngineProcess]:
    """An engine that answers with what the user's message says."""
    with running(["tests.local_engine.scripted", "0"]) as engine:
        yield engine


@pytest.fixture
def client(scripted: EngineProcess) -> Iterator[OpenAI]:
    with sdk(scripted) as client:
        yield client


def sdk(engine: EngineProcess, secret: str = SECRET) -> OpenAI:
    """The SDK, without its retries."""
    return OpenAI(base_url=f"{engine.url}/v1", api_key=secret, max_retries=0)


def load(engine: EngineProcess) -> tuple[int, int]:
    """How many requests run and wait."""
    headers = {"authorization": f"Bearer {SECRET}"}
    found = httpx.get(f"{engine.url}/health", headers=headers).json()
    return found["running"], found["waiting"]


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition that must come true."""
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come true")


def test_the_demo_answers_as_gpt_oss_20b_and_says_what_it_is(demo: Path) -> None:
    with running(["local_engine", "serve", "--model", str(demo), "--port", "0"]) as engine:
        with sdk(engine) as client:
            (model,) = client.models.list().data
            user: Any = {"role": "user", "content": "What are you?"}
            greedy = client.chat.completions.create(model=model.id, messages=[user], temperature=0)
            stream = client.chat.completions.create(
                model=model.id,
                messages=[user],
                stream=True,
                seed=2,
            )
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            plain = client.chat.completions.create(model=model.id, messages=[user], seed=2)
        status = engine.end()

    assert engine.announcement.startswith("local_engine: gpt-oss-20b (douane-demo) on http://127.0.0.1:")
    assert (model.id, model.owned_by) == ("gpt-oss-20b", "douane-demo")
    assert greedy.system_fingerprint == "douane-demo"
    assert greedy.choices[0].message.content == (
        "I am a tiny demo model with the shape of gpt-oss. I was trained on made-up conversations."
    )
    assert greedy.choices[0].message.model_extra is not None
    assert greedy.choices[0].message.model_extra["reasoning"] == "This is about what I am."
    assert greedy.choices[0].finish_reason == "stop"
    assert streamed == plain.choices[0].message.content != ""
    assert (status, engine.printed) == (0, ["", ""])


def test_a_whole_tool_loop(client: OpenAI) -> None:
    call = (
        '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"place": "Bern"}<|call|>'
    )
    script = f"<|channel|>analysis<|message|>I look it up.<|end|><|start|>assistant{call}"
    messages: list[Any] = [{"role": "user", "content": script}]
    first = client.chat.completions.create(model="gpt-oss-20b", messages=messages, tools=[WEATHER])
    asked: Any = first.choices[0].message
    history: list[Any] = [
        *messages,
        asked.model_dump(include={"role", "content", "reasoning", "tool_calls"}),
        {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "sunny"},
        {"role": "user", "content": f"{FINAL}It is sunny.<|return|>"},
    ]
    second = client.chat.completions.create(model="gpt-oss-20b", messages=history, tools=[WEATHER])

    assert first.choices[0].finish_reason == "tool_calls"
    assert asked.tool_calls[0].function.name == "get_weather"
    assert json.loads(asked.tool_calls[0].function.arguments) == {"place": "Bern"}
    assert asked.reasoning == "I look it up."
    assert second.choices[0].message.content == "It is sunny."


def test_the_sdks_accumulating_stream_understands_ours(client: OpenAI) -> None:
    call = '<|channel|>commentary to=functions.get_weather json<|message|>{"place": "Bern"}<|call|>'
    with client.chat.completions.stream(
        model="gpt-oss-20b",
        messages=[{"role": "user", "content": call}],
        tools=[WEATHER],
    ) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].finish_reason == "tool_calls"
    (made,) = final.choices[0].message.tool_calls or []
    assert (made.function.name, made.function.arguments) == ("get_weather", '{"place": "Bern"}')


def test_stop_cuts_the_stream_without_leaking(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="gpt-oss-20b",
        messages=[{"role": "user", "content": f"{FINAL}one two STOP HERE three<|return|>"}],
        stop=[" STOP HERE"],
        stream=True,
    )
    chunks = [chunk.choices[0] for chunk in stream]

    assert [chunk.delta.content for chunk in chunks] == ["", "one", " two", None]
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_frees_the_engine(scripted: EngineProcess, streaming: bool) -> None:
    body = {
        "model": "gpt-oss-20b",
        "messages": [{"role": "user", "content": SLOW}],
        "stream": streaming,
    }
    data = json.dumps(body).encode()
    host, port = scripted.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer {SECRET}\r\n"
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        until(lambda: load(scripted) == (1, 0))

    until(lambda: load(scripted) == (0, 0))


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(scripted: EngineProcess) -> None:
    with sdk(scripted) as client:
        running_stream = client.chat.completions.create(
            model="gpt-oss-20b", messages=[{"role": "user", "content": SLOW}], stream=True
        )
        next(iter(running_stream))
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).chat.completions.create(
                model="gpt-oss-20b", messages=[{"role": "user", "content": SLOW}]
            )
        until(lambda: load(scripted) == (1, 0))
        running_stream.close()
    until(lambda: load(scripted) == (0, 0))


def test_a_full_queue_is_a_rate_limit_error_with_retry_after(scripted: EngineProcess, client: OpenAI) -> None:
    running_stream = client.chat.completions.create(
        model="gpt-oss-20b", messages=[{"role": "user", "content": SLOW}], stream=True
    )
    next(iter(running_stream))
    with pytest.raises(openai.RateLimitError) as refusal:
        fill_and_ask(scripted, client)
    running_stream.close()

    assert refusal.value.code == "engine_busy"
    assert int(refusal.value.response.headers["retry-after"]) >= 1
    until(lambda: load(scripted) == (0, 0))


def fill_and_ask(scripted: EngineProcess, client: OpenAI) -> None:
    """Fills the queue of two with raw connections, then asks once more."""
    data = json.dumps({"model": "gpt-oss-20b", "messages": [{"role": "user", "content": SLOW}]}).encode()
    host, port = scripted.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer {SECRET}\r\n"
    with (
        socket.create_connection((host, int(port))) as one,
        socket.create_connection((host, int(port))) as two,
    ):
        for connection in (one, two):
            connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        until(lambda: load(scripted) == (1, 2))
        client.chat.completions.create(model="gpt-oss-20b", messages=[{"role": "user", "content": SLOW}])


def test_without_the_secret_the_sdk_gets_nothing(scripted: EngineProcess) -> None:
    with sdk(scripted, "wrong") as client, pytest.raises(openai.AuthenticationError) as refusal:
        client.models.list()

    assert refusal.value.response.content == b""


def test_an_overflowing_prompt_is_a_bad_request_by_code(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(
            model="gpt-oss-20b", messages=[{"role": "user", "content": "word " * 5000}]
        )

    assert refusal.value.code == "context_length_exceeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_with_an_error_event_and_the_process_at_once(number: signal.Signals) -> None:
    with running(["tests.local_engine.scripted", "0"]) as engine:
        message = {"role": "user", "content": SLOW.replace(" word", f" {CANARY}", 1)}
        body = {"model": "gpt-oss-20b", "messages": [message], "stream": True}
        headers = {"authorization": f"Bearer {SECRET}"}
        with httpx.stream(
            "POST", f"{engine.url}/v1/chat/completions", json=body, headers=headers
        ) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            engine.process.send_signal(number)
            rest = [line for line in lines if line]
        status = engine.process.wait(timeout=30)
        out, err = engine.process.communicate(timeout=30)

    error = json.loads(rest[-1].removeprefix("data: "))["error"]
    assert error["code"] == "engine_stopping"
    assert "[DONE]" not in "".join(rest)
    assert (status, out, err) == (0, "", "")


def test_tls_is_served_with_the_given_certificate(demo: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    pem = str(tmp_path / "both.pem")
    arguments = [
        "local_engine",
        "serve",
        "--model",
        str(demo),
        "--port",
        "0",
        "--tls-cert",
        pem,
        "--tls-key",
        pem,
    ]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with running(arguments) as engine:
        response = httpx.get(
            f"{engine.url}/health", headers={"authorization": f"Bearer {SECRET}"}, verify=context
        )
        engine.end()

    assert engine.url.startswith("https://127.0.0.1:")
    assert response.json()["status"] == "ok"
