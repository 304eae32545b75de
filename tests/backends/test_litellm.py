"""litellm: as a foreign client of the emulator, and as the backend of every other provider."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion

from gateway.backends.base import (
    BackendFault,
    Broken,
    Chunk,
    Misconfigured,
    Refused,
    ServerFault,
    Throttled,
    TimedOut,
    Unreachable,
    Usage,
)
from gateway.backends.litellm_backend import LiteLLMBackend, litellm_fault, load_litellm
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.server import Running
from gateway.testing.bedrock.signature import Keys
from tests.backends.support import MODEL, RUNTIME_ID, attempt, chat, place, tool
from tests.backends.upstream import DONE, USAGE, answering, chunk, completion, event, running, streaming

TEXT = "[emulated Bedrock, eu-central-1, no model] You said: hello there"
REASONING = "The user wrote 11 characters. No model is at work here."
OTHER = place("litellm", "other", models={MODEL: "openai/some-model"}, operator="other")


@pytest.fixture(autouse=True)
async def closed_clients() -> AsyncIterator[None]:
    """litellm keeps its HTTP clients per event loop; each test has a loop of its own."""
    yield
    litellm = load_litellm()
    for client in list(litellm.in_memory_llm_clients_cache.cache_dict.values()):
        close = getattr(client, "aclose", None) or getattr(client, "close", None)
        if close is not None and asyncio.iscoroutinefunction(close):
            await close()
    litellm.in_memory_llm_clients_cache.flush_cache()


def aws(url: str) -> dict[str, Any]:
    keys = Keys()
    return {
        "model": f"bedrock/{RUNTIME_ID}",
        "aws_bedrock_runtime_endpoint": url,
        "aws_region_name": "eu-central-1",
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "num_retries": 0,
    }


async def test_litellm_accepts_the_emulators_converse_and_its_stream(frankfurt: Running) -> None:
    litellm = load_litellm()
    messages = [{"role": "user", "content": "hello there"}]
    answer = await litellm.acompletion(messages=messages, max_tokens=99, **aws(frankfurt.url))
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].message.reasoning_content == REASONING
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 20)

    stream = await litellm.acompletion(messages=messages, max_tokens=99, stream=True, **aws(frankfurt.url))
    deltas = [part.choices[0].delta async for part in stream]
    assert "".join(delta.content or "" for delta in deltas) == TEXT
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == REASONING
    assert [one.operation for one in frankfurt.emulator.ledger.requests] == ["Converse", "ConverseStream"]
    assert {one.status for one in frankfurt.emulator.ledger.requests} == {200}


async def test_litellm_reads_the_emulators_errors(frankfurt: Running) -> None:
    litellm = load_litellm()
    frankfurt.emulator.faults.add(Fault(kind="error", code="ThrottlingException"))
    messages = [{"role": "user", "content": "hello there"}]
    with pytest.raises(litellm.exceptions.RateLimitError):
        await litellm.acompletion(messages=messages, **aws(frankfurt.url))
    # `stop` is in litellm's list for gpt-oss; Bedrock, and so the emulator, refuses it.
    with pytest.raises(litellm.exceptions.BadRequestError, match="stopSequences"):
        await litellm.acompletion(messages=messages, stop=["x"], **aws(frankfurt.url))


async def test_the_backend_answers_through_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = answering(200, completion({"content": "hi", "reasoning_content": "hm"}))
    async with running(handler) as upstream:
        backend = LiteLLMBackend(OTHER, api_key="key", api_base=f"{upstream.url}/v1")
        answer = await backend.complete(attempt(OTHER), chat("hi", temperature=0.5), "r1")
    assert upstream.bodies == [
        {"messages": [{"role": "user", "content": "hi"}], "model": "some-model", "temperature": 0.5}
    ]
    assert upstream.headers[0]["authorization"] == "Bearer key"
    assert answer.usage == Usage(5, 3)
    parsed = ChatCompletion.model_validate(answer.body)
    assert (parsed.id, parsed.model, parsed.choices[0].message.content) == ("chatcmpl-r1", MODEL, "hi")
    assert answer.body["choices"][0]["message"]["reasoning"] == "hm"


async def collected(backend: LiteLLMBackend) -> list[Chunk]:
    stream = await backend.stream(attempt(backend.place), chat("hi", stream=True), "r1")
    return [one async for batch in stream for one in batch]


async def test_the_backend_streams_through_litellm() -> None:
    parts = [event(chunk({"role": "assistant", "content": "a"})), event(chunk({"content": "b"}))]
    end = [event(chunk({}, "stop")), event(chunk(None, usage=USAGE)), DONE]
    async with running(streaming(*parts, *end)) as upstream:
        chunks = await collected(LiteLLMBackend(OTHER, api_key="key", api_base=f"{upstream.url}/v1"))
    choices = [choice for one in chunks for choice in orjson.loads(one.data)["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "ab"
    assert [one.finish_reason for one in chunks if one.finish_reason] == ["stop"]
    assert chunks[-1].usage == Usage(5, 3)
    assert {orjson.loads(one.data)["id"] for one in chunks} == {"chatcmpl-r1"}


async def test_errors_of_a_provider_become_faults_without_their_text() -> None:
    for status, body, kind in (
        (429, {"error": {"message": "canary"}}, Throttled),
        (401, {"error": {"message": "canary"}}, Misconfigured),
        (400, {"error": {"message": "canary", "code": "x"}}, Refused),
        (500, {"error": {"message": "canary"}}, ServerFault),
    ):
        async with running(answering(status, body)) as upstream:
            backend = LiteLLMBackend(OTHER, api_key="key", api_base=f"{upstream.url}/v1")
            with pytest.raises(BackendFault) as caught:
                await backend.complete(attempt(OTHER), chat("hi"), "r1")
            assert type(caught.value) is kind, status
            assert "canary" not in str(caught.value)
            assert len(upstream.paths) == 1  # litellm retries nothing
            with pytest.raises(kind):
                await collected(backend)


def made_error(*names: str, status: int | None = None) -> Exception:
    kind: type[Exception] = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {})
    error = kind("canary")
    error.status_code = status  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("names", "status", "kind"),
    [
        (("ContextWindowExceededError", "BadRequestError"), 400, Refused),
        (("ContentPolicyViolationError", "BadRequestError"), 400, Refused),
        (("UnsupportedParamsError", "BadRequestError"), 400, Refused),
        (("BadRequestError",), 424, ServerFault),
        (("AuthenticationError",), 401, Misconfigured),
        (("PermissionDeniedError",), 403, Misconfigured),
        (("NotFoundError",), 404, Misconfigured),
        (("RateLimitError",), 429, Throttled),
        (("Timeout",), 408, TimedOut),
        (("APIConnectionError",), 500, Unreachable),
        (("ServiceUnavailableError",), 503, ServerFault),
        (("SomethingNew",), None, ServerFault),
    ],
)
def test_litellms_errors_are_read_by_name_and_status(
    names: tuple[str, ...], status: int | None, kind: type[BackendFault]
) -> None:
    upstream = LiteLLMBackend(OTHER)._upstream
    fault = litellm_fault(made_error(*names, status=status), "other", upstream)
    assert type(fault) is kind
    assert "canary" not in str(fault)


async def test_a_stream_that_litellm_ends_without_usage_is_broken() -> None:
    async with running(streaming(event(chunk({"content": "a"})), cut=True)) as upstream:
        backend = LiteLLMBackend(OTHER, api_key="key", api_base=f"{upstream.url}/v1")
        with pytest.raises((Broken, ServerFault, Unreachable)):
            await collected(backend)


def test_parameters_that_litellm_would_drop_are_named() -> None:
    bedrock = LiteLLMBackend(place("litellm", "b", models={MODEL: f"bedrock/{RUNTIME_ID}"}))
    assert bedrock.unsupported(chat("hi", temperature=0.5, tools=[tool("f")])) == ()
    assert bedrock.unsupported(chat("hi", seed=1, frequency_penalty=1)) == ("frequency_penalty", "seed")


def test_a_model_without_a_provider_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="write `provider/model`"):
        LiteLLMBackend(place("litellm", "nobody", models={MODEL: "no-such-provider-of-anything"}))


def test_plain_http_beyond_loopback_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="must be an https URL"):
        LiteLLMBackend(OTHER, api_base="http://provider.example/v1")


def test_litellm_is_told_to_keep_to_itself() -> None:
    litellm = load_litellm()
    assert (litellm.telemetry, litellm.drop_params, litellm.turn_off_message_logging) == (False, False, True)
    assert (litellm.success_callback, litellm.failure_callback, litellm.callbacks) == ([], [], [])


@pytest.mark.parametrize("model", ["openai/m", "mistral/m", "anthropic/claude-3-haiku-20240307"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_redirect_is_never_followed_whatever_client_litellm_takes(model: str, streamed: bool) -> None:
    there = place("litellm", "other", models={MODEL: model}, operator="other")
    async with running(answering(200, completion({"content": "hi"}))) as elsewhere:
        to = f"{elsewhere.url}/v1/chat/completions"
        async with running(answering(307, b"", Location=to)) as upstream:
            backend = LiteLLMBackend(there, api_key="key", api_base=f"{upstream.url}/v1")
            with pytest.raises(Misconfigured, match="`other`: a redirect 307 is never followed"):
                await (collected(backend) if streamed else backend.complete(attempt(there), chat("hi"), "r1"))
    assert len(upstream.paths) == 1
    assert elsewhere.paths == []


async def test_a_provider_whose_client_goes_its_own_way_is_refused_before_it_connects() -> None:
    there = place("litellm", "other", models={MODEL: "replicate/owner/model"}, operator="other")
    backend = LiteLLMBackend(there, api_key="key", api_base="http://127.0.0.1:9/v1")
    with pytest.raises(Misconfigured, match="`other`: `api.replicate.com` is no host of this place"):
        await backend.complete(attempt(there), chat("hi"), "r1")


def test_litellm_fetches_none_of_its_lists() -> None:
    load_litellm()
    for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "HF_HUB_OFFLINE"):
        assert os.environ[name] == "True"
