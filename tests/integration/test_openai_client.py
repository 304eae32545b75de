"""The `openai` package works against the gateway, unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, ConfigDict, Field

from tests.integration.bundle import DEMO, GLOBEX
from tests.integration.gateway_process import GatewayProcess
from tests.integration.regions import Regions

MESSAGES: Any = [{"role": "user", "content": "Bonjour"}]
DEMO_WORDS = "demo"


def client(gateway: GatewayProcess, key: str = DEMO) -> OpenAI:
    return OpenAI(
        base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, http_client=httpx.Client(trust_env=False)
    )


@pytest.fixture
def sdk(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with client(gateway) as opened:
        yield opened


def test_a_plain_answer_has_everything_that_the_package_reads(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model="gpt-oss-20b", messages=MESSAGES, temperature=0, max_tokens=60)

    assert answer.object == "chat.completion"
    assert answer.model == "gpt-oss-20b"
    assert answer.id.startswith("chatcmpl-req_")
    assert DEMO_WORDS in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_streamed_answer_says_the_same_as_a_plain_one(sdk: OpenAI) -> None:
    plain = sdk.chat.completions.create(model="gpt-oss-20b", messages=MESSAGES, temperature=0, seed=1)
    chunks = list(
        sdk.chat.completions.create(
            model="gpt-oss-20b", messages=MESSAGES, temperature=0, seed=2, stream=True
        )
    )

    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    )
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_with_the_last_chunk_when_it_is_asked_for(sdk: OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="gpt-oss-20b", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )

    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    last: Any = chunks[-1].usage
    assert last.completion_tokens > 0


def test_a_history_with_tool_calls_and_reasoning_is_taken(sdk: OpenAI, regions: Regions) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Bonn"}'},
    }
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "weather in Bonn?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "look it up"},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "user", "content": "and tomorrow?"},
    ]
    tools: Any = [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
        }
    ]

    answer = sdk.chat.completions.create(model="gpt-oss-20b", messages=messages, tools=tools, max_tokens=40)

    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert regions.received() == {}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_would_be_stored_is_refused_by_name(
    sdk: OpenAI, regions: Regions, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(
            model="gpt-oss-20b", messages=MESSAGES, store=True, metadata={"topic": "x"}, stream=stream
        )

    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "store")
    said: Any = refused.value.body
    assert said["message"] == (
        "`store` may not be true: no answer is kept to be fetched later; leave it out or send false"
    )
    assert regions.received() == {}


def test_a_tenants_own_note_about_storing_is_not_a_wish_to_store(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="gpt-oss-20b", messages=MESSAGES, metadata={"store": "true"}, store=False, max_tokens=20
    )

    assert answer.choices[0].finish_reason in ("stop", "length")


def test_the_models_are_those_that_this_caller_may_use(gateway: GatewayProcess, sdk: OpenAI) -> None:
    with client(gateway, GLOBEX) as globex:
        assert [model.id for model in globex.models.list()] == ["gpt-oss-20b"]
    listed = {
        model.id: model.model_extra["douane"]["places"] for model in sdk.models.list() if model.model_extra
    }

    assert set(listed) == {"gpt-oss-120b", "gpt-oss-20b"}
    assert "local-engine" in listed["gpt-oss-20b"]
    assert "local-engine" not in listed["gpt-oss-120b"]  # the engine runs the small one


@pytest.mark.parametrize(
    ("fields", "headers", "kind", "code"),
    [
        ({"model": "gpt-5"}, {}, openai.NotFoundError, "model_not_found"),
        ({}, {"Authorization": "Bearer nobody"}, openai.AuthenticationError, "invalid_api_key"),
        ({"temperature": 3}, {}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"tempratur": 1}}, {}, openai.BadRequestError, "unknown_parameter"),
        ({"functions": [{"name": "f"}]}, {}, openai.BadRequestError, "unsupported_parameter"),
        ({}, {"x-douane-labels": "sekret"}, openai.BadRequestError, "unknown_label"),
    ],
)
def test_an_error_becomes_the_packages_own_class(
    sdk: OpenAI,
    fields: dict[str, Any],
    headers: dict[str, str],
    kind: type[openai.APIStatusError],
    code: str,
) -> None:
    asked: Any = {"model": "gpt-oss-20b", "messages": MESSAGES, "extra_headers": headers, **fields}
    with pytest.raises(kind) as raised:
        sdk.chat.completions.create(**asked)

    assert raised.value.code == code
    assert raised.value.request_id is not None
    assert raised.value.request_id.startswith("req_")


class Duty(BaseModel):
    """What a client wants to know of a good."""

    model_config = ConfigDict(extra="forbid")

    good: Literal["wine", "cheese", "cloth"]
    percent: int = Field(ge=0, le=99)
    free: bool


def test_a_pydantic_model_comes_back_filled_in(gateway: GatewayProcess, sdk: OpenAI) -> None:
    answer = sdk.chat.completions.parse(
        model="gpt-oss-20b",
        messages=[{"role": "user", "content": "What is the duty on wine?"}],
        response_format=Duty,
        max_completion_tokens=400,
        seed=1,
    )

    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Duty)
    assert answer.system_fingerprint == "douane-demo"


def test_a_named_tool_is_called_with_arguments_that_fit(sdk: OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {
                "type": "object",
                "properties": {"good": {"enum": ["wine", "cheese"]}},
                "required": ["good"],
                "additionalProperties": False,
            },
        },
    }
    answer = sdk.chat.completions.create(
        model="gpt-oss-20b",
        messages=[{"role": "user", "content": "What is the duty on wine?"}],
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
        parallel_tool_calls=False,
        max_completion_tokens=400,
        seed=1,
    )

    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "look_up"
    assert json.loads(call.function.arguments)["good"] in ("wine", "cheese")
