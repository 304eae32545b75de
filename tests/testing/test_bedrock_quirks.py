"""gpt-oss's own behaviour on Bedrock: one test for each line of the table of quirks."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest

from gateway.testing.bedrock import answers, quirks
from gateway.testing.bedrock.errors import AwsError
from gateway.testing.bedrock.model import Call
from gateway.testing.bedrock.quota import TokenQuota

MODEL_ID = "openai.gpt-oss-20b-1:0"
HELLO = [{"role": "user", "content": [{"text": "hello there"}]}]
TOOLS = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}]}


def call(model_id: str = MODEL_ID, **members: Any) -> Call:
    return Call("Converse", model_id, {"messages": HELLO, **members})


def refused(region: str = "eu-central-1", model_id: str = MODEL_ID, **members: Any) -> str | None:
    error = quirks.find_refusal(call(model_id, **members), quirks.served_models(region))
    assert error is None or (error.code, error.status) == ("ValidationException", 400)
    return error.message if error else None


def test_every_quirk_has_a_test_and_a_source() -> None:
    tests = {name for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)}
    assert {f"test_{name.replace('-', '_')}" for name in quirks.QUIRKS} <= tests
    assert all(quirk.behaviour and quirk.source for quirk in quirks.QUIRKS.values())


def test_an_ordinary_request_is_not_refused() -> None:
    assert refused(inferenceConfig={"maxTokens": 10, "temperature": 1, "topP": 1}, toolConfig=TOOLS) is None


@pytest.mark.parametrize("sequences", [[], ["x"]])
def test_stop_sequences_refused(sequences: list[str]) -> None:
    text = refused(inferenceConfig={"stopSequences": sequences})
    assert text == "This model doesn't support the stopSequences field. Remove stopSequences and try again."


def test_reasoning_refused_in_history() -> None:
    past = {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "hm"}}}]}
    text = refused(messages=[*HELLO, past, *HELLO])
    assert text is not None
    assert "doesn't support the reasoningContent.reasoningText field" in text


def test_unknown_additional_field_refused() -> None:
    text = refused(additionalModelRequestFields={"thinking": {}})
    assert text is not None
    assert text.startswith(
        "Failed to deserialize the JSON body into the target type: thinking: unknown field"
    )
    assert "`reasoning_effort`" in text


def test_reasoning_effort_is_a_plain_string() -> None:
    assert refused(additionalModelRequestFields={"reasoning_effort": "low"}) is None
    assert refused(additionalModelRequestFields={"reasoning_effort": {"effort": "low"}}) is not None
    minimal = refused(additionalModelRequestFields={"reasoning_effort": "minimal"})
    assert minimal is not None
    assert "`minimal`" in minimal  # refused, though its own list names it


def test_logit_bias_refused() -> None:
    assert refused(additionalModelRequestFields={"logit_bias": {"1": 5}}) is not None


@pytest.mark.parametrize("prefix", ["us.", "eu.", "apac.", "jp.", "au.", "global.", "us-gov."])
def test_profile_prefix_refused(prefix: str) -> None:
    assert refused("us-east-1", prefix + MODEL_ID) == "The provided model identifier is invalid."
    assert (refused("us-gov-west-1", prefix + MODEL_ID) is None) == (prefix == "us-gov.")


@pytest.mark.parametrize(
    "region", ["eu-west-3", "eu-central-2", "eu-south-2", "ca-central-1", "mars-north-1"]
)
def test_wrong_region_is_invalid_id(region: str) -> None:
    assert refused(region) == "The provided model identifier is invalid."
    assert refused("eu-west-2", "openai.gpt-oss-20b") == "The provided model identifier is invalid."


def test_tool_choice_accepted() -> None:
    choices: list[dict[str, Any]] = [{"any": {}}, {"tool": {"name": "f"}}]
    for choice in choices:
        assert refused(toolConfig={**TOOLS, "toolChoice": choice}) is None
        reply = answers.compose(call(toolConfig={**TOOLS, "toolChoice": choice}), "eu-central-1")
        assert [tool.name for tool in reply.tools] == ["f"]


def test_tools_in_history_need_tool_config() -> None:
    use = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "f", "input": {}}}]}
    result = {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"text": "r"}]}}]}
    text = refused(messages=[*HELLO, use, result])
    assert text == "The toolConfig field must be defined when using toolUse and toolResult content blocks."
    assert refused(messages=[*HELLO, use, result], toolConfig=TOOLS) is None


def test_user_and_assistant_alternate() -> None:
    assistant = {"role": "assistant", "content": [{"text": "hi"}]}
    assert "must start with a user message" in str(refused(messages=[assistant]))
    assert "must start with a user message" in str(refused(messages=[]))
    assert "must alternate" in str(refused(messages=[*HELLO, *HELLO]))
    assert refused(messages=[*HELLO, assistant, *HELLO]) is None


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_blank_text_refused(text: str) -> None:
    blank = refused(messages=[{"role": "user", "content": [{"text": "a"}, {"text": text}]}])
    assert blank == (
        "The text field in the ContentBlock object at messages.0.content.1 is blank. "
        "Add text to the text field, and try again."
    )
    assert "messages.0 is empty" in str(refused(messages=[{"role": "user", "content": []}]))


@pytest.mark.parametrize(("name", "value"), [("temperature", 1.5), ("topP", 1.1), ("maxTokens", 20_000)])
def test_values_over_their_ceiling_are_refused(name: str, value: float) -> None:
    assert f"inferenceConfig.{name}" in str(refused(inferenceConfig={name: value}))


def test_tokens_reserved_with_the_answer() -> None:
    now = [0.0]
    quota = TokenQuota(1000, lambda: now[0])
    booking = quota.reserve(900)
    with pytest.raises(AwsError, match="ThrottlingException: Too many tokens"):
        quota.reserve(200)
    quota.settle(booking, 100)  # what the call really used
    quota.reserve(900)
    now[0] = 60.0
    quota.reserve(1000)
    assert answers.max_tokens(call()) == 16_384  # unset reserves the model's maximum
    assert answers.max_tokens(call(inferenceConfig={"maxTokens": 5})) == 5


def test_reasoning_comes_first() -> None:
    reply = answers.compose(call(), "eu-central-1")
    body = answers.converse_body(reply, call(), 1)
    assert [next(iter(block)) for block in body["output"]["message"]["content"]] == [
        "reasoningContent",
        "text",
    ]


def test_no_start_for_text_blocks() -> None:
    reply = answers.compose(call(), "eu-central-1")
    names = [name for name, _ in answers.converse_events(reply, call(), 1)]
    assert "contentBlockStart" not in names
    assert names.count("contentBlockStop") == 2


def test_events_are_padded() -> None:
    reply = answers.compose(call(), "eu-central-1")
    events = list(answers.converse_events(reply, call(), 1))
    assert all(members["p"] and "abcdefghij".startswith(members["p"][:10]) for _, members in events)
    assert len({members["p"] for _, members in events}) > 3


def test_service_tier_echoed() -> None:
    tiered = call(serviceTier={"type": "flex"})
    reply = answers.compose(tiered, "eu-central-1")
    assert answers.converse_body(reply, tiered, 1)["serviceTier"] == {"type": "flex"}
    assert list(answers.converse_events(reply, tiered, 1))[-1][1]["serviceTier"] == {"type": "flex"}
    assert "serviceTier" not in answers.converse_body(reply, call(), 1)
