"""Every OpenAI parameter is honoured, accepted where neutral, or refused by name, and nothing is quoted."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from openai.resources.chat.completions import Completions

from local_engine.errors import Refused
from local_engine.wire import NEUTRAL, AssistantMessage, ChatRequest, parse_chat_request

MINIMAL: dict[str, Any] = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f"}}
CANARY = "Xyzzy-canary"


def parse(**changes: Any) -> ChatRequest:
    """A minimal request with changes, through the whole parser."""
    return parse_chat_request(json.dumps(MINIMAL | changes).encode())


def refused(**changes: Any) -> tuple[str, str | None, str]:
    """Message, param and code of the refusal."""
    with pytest.raises(Refused) as refusal:
        parse(**changes)
    assert refusal.value.status == 400
    return str(refusal.value), refusal.value.param, refusal.value.code


def test_every_parameter_the_sdk_knows_is_known_here() -> None:
    own = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    known = inspect.signature(Completions.create).parameters.keys() - own

    assert known <= ChatRequest.model_fields.keys() | NEUTRAL.keys()
    assert not ChatRequest.model_fields.keys() & NEUTRAL.keys()


REFUSED_VALUES: dict[str, Any] = {
    "n": 2,
    "frequency_penalty": 0.1,
    "presence_penalty": -1,
    "logit_bias": {"5": 1},
    "response_format": {"type": "json_object"},
    "store": True,
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "service_tier": "priority",
    "verbosity": "low",
    "audio": {"voice": "x"},
    "function_call": "auto",
    "functions": [],
    "moderation": {},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "user": "u",
    "web_search_options": {},
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_is_not_implemented_is_refused_by_name_and_accepted_where_it_changes_nothing(name: str) -> None:
    for neutral in (*NEUTRAL[name], None):
        assert parse(**{name: neutral}) == parse()

    assert refused(**{name: REFUSED_VALUES[name]}) == (
        f"`{name}` is not supported by this engine: leave it out",
        name,
        "unsupported_parameter",
    )


@pytest.mark.parametrize("n", [True, "1", 1.5])
def test_a_value_that_only_resembles_the_neutral_one_is_refused(n: object) -> None:
    assert refused(n=n)[2] == "unsupported_parameter"


def test_everything_honoured_is_read() -> None:
    request = parse(
        max_completion_tokens=5,
        max_tokens=5,
        temperature=0,
        top_p=1,
        seed=-3,
        stop=["a", ""],
        logprobs=True,
        top_logprobs=20,
        reasoning_effort="high",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        tools=[TOOL],
        tool_choice="auto",
        parallel_tool_calls=False,
    )

    assert request.stop_strings == ("a",)
    assert request.tools is not None
    assert request.tools[0].function.name == "f"
    assert request.stream_options is not None
    assert request.stream_options.include_usage
    assert parse(stop="x").stop_strings == ("x",)
    assert parse().stop_strings == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"top_k": 5}, ("unknown parameter `top_k`: leave it out", "top_k", "unknown_parameter")),
        (
            {f"{CANARY} \n": 5},
            ("the body has an unknown parameter: leave it out", None, "unknown_parameter"),
        ),
        ({"model": None}, ("`model` is missing", "model", "missing_parameter")),
        ({"messages": None}, ("`messages` is missing", "messages", "missing_parameter")),
        (
            {"messages": []},
            (
                "`messages` is wrong: list should have at least 1 item after validation, not 0",
                "messages",
                "invalid_value",
            ),
        ),
        (
            {"messages": CANARY},
            ("`messages` is wrong: input should be a valid list", "messages", "invalid_value"),
        ),
        (
            {"messages": [{"role": CANARY, "content": "x"}]},
            ("`messages[0]` is wrong: not one of the values allowed here", "messages[0]", "invalid_value"),
        ),
        (
            {"messages": [{"role": "user", "content": "x", CANARY: 1}]},
            (
                "`messages[0]` has a key that this engine does not know: remove it",
                "messages[0]",
                "invalid_request",
            ),
        ),
        (
            {"messages": [{"role": "user"}]},
            ("`messages[0].content` is missing", "messages[0].content", "missing_parameter"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": CANARY}}]}
                ]
            },
            (
                "`messages[0].content[0].type` must be `text`",
                "messages[0].content[0].type",
                "unsupported_value",
            ),
        ),
        (
            {"messages": [{"role": "user", "content": 3}]},
            (
                "`messages[0].content` is wrong: input should be a valid string",
                "messages[0].content",
                "invalid_value",
            ),
        ),
        (
            {"temperature": 2.5},
            (
                "`temperature` is wrong: input should be less than or equal to 2",
                "temperature",
                "invalid_value",
            ),
        ),
        (
            {"temperature": CANARY},
            ("`temperature` is wrong: input should be a valid number", "temperature", "invalid_value"),
        ),
        (
            {"max_tokens": True},
            ("`max_tokens` is wrong: input should be a valid integer", "max_tokens", "invalid_value"),
        ),
        (
            {"max_completion_tokens": 0},
            (
                "`max_completion_tokens` is wrong: input should be greater than or equal to 1",
                "max_completion_tokens",
                "invalid_value",
            ),
        ),
        (
            {"max_tokens": 1, "max_completion_tokens": 2},
            (
                "`max_tokens` and `max_completion_tokens` differ: give only `max_completion_tokens`",
                "max_tokens",
                "invalid_value",
            ),
        ),
        (
            {"top_logprobs": 2},
            ("`top_logprobs` needs `logprobs` to be true", "top_logprobs", "invalid_value"),
        ),
        (
            {"stream_options": {}},
            ("`stream_options` needs `stream` to be true", "stream_options", "invalid_value"),
        ),
        ({"stop": ["a"] * 5}, ("`stop` takes at most 4 strings", "stop", "invalid_value")),
        (
            {"tools": [TOOL], "tool_choice": "required"},
            ("`tool_choice` is supported as `none` or `auto` only", "tool_choice", "unsupported_value"),
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": CANARY}}},
            ("`tool_choice` is supported as `none` or `auto` only", "tool_choice", "unsupported_value"),
        ),
        ({"tool_choice": "auto"}, ("`tool_choice` needs `tools`", "tool_choice", "invalid_value")),
        (
            {"parallel_tool_calls": True},
            ("`parallel_tool_calls` needs `tools`", "parallel_tool_calls", "invalid_value"),
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": CANARY}}]},
            ("`tools[0].type` must be `function`", "tools[0].type", "unsupported_value"),
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            (
                "`tools[0].function.strict` is not supported: this engine does not enforce "
                "schemas; leave it out",
                "tools[0].function.strict",
                "unsupported_parameter",
            ),
        ),
        (
            {"tools": [{"type": "function", "function": {"name": f"{CANARY} !"}}]},
            (
                "`tools[0].function.name` is wrong: string should match pattern '^[A-Za-z0-9_-]{1,64}$'",
                "tools[0].function.name",
                "invalid_value",
            ),
        ),
        (
            {"reasoning_effort": "minimal"},
            ("`reasoning_effort` must be `low`, `medium` or `high`", "reasoning_effort", "unsupported_value"),
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    found = refused(**changes)

    assert found == expected
    assert CANARY not in "".join(str(part) for part in found)


def test_what_the_sdk_dumps_can_be_sent_back_whole() -> None:
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": "hi",
        "reasoning": "hm",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }

    assert parse(messages=[answer]).messages == [
        AssistantMessage(role="assistant", content="hi", reasoning="hm", annotations=[])
    ]
    assert refused(messages=[answer | {"refusal": CANARY}])[0] == (
        "`messages[0]` has a key that this engine does not know: remove it"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "' + CANARY.encode(),
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seed": NaN}',
        b"[1]",
        b'"x"',
    ],
    ids=["empty", "open", "cut", "no utf-8", "deep", "nan", "a list", "a string"],
)
def test_a_body_that_is_no_json_object_is_refused_without_quoting_it(body: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        parse_chat_request(body)

    assert refusal.value.code == "invalid_json"
    assert CANARY not in str(refusal.value)
