"""Which conversation a request belongs to, as its client's habits change."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.conversation import NEAR_MAX, bounded, conversation_of, known_names
from gateway.labels import Labels, Vocabulary
from gateway.openai import ChatRequest, parse_chat
from gateway.store.base import Conversation
from gateway.tenant_keys import TenantKeys

COMMIT = TenantKeys(bytes(32)).commit
Message = dict[str, Any]


def chat(messages: list[Message], session: str | None = None) -> ChatRequest:
    wire: dict[str, Any] = {"model": "gpt-oss-20b", "messages": messages}
    if session is not None:
        wire["metadata"] = {"session_id": session}
    return parse_chat(orjson.dumps(wire))


def of(messages: list[Message], session: str | None = None, tenant: str = "acme") -> Conversation:
    return conversation_of(chat(messages, session), tenant, COMMIT)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def call(name: str, arguments: str, id_: str = "c1") -> Message:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": id_, "type": "function", "function": function}],
    }


def tool(text: str, id_: str = "c1") -> Message:
    return {"role": "tool", "content": text, "tool_call_id": id_}


def follows(later: Conversation, earlier: Conversation) -> bool:
    """The later turn reads what the earlier one wrote, among the reads that answer for its past."""
    return any(digest in later.reads[: later.vouchers] for digest in earlier.writes)


# The turns of a conversation: what the user or tools said, and what the model answered.
turns = st.lists(
    st.tuples(
        st.one_of(
            st.builds(lambda text: [user(text)], st.text(max_size=5)),
            st.lists(st.builds(tool, st.text(max_size=5)), min_size=1, max_size=3),
        ),
        st.one_of(
            st.builds(answer, st.text(max_size=5)),
            st.builds(lambda text: answer("", reasoning=text), st.text(max_size=5)),
            st.builds(call, st.sampled_from("ab"), st.text(max_size=5)),
        ),
    ),
    min_size=2,
    max_size=8,
)
systems = st.lists(
    st.builds(lambda text: {"role": "system", "content": text}, st.text(max_size=3)), max_size=1
)


def requests_of(
    system: list[Message], conversation: list[tuple[list[Message], Message]]
) -> list[list[Message]]:
    """The messages of each request that leads through the conversation."""
    history, requests = list(system), []
    for asked, answered in conversation:
        history = [*history, *asked]
        requests.append(history)
        history = [*history, answered]
    return requests


@settings(deadline=None)  # a busy machine decides nothing
@given(systems, turns)
def test_each_turn_reads_what_the_turn_before_wrote(
    system: list[Message], conversation: list[tuple[list[Message], Message]]
) -> None:
    requests = [of(messages) for messages in requests_of(system, conversation)]
    for earlier, later in itertools.pairwise(requests):
        assert follows(later, earlier)


def forgetful(message: Message) -> Message:
    """A message as a client re-sends it that drops reasoning and makes its own tool-call ids."""
    kept = {key: value for key, value in message.items() if key not in ("reasoning", "reasoning_content")}
    if "tool_calls" in kept:
        kept["tool_calls"] = [{**one, "id": "renamed"} for one in kept["tool_calls"]]
    if "tool_call_id" in kept:
        kept["tool_call_id"] = "renamed"
    if isinstance(kept.get("content"), str):
        kept["content"] = [{"type": "text", "text": kept["content"]}]
    return kept


@settings(deadline=None)  # a busy machine decides nothing
@given(systems, turns)
def test_a_client_that_drops_reasoning_and_ids_is_still_followed(
    system: list[Message], conversation: list[tuple[list[Message], Message]]
) -> None:
    requests = requests_of(system, conversation)
    for earlier, later in itertools.pairwise(requests):
        assert follows(of([forgetful(message) for message in later]), of(earlier))
        assert follows(of(later), of([forgetful(message) for message in earlier]))


@settings(deadline=None)  # a busy machine decides nothing
@given(turns, turns)
def test_a_session_id_alone_suffices_when_the_history_is_rewritten(
    one: list[tuple[list[Message], Message]], other: list[tuple[list[Message], Message]]
) -> None:
    earlier, later = of(requests_of([], one)[-1], "s1"), of(requests_of([], other)[-1], "s1")
    assert later.reads[0] in earlier.writes
    assert later.vouchers == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=1, max_value=1500))
def test_a_long_history_is_read_at_a_bounded_number_of_places(length: int) -> None:
    history = [message for i in range(length) for message in (user(f"u{i}"), answer(f"a{i}"))]
    earlier, later = of(history[:-1]), of([*history, user("next")])
    assert follows(later, earlier)
    assert len(later.reads) <= 2 * NEAR_MAX + 13
    assert len(later.writes) == 1


def test_far_prefixes_are_read_twice_as_far_apart_each_time() -> None:
    ends = [bytes([i % 256, i // 256]) for i in range(1000)]
    distances = [999 - ends.index(end) for end in bounded(ends)]
    assert distances == [*range(64), 64, 128, 256, 512]


def test_a_first_turn_without_a_session_has_no_past() -> None:
    first = of([{"role": "system", "content": "be brief"}, user("hello")])
    assert (first.reads, first.vouchers) == ((), 0)
    assert len(first.writes) == 1
    assert len(first.writes[0]) == 32


def test_a_first_turn_with_a_session_may_have_one() -> None:
    first = of([user("hello")], "s1")
    assert first.reads == first.writes[:1]
    assert first.vouchers == 1
    assert len(first.writes) == 2


def test_a_request_that_failed_is_found_although_no_answer_followed_it() -> None:
    assert follows(of([user("one"), user("two")]), of([user("one")]))


def test_a_request_that_failed_before_an_answered_one_is_read_too() -> None:
    later = of([user("one"), user("two"), answer("a"), user("three")])
    assert set(of([user("one")]).writes) <= set(later.reads)
    assert follows(later, of([user("one"), user("two")]))
    assert later.vouchers == 1


def test_a_hundred_parallel_tool_results_do_not_hide_the_turn_before() -> None:
    asked = [user("go")]
    results = [tool(f"result {i}", f"c{i}") for i in range(100)]
    assert follows(of([*asked, call("f", "{}"), *results]), of(asked))


def test_a_request_that_continues_an_answer_reads_the_turn_that_asked() -> None:
    assert follows(of([user("go"), answer("Once upon")]), of([user("go")]))


def test_an_edited_history_does_not_answer_for_the_turn_it_replaced() -> None:
    earlier = of([user("one"), answer("a"), user("two")])
    edited = of([user("one"), answer("a"), user("2"), answer("b"), user("three")])
    assert not follows(edited, earlier)
    assert set(edited.reads) & set(of([user("one")]).writes)


def test_whitespace_counts() -> None:
    assert of([user("one")]).writes != of([user("one ")]).writes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([user("ab"), user("c")], [user("a"), user("bc")]),
        ([user("a"), answer("b"), user("c")], [user("a"), user("b"), user("c")]),
        ([user("a"), call("f", "xy"), tool("t")], [user("a"), call("fx", "y"), tool("t")]),
        ([user("a"), answer("f"), tool("t")], [user("a"), call("f", ""), tool("t")]),
        ([{"role": "system", "content": "x"}, user("a")], [{"role": "developer", "content": "x"}, user("a")]),
    ],
)
def test_different_messages_never_share_a_digest(one: list[Message], other: list[Message]) -> None:
    assert of(one).writes != of(other).writes


def test_tenants_never_share_a_digest_nor_does_a_session_with_a_message() -> None:
    acme, globex = of([user("s1")], "s1"), of([user("s1")], "s1", tenant="globex")
    assert not set(acme.writes) & set(globex.writes)
    assert len(set(acme.writes)) == 2


def test_known_names_hold_every_lower_word_of_the_scale() -> None:
    vocabulary = Vocabulary(
        ("public", "internal", "confidential", "secret"), frozenset({"personal", "health"}), frozenset()
    )
    assert known_names(Labels("confidential", frozenset({"health"})), vocabulary) == {
        "public", "internal", "confidential", "health",
    }  # fmt: skip
    assert known_names(Labels("public", frozenset()), vocabulary) == {"public"}
