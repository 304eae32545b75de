"""Which messages a request holds, as its client's habits change."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.cache import joined
from gateway.conversation import answer_mark, conversation_of, known_names
from gateway.keys.keyring import TenantKeys
from gateway.labels import Labels, Vocabulary
from gateway.openai import parse_chat
from gateway.store.base import MARK_BYTES, Conversation

COMMIT = TenantKeys.apart(bytes(32)).commit
Message = dict[str, Any]


def of(messages: list[Message], session: str | None = None, tenant: str = "acme") -> Conversation:
    wire: dict[str, Any] = {"model": "gpt-oss-20b", "messages": messages}
    if session is not None:
        wire["metadata"] = {"session_id": session}
    return conversation_of(parse_chat(orjson.dumps(wire)), tenant, COMMIT)


def marks(*messages: Message, tenant: str = "acme") -> set[bytes]:
    return set(of(list(messages), tenant=tenant).marks) if messages else set()


def user(text: str | list[Message]) -> Message:
    return {"role": "user", "content": text}


def answer(text: str | None, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def call(name: str, arguments: str, id_: str = "c1") -> Message:
    function = {"name": name, "arguments": arguments}
    return answer(None, tool_calls=[{"id": id_, "type": "function", "function": function}])


def tool(text: str, id_: str = "c1") -> Message:
    return {"role": "tool", "content": text, "tool_call_id": id_}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


texts = st.text(max_size=8)
arguments = st.dictionaries(texts, st.none() | st.integers(-9, 9) | texts, max_size=3).map(json.dumps)
answers = st.one_of(
    st.builds(answer, texts),
    st.builds(lambda text, thought: answer(text, reasoning=thought), texts, texts),
    st.builds(lambda text, no: answer(text, refusal=no), texts, texts),
    st.builds(call, st.sampled_from("ab"), arguments),
)
said = st.one_of(st.builds(user, texts), st.builds(tool, texts), answers)
messages = st.lists(st.one_of(said, st.builds(system, texts)), min_size=1, max_size=10)


@settings(deadline=None)  # a busy machine decides nothing
@given(messages, st.data())
def test_any_selection_in_any_order_shows_marks_of_the_whole(
    whole: list[Message], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(whole))))
    some = [whole[at] for at in order[: data.draw(st.integers(1, len(whole)))]]
    assert marks(*some) == set[bytes]().union(*(marks(one) for one in some))
    assert marks(*some) <= marks(*whole)


def in_parts(text: str, at: int) -> list[Message]:
    return [{"type": "text", "text": text[:at]}, {"type": "text", "text": text[at:]}]


def resent(message: Message, at: int, line: str, space: str, ids: str) -> Message:
    """A message as a client sends it again that keeps no reasoning, makes ids of its own, holds text in
    parts, ends lines its own way, adds or drops white space around them, and writes JSON its own way."""
    kept = dict(message)
    if kept.get("content") and any(kept.get(name) for name in ("content", "refusal", "tool_calls")):
        if kept["content"].strip() or kept.get("refusal", "").strip():
            kept.pop("reasoning", None)
        text = kept["content"] if kept.get("refusal") else space + kept["content"].strip() + space
        kept["content"] = in_parts(text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", line), at)
    if "tool_calls" in kept:
        functions = [dict(one["function"]) for one in kept["tool_calls"]]
        for function in functions:
            function["arguments"] = json.dumps(json.loads(function["arguments"]), separators=(" ,", ": "))
        kept["tool_calls"] = [{"id": ids, "type": "function", "function": one} for one in functions]
    if "tool_call_id" in kept:
        kept["tool_call_id"] = ids
    return kept


@settings(deadline=None)
@given(
    said, st.integers(0, 8), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", " ", "\n"]), texts
)
def test_a_message_is_the_same_however_a_client_keeps_it(
    message: Message, at: int, line: str, space: str, ids: str
) -> None:
    assert marks(resent(message, at, line, space, ids or "x")) == marks(message)


@settings(deadline=None)
@given(answers, st.integers(1, 4))
def test_an_answer_is_marked_as_it_is_sent_again_plain_or_streamed(message: Message, size: int) -> None:
    plain = answer_mark(message, "acme", COMMIT)
    deltas: list[Message] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning", "content", "refusal"):
        text = message.get(name) or ""
        deltas += [{name: text[at : at + size]} for at in range(0, len(text), size)]
    for index, one in enumerate(message.get("tool_calls") or ()):
        pieces = one["function"]["arguments"]
        deltas.append(
            {"tool_calls": [{"index": index, **one, "function": {"name": one["function"]["name"]}}]}
        )
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": pieces[at : at + size]}}]}
            for at in range(0, len(pieces), size)
        ]
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in [*deltas, {}]]
    streamed = answer_mark(joined(events).message, "acme", COMMIT)
    assert plain == streamed
    assert ({plain} if plain else set()) == marks(message)


@settings(deadline=None)
@given(said, said)
def test_two_messages_share_a_mark_only_if_they_say_the_same(one: Message, other: Message) -> None:
    def content(message: Message) -> tuple[Any, ...]:
        text = (message.get("content") or "") + message.get("refusal", "")
        text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
        calls = [call["function"] for call in message.get("tool_calls", ())]
        if not text and not calls:
            return (message.get("reasoning", "").replace("\r\n", "\n").replace("\r", "\n").strip(),)
        return (text, *((call["name"], json.loads(call["arguments"])) for call in calls))

    assume(content(one) != content(other))
    assert not marks(one) & marks(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("one"), user("One")),
        (user("one  two"), user("one two")),
        (user("one\ntwo"), user("one\n\ntwo")),
        (user("café"), user("cafe\u0301")),
        (call("f", '{"a": 1}'), call("f", '{"a": 2}')),
        (call("f", '{"a": 1, "b": 2}'), call("f", '{"b": 2, "a": 1}')),
        (call("f", "xy"), call("fx", "y")),
        (answer("f"), call("f", "")),
        (user("ab"), answer("a", refusal="c")),
    ],
)
def test_any_other_difference_is_another_text(one: Message, other: Message) -> None:
    assert not marks(one) & marks(other)


def test_the_same_words_are_found_in_another_role_and_under_another_name() -> None:
    text = marks(answer("the plan"))
    assert marks(user("the plan")) == marks(tool("the plan")) == text
    assert marks({**user("the plan"), "name": "kim"}) == text


def test_tool_arguments_that_are_no_json_are_their_text() -> None:
    assert marks(call("f", "{not json ")) == marks(call("f", "{not json"))
    assert marks(call("f", "")) == marks(call("f", "{}"))


def test_system_and_developer_messages_neither_leave_marks_nor_find_any() -> None:
    developer = {"role": "developer", "content": "be brief"}
    assert of([system("be brief"), developer]) == Conversation((), 0)
    assert of([system("be brief"), user("hello")]) == of([user("hello")])


@pytest.mark.parametrize("nothing", [user(""), user(" \n"), answer(None), answer(""), tool(""), user([])])
def test_a_message_that_says_nothing_leaves_no_mark(nothing: Message) -> None:
    assert marks(nothing) == set()


def test_a_message_that_only_thinks_or_names_is_marked_by_that() -> None:
    thought = marks(answer(None, reasoning="a secret"))
    assert len(thought) == 1
    assert marks(answer("", reasoning_content="a secret")) == thought
    assert answer_mark(answer(None, reasoning="a secret"), "acme", COMMIT) in thought
    assert len(marks({**user(""), "name": "a secret"})) == 1


def test_tenants_never_share_a_mark_nor_does_a_session_with_a_message() -> None:
    acme, globex = of([user("s1")], "s1"), of([user("s1")], "s1", tenant="globex")
    assert not set(acme.marks) & set(globex.marks)
    assert len(set(acme.marks)) == 2
    assert {len(mark) for mark in acme.marks} == {MARK_BYTES}


def test_a_bundle_may_leave_short_messages_without_a_mark() -> None:
    wire = orjson.dumps({"model": "m", "messages": [user("yes"), answer("été"), user("no "), tool("a case")]})
    conversation = conversation_of(parse_chat(wire), "acme", COMMIT, from_bytes=5)
    assert set(conversation.marks) == marks(answer("été"), tool("a case"))
    assert conversation.vouchers == 1
    assert answer_mark(answer("yes"), "acme", COMMIT, from_bytes=4) is None
    assert answer_mark(answer("yes"), "acme", COMMIT, from_bytes=3) in marks(user("yes"))
    short = orjson.dumps({"model": "m", "messages": [user("a long story"), user("yes")]})
    assert conversation_of(parse_chat(short), "acme", COMMIT, from_bytes=4).vouchers == 1


# What has to be on record for a past to be readable, once labels may have been lost.


def past(messages: list[Message], session: str | None = None) -> set[bytes]:
    conversation = of(messages, session)
    return set(conversation.marks[: conversation.vouchers])


def test_a_first_message_without_a_session_shows_no_past() -> None:
    assert past([system("be brief"), user("hello")]) == set()


@pytest.mark.parametrize(
    ("said_before", "this_turn"),
    [
        ([user("one"), answer("a")], [user("two")]),
        ([user("one"), answer("a")], [user("a document"), user("two")]),
        ([user("one"), call("f", "{}")], [tool("t1", "c1"), tool("t2", "c2")]),
        ([user("one"), answer("a"), user("two"), answer("b")], []),
        ([user("one")], [user("two")]),
        ([user("one"), user("two")], [user("three")]),
        ([tool("one")], []),
        ([answer("one")], []),
        ([user("one"), answer("Sure, here is")], []),
    ],
)
def test_everything_that_was_said_before_this_turn_is_its_past(
    said_before: list[Message], this_turn: list[Message]
) -> None:
    assert past([system("x"), *said_before, *this_turn]) == marks(*said_before)
    assert marks(*said_before, *this_turn) == marks(*said_before) | marks(*this_turn)


def test_words_that_were_said_before_are_past_also_where_this_turn_repeats_them() -> None:
    assert past([user("yes"), answer("a"), user("yes")]) == marks(user("yes"), answer("a"))


def test_with_a_session_its_id_alone_is_the_past() -> None:
    first, second = of([user("hello")], "s1"), of([user("a"), answer("b"), user("c")], "s1")
    assert first.vouchers == second.vouchers == 1
    assert first.marks[0] == second.marks[0]
    assert set(second.marks[1:]) == marks(user("a"), answer("b"), user("c"))


def test_a_conversation_keeps_its_affinity_from_turn_to_turn() -> None:
    first, second = [user("hello")], [user("hello"), answer("hi"), user("and?")]
    assert of(first).affinity == of(second).affinity != of([user("else")]).affinity
    assert of(first, "s1").affinity == of([user("rewritten")], "s1").affinity
    assert of([system("alone")]).affinity == ""


def test_known_names_hold_every_lower_word_of_the_scale() -> None:
    vocabulary = Vocabulary(
        ("public", "internal", "confidential", "secret"), frozenset({"personal", "health"}), frozenset()
    )
    assert known_names(Labels("confidential", frozenset({"health"})), vocabulary) == {
        "public", "internal", "confidential", "health",
    }  # fmt: skip
    assert known_names(Labels("public", frozenset()), vocabulary) == {"public"}
