"""OpenAI's messages become the harmony conversation that the model was trained on."""

from __future__ import annotations

import json
from datetime import date
from functools import partial
from typing import Any

import pytest

from local_engine.errors import Refused
from local_engine.harmony.conversation import (
    AnswerFormat,
    FunctionTool,
    Message,
    developer_message,
    system_message,
)
from local_engine.harmony.render import render_prompt
from local_engine.prompt import Recall, conversation_of
from local_engine.replay import Replay, Seen, SeenCall
from local_engine.vocabulary import Vocabulary
from local_engine.wire import ChatRequest, parse_chat_request
from tests.local_engine.scripted import encode

TODAY = date(2026, 2, 3)
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "does f", "parameters": {"type": "object"}},
}
FUNCTION = FunctionTool("f", "does f", {"type": "object"})


def conversation(messages: list[dict[str, Any]], recall: Recall | None = None, **more: Any) -> list[Message]:
    """The conversation of a request with these messages."""
    body = json.dumps({"model": "m", "messages": messages, **more}).encode()
    return conversation_of(parse_chat_request(body), TODAY, recall)


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


USER = {"role": "user", "content": "x"}


def call(id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:  # noqa: A002
    """A tool call as a client sends it back."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asks(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An assistant message with these calls."""
    return {"role": "assistant", "tool_calls": list(calls), **more}


def answers(id: str, content: str) -> dict[str, Any]:  # noqa: A002
    """A tool message."""
    return {"role": "tool", "tool_call_id": id, "content": content}


def called(name: str, arguments: str) -> Message:
    """A call as harmony has it."""
    return Message("assistant", arguments, None, "commentary", f"functions.{name}", "json")


def answered(name: str, text: str) -> Message:
    """A tool's answer as harmony has it."""
    return Message("tool", text, f"functions.{name}", "commentary", "assistant")


def test_several_calls_are_a_message_each_and_their_answers_follow_in_their_order() -> None:
    built = conversation(
        [
            USER,
            asks(call("a", "f", "1"), call("b", "g", "2"), call("c", "f", "3"), reasoning="t"),
            answers("c", "three"),
            answers("a", "one"),
            answers("b", "two"),
            asks(call("a", "g", "4"), reasoning="u"),
            answers("a", "four"),
        ]
    )

    assert built[1:] == [
        Message("user", "x"),
        Message("assistant", "t", channel="analysis"),
        *[called("f", "1"), called("g", "2"), called("f", "3")],
        *[answered("f", "one"), answered("g", "two"), answered("f", "three")],
        Message("assistant", "u", channel="analysis"),
        called("g", "4"),
        answered("g", "four"),
    ]


LOST = "matches no tool call of the assistant message before it"
TWICE = "was answered before: give each call one answer"
MISSING = "has no answer: a tool message with its id must follow"
SAME = "is the id of an earlier call: give each call its own"


@pytest.mark.parametrize(
    ("messages", "place", "wrong"),
    [
        ([USER, answers("canary", "y")], "messages[1].tool_call_id", LOST),
        ([answers("canary", "y")], "messages[0].tool_call_id", LOST),
        ([USER, asks(call("a")), answers("canary", "y")], "messages[2].tool_call_id", LOST),
        (
            [USER, asks(call("canary")), answers("canary", "y"), USER, answers("canary", "y")],
            "messages[4].tool_call_id",
            LOST,
        ),
        (
            [USER, asks(call("canary")), answers("canary", "y"), answers("canary", "y")],
            "messages[3].tool_call_id",
            TWICE,
        ),
        ([USER, asks(call("canary"))], "messages[1].tool_calls[0]", MISSING),
        (
            [USER, asks(call("a"), call("canary")), answers("a", "y"), USER],
            "messages[1].tool_calls[1]",
            MISSING,
        ),
        (
            [USER, asks(call("canary")), {"role": "system", "content": "s"}, answers("canary", "y")],
            "messages[1].tool_calls[0]",
            MISSING,
        ),
        (
            [USER, asks(call("a"), call("canary"), call("canary"))],
            "messages[1].tool_calls[2].id",
            SAME,
        ),
    ],
    ids=[
        *["no call", "no message", "another call", "a call of another turn", "twice", "none at the end"],
        *["one of two", "instructions between", "one id twice"],
    ],
)
def test_calls_and_answers_that_do_not_match_are_refused_by_place(
    messages: list[dict[str, Any]], place: str, wrong: str
) -> None:
    with pytest.raises(Refused) as refusal:
        conversation(messages)

    assert refusal.value.body()["error"] == {
        "message": f"`{place}` {wrong}",
        "type": "invalid_request_error",
        "param": place,
        "code": "invalid_value",
    }


def wanted(**schema: Any) -> dict[str, Any]:
    """A `response_format` with a schema."""
    return {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize(
    ("response_format", "answer"),
    [
        (None, None),
        ({"type": "text"}, None),
        (
            {"type": "json_object"},
            AnswerFormat("json_object", "Answer with one JSON object and nothing else.", {"type": "object"}),
        ),
        (
            wanted(name="w", description="d", schema={"type": "object"}, strict=True),
            AnswerFormat("w", "d", {"type": "object"}),
        ),
        (wanted(name="w", schema={"type": "object"}), AnswerFormat("w", None, {"type": "object"})),
        (wanted(name="w"), AnswerFormat("w", None, {})),
    ],
    ids=["nothing", "text", "object", "schema", "schema without description", "no schema"],
)
def test_the_form_of_the_answer_is_told_behind_instructions_and_tools(
    response_format: dict[str, Any] | None, answer: AnswerFormat | None
) -> None:
    built = conversation(
        [{"role": "system", "content": "Be brief."}, USER], tools=[TOOL], response_format=response_format
    )

    assert built == [
        system_message("medium", TODAY, True),
        developer_message("Be brief.", [FUNCTION], answer),
        Message("user", "x"),
    ]


def test_the_form_of_the_answer_needs_neither_instructions_nor_tools() -> None:
    built = conversation([USER], response_format=wanted(name="w", schema={"type": "object"}))

    assert built[1] == Message("developer", '# Response Formats\n\n## w\n\n{"type":"object"}')


def test_a_schema_that_nests_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}
    request = ChatRequest.model_validate(
        {"model": "m", "messages": [USER], "response_format": wanted(name="canary", schema=schema)}
    )
    with pytest.raises(Refused) as refusal:
        conversation_of(request, TODAY)

    assert str(refusal.value) == "`response_format.json_schema.schema` nests too deeply: flatten it"
    assert refusal.value.param == "response_format.json_schema.schema"


def test_what_must_be_called_and_how_often_is_not_in_the_prompt() -> None:
    plain = conversation([USER], tools=[TOOL])

    assert conversation([USER], tools=[TOOL], tool_choice="auto") == plain
    assert conversation([USER], tools=[TOOL], tool_choice="required") == plain
    named = {"type": "function", "function": {"name": "f"}}
    assert conversation([USER], tools=[TOOL], tool_choice=named) == plain
    assert conversation([USER], tools=[TOOL], parallel_tool_calls=False) == plain


THOUGHT = Message("assistant", "t", channel="analysis", tokens=(1,))
CALL = Message("assistant", "{}", channel="commentary", recipient="functions.f", tokens=(2,))
FINAL = Message("assistant", "done", channel="final", tokens=(3,))


def test_a_past_turn_is_what_was_sampled_and_without_its_reasoning_once_it_is_finished() -> None:
    asked: list[Seen] = []

    def recall(seen: Seen) -> tuple[Message, ...] | None:
        asked.append(seen)
        return {"c": (THOUGHT, CALL), "": (THOUGHT, FINAL)}.get(
            seen.calls[0].id if seen.calls else seen.content
        )

    first = [USER, asks(call("c", "f", "{ }"), content=[{"type": "text", "text": "I look."}])]
    open_loop = [*first, answers("c", "r")]
    finished = [*open_loop, {"role": "assistant", "reasoning": "r"}, USER]
    unknown = [*finished, {"role": "assistant", "content": "edited", "reasoning": "r"}, USER]

    assert conversation(open_loop, recall=recall)[1:] == [
        Message("user", "x"),
        THOUGHT,
        CALL,
        answered("f", "r"),
    ]
    assert conversation(unknown, recall=recall)[1:] == [
        *[Message("user", "x"), CALL, answered("f", "r"), FINAL, Message("user", "x")],
        *[Message("assistant", "edited", channel="final"), Message("user", "x")],
    ]
    looked = Seen("I look.", (SeenCall("c", "f", "{ }"),))
    assert asked == [looked, looked, Seen("", reasoning="r"), Seen("edited", reasoning="r")]


def test_a_loop_of_tool_calls_extends_the_very_tokens_that_the_model_saw_and_sampled(
    vocabulary: Vocabulary,
) -> None:
    replay = Replay(vocabulary)
    calls = [call("c1", "f", "{}"), call("c2", "f", "{}")]
    messages = [USER, asks(*calls), answers("c2", "two"), answers("c1", "one")]
    # The model may cut text otherwise than the tokenizer does, and address the tool before the channel.
    sampled = [
        *encode("<|channel|>analysis<|message|>", vocabulary),
        *[token for letter in "hm" for token in vocabulary.encode(letter)],
        *encode(
            "<|end|><|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json", vocabulary
        ),
        *encode(
            "<|message|>{}<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>",
            vocabulary,
        ),
        *[token for letter in "{}" for token in vocabulary.encode(letter)],
        *encode("<|call|>", vocabulary),
    ]
    seen = Seen("", tuple(SeenCall(c["id"], "f", "{}") for c in calls), "hm")
    before = render_prompt(conversation(messages[:1]), vocabulary)

    assert replay.remember("t", seen, sampled)
    after = render_prompt(conversation(messages, recall=partial(replay.recall, "t")), vocabulary)
    assert after[: len(before) + len(sampled)] == before + sampled
    assert after[len(before) + len(sampled) :] == encode(
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>one<|end|>"
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>two<|end|><|start|>assistant",
        vocabulary,
    )
    others = render_prompt(conversation(messages, recall=partial(replay.recall, "u")), vocabulary)
    assert others == render_prompt(conversation(messages), vocabulary)
