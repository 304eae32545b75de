"""OpenAI's messages become the harmony conversation that the model was trained on."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from local_engine.errors import Refused
from local_engine.harmony.conversation import FunctionTool, Message, developer_message, system_message
from local_engine.prompt import conversation_of
from local_engine.wire import parse_chat_request

TODAY = date(2026, 2, 3)
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "does f", "parameters": {"type": "object"}},
}
FUNCTION = FunctionTool("f", "does f", {"type": "object"})


def conversation(messages: list[dict[str, Any]], **more: Any) -> list[Message]:
    """The conversation of a request with these messages."""
    body = json.dumps({"model": "m", "messages": messages, **more}).encode()
    return conversation_of(parse_chat_request(body), TODAY)


def test_instructions_at_the_head_become_one_developer_message_and_later_ones_stay_in_place() -> None:
    built = conversation(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}],
            },
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "system", "content": "Now rhyme."},
        ],
        reasoning_effort="low",
    )

    assert built == [
        system_message("low", TODAY, False),
        Message("developer", "# Instructions\n\nBe brief.\n\nBe kind."),
        Message("user", "hi", name="ann"),
        Message("developer", "# Instructions\n\nNow rhyme."),
    ]


def test_tools_are_told_of_unless_tool_choice_is_none() -> None:
    user = {"role": "user", "content": "hi"}

    assert conversation([user], tools=[TOOL]) == [
        system_message("medium", TODAY, True),
        developer_message(None, [FUNCTION]),
        Message("user", "hi"),
    ]
    assert conversation([user], tools=[TOOL], tool_choice="none") == [
        system_message("medium", TODAY, False),
        Message("user", "hi"),
    ]


def test_an_open_tool_loop_keeps_its_reasoning_and_names_the_tool_that_answered() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    built = conversation(
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "reasoning": "old thought", "content": "done"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "reasoning": "thought", "content": "I look.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        tools=[TOOL],
    )

    assert built[2:] == [
        Message("user", "one"),
        Message("assistant", "done", channel="final"),
        Message("user", "two"),
        Message("assistant", "thought", channel="analysis"),
        Message("assistant", "I look.", channel="commentary"),
        Message("assistant", '{"x":1}', channel="commentary", recipient="functions.f", constrain="json"),
        Message("tool", "42", name="functions.f", channel="commentary", recipient="assistant"),
    ]


def test_a_tool_message_that_answers_no_call_is_refused_by_place() -> None:
    with pytest.raises(Refused) as refusal:
        conversation(
            [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "canary", "content": "y"}]
        )

    assert str(refusal.value) == "`messages[1].tool_call_id` matches no tool call before it"
    assert refusal.value.param == "messages[1].tool_call_id"
