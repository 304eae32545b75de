"""How a chat request becomes a Converse request, field by field, and what is named as unsupported."""

from __future__ import annotations

from typing import Any

import botocore.session
import botocore.validate
import pytest

from gateway.backends.converse import MAX_TOKENS_DEFAULT, converse_request, tool_use_id, unsupported
from gateway.openai import GATEWAY_ONLY, ChatRequest
from gateway.testing.bedrock.model import Call
from gateway.testing.bedrock.quirks import find_refusal, served_models
from tests.backends.support import RUNTIME_ID, chat, tool

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
HI = {"role": "user", "content": "hi"}


def request(**fields: Any) -> dict[str, Any]:
    return converse_request(chat("hi", **fields))


def test_the_smallest_request_holds_the_messages_and_a_bound() -> None:
    assert request() == {
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "inferenceConfig": {"maxTokens": MAX_TOKENS_DEFAULT},
    }


@pytest.mark.parametrize(
    ("fields", "part", "expected"),
    [
        ({"max_tokens": 7}, "inferenceConfig", {"maxTokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 9}, "inferenceConfig", {"maxTokens": 9}),
        (
            {"temperature": 0, "top_p": 0.5},
            "inferenceConfig",
            {"maxTokens": MAX_TOKENS_DEFAULT, "temperature": 0.0, "topP": 0.5},
        ),
        ({"reasoning_effort": "high"}, "additionalModelRequestFields", {"reasoning_effort": "high"}),
        (
            {"seed": 5, "presence_penalty": 1, "frequency_penalty": -1, "parallel_tool_calls": False},
            "additionalModelRequestFields",
            {"seed": 5, "presence_penalty": 1, "frequency_penalty": -1, "parallel_tool_calls": False},
        ),
        ({"seed": None}, "additionalModelRequestFields", None),
        ({"tools": [tool("f")], "tool_choice": "none"}, "toolConfig", None),
        (
            {"stop": None, "user": "u", "metadata": {"k": "v"}, "store": False},
            "additionalModelRequestFields",
            None,
        ),
    ],
)
def test_each_parameter_goes_where_converse_has_it(fields: dict[str, Any], part: str, expected: Any) -> None:
    assert request(**fields).get(part) == expected


def test_tools_keep_their_schema_description_and_choice() -> None:
    bare = {"type": "function", "function": {"name": "bare"}}
    strict = {"type": "function", "function": {"name": "s", "parameters": {"type": "object"}, "strict": True}}
    for choice, expected in (
        ("auto", {"toolChoice": {"auto": {}}}),
        ("required", {"toolChoice": {"any": {}}}),
        ({"type": "function", "function": {"name": "bare"}}, {"toolChoice": {"tool": {"name": "bare"}}}),
        (None, {}),
    ):
        assert request(tools=[tool("f", a={"type": "string"}), bare, strict], tool_choice=choice)[
            "toolConfig"
        ] == {
            "tools": [
                {
                    "toolSpec": {
                        "name": "f",
                        "description": "does f",
                        "inputSchema": {
                            "json": {
                                "type": "object",
                                "properties": {"a": {"type": "string"}},
                                "required": ["a"],
                            }
                        },
                    }
                },
                {"toolSpec": {"name": "bare", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
                {"toolSpec": {"name": "s", "inputSchema": {"json": {"type": "object"}}, "strict": True}},
            ],
            **expected,
        }


def test_a_long_conversation_keeps_its_order_and_loses_only_past_reasoning() -> None:
    messages = [
        {"role": "system", "content": "one"},
        HI,
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "so", "reasoning": "thoughts", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "r1"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "r2"}]},
        {"role": "assistant", "content": None, "reasoning": "only thoughts"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": "d"},
    ]
    body = request(messages=messages, tools=[tool("f")])
    assert body["system"] == [{"text": "one"}, {"text": "two"}]
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "hi"}, {"text": "a"}, {"text": "b"}]},
        {
            "role": "assistant",
            "content": [{"text": "so"}, {"toolUse": {"toolUseId": "call_1", "name": "f", "input": {"a": 1}}}],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": "r1"}]}},
                {"toolResult": {"toolUseId": "call_2", "content": [{"text": "r2"}]}},
                {"text": "c"},
            ],
        },
        {"role": "assistant", "content": [{"text": "no"}]},
        {"role": "user", "content": [{"text": "d"}]},
    ]


@pytest.mark.parametrize("call_id", ["x" * 65, "with space", "ü"])
def test_a_call_id_that_bedrock_does_not_allow_becomes_a_stable_digest(call_id: str) -> None:
    replaced = tool_use_id(call_id)
    assert replaced == tool_use_id(call_id)
    assert replaced.startswith("call_")
    assert len(replaced) <= 64
    assert tool_use_id("call_1") == "call_1"


PAST_CALL = [
    HI,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "r"},
]
UNSUPPORTED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ()),
    ({"stop": "x"}, ("stop",)),
    ({"stop": ["x"]}, ("stop",)),
    ({"stop": []}, ()),
    ({"logprobs": True, "top_logprobs": 2}, ("logprobs", "top_logprobs")),
    ({"logprobs": False}, ()),
    ({"logit_bias": {"1": 2}}, ("logit_bias",)),
    ({"logit_bias": {}}, ()),
    ({"response_format": {"type": "text"}}, ()),
    ({"response_format": {"type": "json_object"}}, ("response_format",)),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        ("response_format",),
    ),
    ({"temperature": 1}, ()),
    ({"temperature": 1.2}, ("temperature",)),
    ({"max_tokens": 16_384}, ()),
    ({"max_tokens": 16_385}, ("max_tokens",)),
    ({"max_completion_tokens": 20_000}, ("max_completion_tokens",)),
    ({"messages": [{"role": "assistant", "content": "x"}, HI]}, ("messages",)),
    ({"messages": [{"role": "system", "content": "x"}]}, ("messages",)),
    ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, ("messages[0].name",)),
    ({"messages": PAST_CALL}, ("tools",)),
    ({"messages": PAST_CALL, "tools": [tool("f")]}, ()),
    ({"messages": PAST_CALL, "tools": [tool("f")], "tool_choice": "none"}, ("tool_choice",)),
    (
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "not json"}}],
                },
            ],
            "tools": [tool("f")],
        },
        ("messages[1].tool_calls[0].function.arguments",),
    ),
    ({"n": 1, "user": "u", "service_tier": "auto", "seed": 1, "parallel_tool_calls": True}, ()),
]


@pytest.mark.parametrize(("fields", "expected"), UNSUPPORTED)
def test_what_cannot_be_honoured_is_named(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert unsupported(chat("hi", **fields)) == expected


SUPPORTED = [fields for fields, expected in UNSUPPORTED if not expected]


@pytest.mark.parametrize("fields", SUPPORTED)
def test_whatever_is_supported_passes_the_service_model_and_the_quirks(fields: dict[str, Any]) -> None:
    body = request(**fields)
    service = botocore.session.Session().get_service_model("bedrock-runtime")
    report = botocore.validate.ParamValidator().validate(
        {**body, "modelId": RUNTIME_ID}, service.operation_model("Converse").input_shape
    )
    assert report.generate_report() == ""
    assert find_refusal(Call("Converse", RUNTIME_ID, body), served_models("eu-central-1")) is None


def test_every_parameter_of_the_api_is_sent_named_or_the_gateways_own() -> None:
    sent = {
        "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "reasoning_effort", "seed",
        "presence_penalty", "frequency_penalty", "parallel_tool_calls", "tools", "tool_choice",
    }  # fmt: skip
    named = {"stop", "logprobs", "top_logprobs", "logit_bias", "response_format"}
    only_one_value = {"n"}
    assert ChatRequest.model_fields.keys() == sent | named | only_one_value | GATEWAY_ONLY
