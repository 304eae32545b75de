"""The engine as users meet it: a process, spoken to with the `openai` SDK."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
import trustme
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.local_engine.process import EngineProcess, running
from tests.local_engine.scripted import SECRET

FINAL = "<|channel|>final<|message|>"
PLACES = 32
SLOW = f"@0.05 {FINAL}" + " word" * 400 + "<|return|>"
CANARY = "Xyzzy-canary"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


class Weather(BaseModel):
    """What the structured answer must be."""

    place: Literal["Bern", "Basel"]
    degrees: Literal[-1, 0, 1]


@pytest.fixture(scope="module")
def scripted() -> Iterator[EngineProcess]:
    """An engine that answers with what the user's message says; it has `PLACES` places for choices."""
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
    assert (status, engine.printed[0]) == (0, "")
    assert re.fullmatch(r"loaded [\d.]+ MiB in [\d.]+ s\n", engine.printed[1])


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

    assert "".join(chunk.delta.content or "" for chunk in chunks) == "one two"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]


def test_structured_outputs_parse_into_the_callers_type(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="gpt-oss-20b",
        messages=[{"role": "user", "content": f'{FINAL}{{"place":"Bern","degrees":1}}<|return|>'}],
        response_format=Weather,
    )
    forced = client.chat.completions.parse(
        model="gpt-oss-20b",
        messages=[{"role": "user", "content": f"{FINAL}I would rather chat.<|return|>"}],
        response_format=Weather,
    )

    assert answer.choices[0].message.parsed == Weather(place="Bern", degrees=1)
    assert isinstance(forced.choices[0].message.parsed, Weather)


# The SDK's own types do not fit together when it sends a parsed message.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_what_the_sdks_helpers_return_can_be_sent_back_as_it_is(client: OpenAI) -> None:
    header = "<|channel|>commentary to=functions.Weather <|constrain|>json<|message|>"
    call = f'{header}{{"place":"Bern","degrees":1}}<|call|>'
    json_answer = f'{FINAL}{{"place":"Bern","degrees":1}}<|return|>'
    tool = pydantic_function_tool(Weather)

    def asking(text: str) -> list[Any]:
        return [{"role": "user", "content": text}]

    called = client.chat.completions.parse(model="gpt-oss-20b", messages=asking(call), tools=[tool])
    parsed = client.chat.completions.parse(
        model="gpt-oss-20b", messages=asking(json_answer), response_format=Weather
    )
    with client.chat.completions.stream(model="gpt-oss-20b", messages=asking(call), tools=[tool]) as stream:
        streamed = stream.get_final_completion()
    history = asking("hi")
    for answer in (called, parsed, streamed):
        message: Any = answer.choices[0].message
        history.append(message)
        for one in message.tool_calls or []:
            history.append({"role": "tool", "tool_call_id": one.id, "content": "seen"})
    last = client.chat.completions.create(
        model="gpt-oss-20b", messages=[*history, *asking(f"{FINAL}ok<|return|>")], tools=[tool]
    )

    assert [message.parsed for message in history if hasattr(message, "parsed")] == [
        None,
        Weather(place="Bern", degrees=1),
        None,
    ]
    assert last.choices[0].message.content == "ok"


def test_several_choices_stream_side_by_side(client: OpenAI) -> None:
    script = f"{FINAL}one two<|return|>|||{FINAL}three<|return|>"
    said = {0: "", 1: ""}
    stream = client.chat.completions.create(
        model="gpt-oss-20b", messages=[{"role": "user", "content": script}], n=2, stream=True
    )
    for chunk in stream:
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert said == {0: "one two", 1: "three"}


def test_completions_models_and_refusals_by_name(client: OpenAI) -> None:
    completion = client.completions.create(model="gpt-oss-20b", prompt="one two<|return|>", max_tokens=8)
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model="gpt-oss-20b", prompt="x", suffix=CANARY)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")

    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("one two", "stop")
    assert client.models.retrieve("gpt-oss-20b").owned_by == "scripted"
    assert (refusal.value.param, refusal.value.code) == ("suffix", "unsupported_parameter")
    assert CANARY not in str(refusal.value)


async def test_as_many_at_once_as_there_are_places_each_get_their_own_answer(scripted: EngineProcess) -> None:
    async with AsyncOpenAI(base_url=f"{scripted.url}/v1", api_key=SECRET, max_retries=0) as client:

        async def ask(n: int) -> object:
            talk = f"{FINAL}answer {n} of {PLACES}<|return|>"
            call = (
                "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
                f'{{"place":"place {n}"}}<|call|>'
            )
            json_answer = f'{FINAL}{{"place":"Bern","degrees":{n % 3 - 1}}}<|return|>'
            message: Any = {"role": "user", "content": (talk, talk, call, json_answer)[n % 4]}
            if n % 4 == 0:
                stream = await client.chat.completions.create(
                    model="gpt-oss-20b", messages=[message], stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            if n % 4 == 3:
                parsed = await client.chat.completions.parse(
                    model="gpt-oss-20b", messages=[message], response_format=Weather
                )
                return parsed.choices[0].message.parsed
            with_tool: Any = {"tools": [WEATHER], "tool_choice": "required"} if n % 4 == 2 else {}
            plain: Any = await client.chat.completions.create(
                model="gpt-oss-20b", messages=[message], **with_tool
            )
            said = plain.choices[0].message
            return said.content if n % 4 == 1 else said.tool_calls[0].function.arguments

        answers = await asyncio.gather(*(ask(n) for n in range(PLACES)))

    for n, answer in enumerate(answers):
        talk = f"answer {n} of {PLACES}"
        called, filled_in = f'{{"place":"place {n}"}}', Weather(place="Bern", degrees=(-1, 0, 1)[n % 3])
        assert answer == (talk, talk, called, filled_in)[n % 4]
    until(lambda: load(scripted) == (0, 0))


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_frees_the_engine(scripted: EngineProcess, streaming: bool) -> None:
    with posted(scripted, SLOW, stream=streaming, n=4):
        until(lambda: load(scripted) == (4, 0))

    until(lambda: load(scripted) == (0, 0))


@contextmanager
def posted(engine: EngineProcess, script: str, **more: Any) -> Iterator[socket.socket]:
    """A chat request on a connection of its own, of whose answer nothing is read."""
    body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": script}], **more}
    data = json.dumps(body).encode()
    host, port = engine.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer {SECRET}\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        yield connection


def test_a_full_queue_refuses_with_retry_after_until_who_waits_goes_away(
    scripted: EngineProcess, client: OpenAI
) -> None:
    with posted(scripted, SLOW, n=16):
        until(lambda: load(scripted) == (8, 8))
        with posted(scripted, SLOW, n=16):
            until(lambda: load(scripted) == (8, 24))
            with pytest.raises(openai.RateLimitError) as refusal:
                client.chat.completions.create(
                    model="gpt-oss-20b", messages=[{"role": "user", "content": SLOW}]
                )
        until(lambda: load(scripted) == (8, 8))
    until(lambda: load(scripted) == (0, 0))

    assert refusal.value.code == "engine_busy"
    assert int(refusal.value.response.headers["retry-after"]) >= 1


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


def test_sigterm_drains_and_a_second_one_ends_at_once() -> None:
    short, long = f"@0.02 {FINAL}" + " word" * 30 + "<|return|>", SLOW.replace(" word", f" {CANARY}", 1)
    with running(["tests.local_engine.scripted", "0", "600"]) as engine, streamed(engine, long) as slow:
        with streamed(engine, short) as quick:
            engine.process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{engine.url}/health").status_code == 503)
            health = httpx.get(f"{engine.url}/health").json()
            with sdk(engine) as client, pytest.raises(openai.InternalServerError) as refusal:
                client.completions.create(model="gpt-oss-20b", prompt="x")
            finished = list(quick)
        engine.process.send_signal(signal.SIGTERM)
        cut = list(slow)
        out, err = engine.process.communicate(timeout=30)

    assert health == {"status": "stopping"}
    assert (refusal.value.status_code, refusal.value.code) == (503, "engine_stopping")
    assert int(refusal.value.response.headers["retry-after"]) >= 1
    assert finished[-1] == "data: [DONE]"
    assert json.loads(cut[-1].removeprefix("data: "))["error"]["code"] == "engine_stopping"
    assert "[DONE]" not in "".join(cut)
    assert (engine.process.returncode, out, err) == (0, "", "")


def test_what_has_not_ended_within_the_grace_time_ends_with_an_error_event() -> None:
    with running(["tests.local_engine.scripted", "0", "0.2"]) as engine:
        with streamed(engine, SLOW) as lines:
            engine.process.send_signal(signal.SIGINT)
            rest = list(lines)
        out, err = engine.process.communicate(timeout=30)

    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "engine_stopping"
    assert (engine.process.returncode, out, err) == (0, "", "")


@contextmanager
def streamed(engine: EngineProcess, script: str) -> Iterator[Iterator[str]]:
    """The lines of a streamed answer behind the first event, which has been read."""
    body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": script}], "stream": True}
    headers = {"authorization": f"Bearer {SECRET}"}
    url = f"{engine.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield (line for line in lines if line)


def test_a_lost_device_ends_the_process_with_a_status_of_its_own() -> None:
    with running(["tests.local_engine.scripted", "0"]) as engine:
        with sdk(engine) as client, pytest.raises(openai.InternalServerError) as fault:
            client.chat.completions.create(
                model="gpt-oss-20b", messages=[{"role": "user", "content": f"!lost {CANARY}"}]
            )
        out, err = engine.process.communicate(timeout=30)

    assert fault.value.status_code == 503
    assert (engine.process.returncode, out) == (4, "")
    assert err.endswith("error: the device is lost; start the engine anew\n")
    assert CANARY not in err


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
