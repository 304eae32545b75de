"""Every OpenAI parameter is honoured, accepted where neutral, or refused by name, and nothing is quoted."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from openai.resources.chat.completions import Completions

from local_engine.errors import Refused
from local_engine.prompt import seen_of
from local_engine.replay import Seen, SeenCall
from local_engine.wire import (
    NEUTRAL,
    AssistantMessage,
    ChatRequest,
    FunctionDefinition,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedFunction,
    NamedToolChoice,
    TextFormat,
    ToolDefinition,
    parse_chat_request,
)

MINIMAL: dict[str, Any] = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f"}}
STRICT_TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
}
CANARY = "Xyzzy-canary"
WRONG_CHOICE = (
    "`tool_choice` must be `none`, `auto`, `required` or one function by name",
    "tool_choice",
    "unsupported_value",
)
WRONG_FORMAT = (
    "`response_format` must be of type `text`, `json_object` or `json_schema`",
    "response_format",
    "unsupported_value",
)
WRONG_ROLE = (
    "`messages[0].role` must be `system`, `developer`, `user`, `assistant` or `tool`",
    "messages[0].role",
    "unsupported_value",
)
BAD_BIAS_KEY = (
    "`logit_bias` is wrong: string should match pattern '^[0-9]{1,6}$'",
    "logit_bias",
    "invalid_value",
)


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


@pytest.mark.parametrize("store", [0, "false", {}])
def test_a_value_that_only_resembles_the_neutral_one_is_refused(store: object) -> None:
    assert refused(store=store)[2] == "unsupported_parameter"


def test_everything_honoured_is_read() -> None:
    request = parse(
        n=16,
        max_completion_tokens=5,
        max_tokens=5,
        temperature=0,
        top_p=1,
        top_k=-1,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.1,
        logit_bias={"5": 1, "201087": -100},
        seed=-3,
        stop=["a", ""],
        logprobs=True,
        top_logprobs=20,
        reasoning_effort="high",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        tools=[STRICT_TOOL],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}, "strict": False},
        },
    )

    assert (request.choices, request.stop_strings, request.wants_usage) == (16, ("a",), True)
    assert (request.top_k, request.min_p, request.repetition_penalty) == (-1, 0.1, 1.1)
    assert (request.presence_penalty, request.frequency_penalty) == (-2, 2)
    assert request.biases == ((5, 1.0), (201087, -100.0))
    assert request.tools == [
        ToolDefinition(
            type="function", function=FunctionDefinition(name="f", parameters={"type": "object"}, strict=True)
        )
    ]
    assert request.tool_choice == NamedToolChoice(type="function", function=NamedFunction(name="f"))
    assert isinstance(request.response_format, JsonSchemaFormat)
    assert request.response_format.json_schema.schema_ == {"type": "object"}
    assert isinstance(parse(response_format={"type": "json_object"}).response_format, JsonObjectFormat)
    assert isinstance(parse(response_format={"type": "text"}).response_format, TextFormat)
    assert parse(tools=[TOOL], tool_choice="required").tool_choice == "required"
    assert parse(stop="x").stop_strings == ("x",)
    assert (parse().stop_strings, parse().choices, parse().biases, parse().wants_usage) == ((), 1, (), False)


def schema(depth: int) -> dict[str, Any]:
    """A response format whose schema nests so deep."""
    nested: dict[str, Any] = {}
    for _ in range(depth):
        nested = {"items": nested}
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": nested}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"top_a": 5}, ("unknown parameter `top_a`: leave it out", "top_a", "unknown_parameter")),
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
            WRONG_ROLE,
        ),
        ({"messages": [{"content": "x"}]}, WRONG_ROLE),
        (
            {"messages": [CANARY]},
            ("`messages[0]` is wrong: input should be an object", "messages[0]", "invalid_value"),
        ),
        (
            {"tools": [CANARY]},
            ("`tools[0]` is wrong: input should be an object", "tools[0]", "invalid_value"),
        ),
        (
            {"logit_bias": [CANARY]},
            ("`logit_bias` is wrong: input should be an object", "logit_bias", "invalid_value"),
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
        ({"tools": [TOOL], "tool_choice": CANARY}, WRONG_CHOICE),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {CANARY: 1}}}, WRONG_CHOICE),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": CANARY}}},
            ("`tool_choice` names a function that is not in `tools`", "tool_choice", "invalid_value"),
        ),
        (
            {"tools": [TOOL, TOOL]},
            ("`tools` has two functions of one name", "tools", "invalid_value"),
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "auto"}}]},
            (
                "`tools` has a function whose name is a value of `tool_choice`: rename it",
                "tools",
                "invalid_value",
            ),
        ),
        ({"n": 17}, ("`n` is wrong: input should be less than or equal to 16", "n", "invalid_value")),
        ({"n": 1.5}, ("`n` is wrong: input should be a valid integer", "n", "invalid_value")),
        (
            {"presence_penalty": 2.1},
            (
                "`presence_penalty` is wrong: input should be less than or equal to 2",
                "presence_penalty",
                "invalid_value",
            ),
        ),
        (
            {"repetition_penalty": 0},
            (
                "`repetition_penalty` is wrong: input should be greater than 0",
                "repetition_penalty",
                "invalid_value",
            ),
        ),
        ({"logit_bias": {CANARY: 1}}, BAD_BIAS_KEY),
        ({"logit_bias": {"-1": 1}}, BAD_BIAS_KEY),
        (
            {"logit_bias": {"201088": 1}},
            ("`logit_bias` takes token ids below 201088", "logit_bias", "invalid_value"),
        ),
        (
            {"logit_bias": {"5": 1, "05": 1}},
            ("`logit_bias` names a token twice", "logit_bias", "invalid_value"),
        ),
        (
            {"logit_bias": {"5": -101}},
            (
                "`logit_bias` is wrong: input should be greater than or equal to -100",
                "logit_bias",
                "invalid_value",
            ),
        ),
        (
            {"logit_bias": {str(n): 1 for n in range(301)}},
            (
                "`logit_bias` is wrong: dictionary should have at most 300 items after validation, not more",
                "logit_bias",
                "invalid_value",
            ),
        ),
        ({"response_format": CANARY}, WRONG_FORMAT),
        ({"response_format": {"type": CANARY}}, WRONG_FORMAT),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": CANARY + " !"}}},
            (
                "`response_format.json_schema.name` is wrong: string should match pattern "
                "'^[A-Za-z0-9_-]{1,64}$'",
                "response_format.json_schema.name",
                "invalid_value",
            ),
        ),
        (
            {"response_format": {"type": "json_object", CANARY: 1}},
            (
                "`response_format` has a key that this engine does not know: remove it",
                "response_format",
                "invalid_request",
            ),
        ),
        (
            {"response_format": schema(70)},
            (
                "`response_format` nests deeper than 64 levels: flatten it",
                "response_format",
                "invalid_value",
            ),
        ),
        (
            {"messages": [{"role": "system", "content": "x", "name": CANARY}]},
            (
                "`messages[0].name` is not supported there: remove it",
                "messages[0].name",
                "unsupported_parameter",
            ),
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


def test_what_the_sdks_helpers_add_to_a_message_is_not_what_the_model_is_shown() -> None:
    function = {"name": "f", "arguments": "{}"}
    call = {"id": "a", "type": "function", "function": function}
    helped = call | {"index": 0, "function": function | {"parsed_arguments": {"x": CANARY}}}
    answer = {"role": "assistant", "content": "{}", "parsed": {"x": CANARY}, "tool_calls": [helped]}
    message = parse(messages=[answer]).messages[0]

    assert isinstance(message, AssistantMessage)
    assert seen_of(message) == Seen("{}", (SeenCall("a", "f", "{}"),))
    assert refused(messages=[answer | {"tool_calls": [call | {"index": CANARY}]}]) == (
        "`messages[0].tool_calls[0].index` is wrong: input should be a valid integer",
        "messages[0].tool_calls[0].index",
        "invalid_value",
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
