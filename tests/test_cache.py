"""The exact cache: who may share an answer, what is kept of one, and how it is told again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.base import Usage
from gateway.cache import (
    ENTRY_BYTES_MAX,
    CachedAnswer,
    authorised,
    cache_key,
    complete_stream,
    open_entry,
    seal_entry,
)
from gateway.facts import Facts
from gateway.keys.keyring import TenantKeys
from gateway.labels import Labels
from gateway.openai import parse_chat
from gateway.places import Action
from gateway.policy.load import load_bundle
from gateway.policy.permit import Permitted, permit
from gateway.receipts.receipt import CacheOrigin

BUNDLE = load_bundle(Path(__file__).parents[1] / "policies")
KEYS = TenantKeys.apart(bytes(32))
FACTS = Facts("demo", "DE", "general", "gpt-oss-20b", Labels("public", frozenset()))
PLACE = "store-redis"
USAGE = Usage(12, 34, 5, 6)
ORIGIN = CacheOrigin(
    "rcpt-1", "2026-01-01T12:00:00Z", "local-engine", "DE", "self", ("confidential", "personal"), False
)

BASE: dict[str, Any] = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}]}


def function(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": properties}},
    }


# Each field that shapes an answer, with values that must all be told apart.
SHAPING: dict[str, list[Any]] = {
    "messages": [
        [{"role": "user", "content": "hello"}],
        [{"role": "user", "content": "hello "}],
        [{"role": "system", "content": "hello"}, {"role": "user", "content": "hello"}],
        [{"role": "developer", "content": "hello"}, {"role": "user", "content": "hello"}],
        [{"role": "user", "content": "he"}, {"role": "user", "content": "llo"}],
    ],
    "max_completion_tokens": [None, 1, 2],
    "temperature": [None, 0.0, 0.5],
    "top_p": [None, 0.5, 1.0],
    "seed": [None, 0, 1],
    "stop": [None, "x", ["y"], ["x", "y"]],
    "tools": [
        None,
        [function({"a": {"type": "string"}, "b": {"type": "string"}})],
        [function({"b": {"type": "string"}, "a": {"type": "string"}})],  # the model reads another order
        [function({"a": {"type": "string"}})],
    ],
    "reasoning_effort": [None, "low", "high"],
    "response_format": [None, {"type": "text"}, {"type": "json_object"}],
    "logprobs": [None, True, False],
    "logit_bias": [None, {"1": 1.0}, {"1": 2.0}],
    "presence_penalty": [None, 0.5],
    "frequency_penalty": [None, 0.5],
}
# Fields that concern the gateway or the client, never the answer.
INDIFFERENT: dict[str, list[Any]] = {
    "stream": [None, True, False],
    "user": [None, "someone"],
    "safety_identifier": [None, "x"],
    "metadata": [None, {"session_id": "s"}],
    "store": [None, False],
}
PARTITIONS: dict[str, list[Any]] = {
    "tenant": ["demo", "acme-de"],
    "zone": ["DE", "FR"],
    "purpose": ["general", "care"],
    "model": ["gpt-oss-20b", "gpt-oss-120b"],
    "labels": [
        Labels("public", frozenset()),
        Labels("internal", frozenset()),
        Labels("public", frozenset({"personal"})),
    ],
}

requests = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SHAPING.items()})
facts = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in PARTITIONS.items()})
indifferent = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in INDIFFERENT.items()})


def permitted_of(partition: dict[str, Any], digest: str = "d", revision: str = "r") -> Permitted:
    base = permit(FACTS, BUNDLE)
    return replace(base, facts=Facts(**partition), digest=digest, revision=revision)


def key_of(
    request: dict[str, Any], more: dict[str, Any], partition: dict[str, Any], digest: str, revision: str
) -> str | None:
    chat = parse_chat(orjson.dumps({**BASE, **request, **more}))
    return cache_key(chat, permitted_of(partition, digest, revision), PLACE, KEYS.commit)


one_or_two = st.sampled_from(["one", "two"])


@settings(max_examples=150, deadline=None)
@given(*(2 * [st.tuples(requests, facts, one_or_two, one_or_two)]), indifferent, indifferent)
def test_requests_share_a_key_exactly_when_nothing_that_matters_differs(
    one: Any, other: Any, these: dict[str, Any], those: dict[str, Any]
) -> None:
    """Two drawn at random hardly ever agree: that one agrees with itself is the other half."""
    alike = orjson.dumps(one[0]) == orjson.dumps(other[0]) and one[1:] == other[1:]
    assert (key(one, these) == key(other, those)) is alike
    assert key(one, these) == key(one, those)


@settings(max_examples=150, deadline=None)
@given(requests, facts, st.data())
def test_any_single_difference_that_matters_makes_another_key(
    request: dict[str, Any], partition: dict[str, Any], data: st.DataObject
) -> None:
    changed_request, changed_partition = dict(request), dict(partition)
    name = data.draw(st.sampled_from([*SHAPING, *PARTITIONS]))
    whole, choices = (changed_request, SHAPING) if name in SHAPING else (changed_partition, PARTITIONS)
    whole[name] = data.draw(st.sampled_from([value for value in choices[name] if value != whole[name] or (
        orjson.dumps(value) != orjson.dumps(whole[name]) if name in SHAPING else False
    )]))  # fmt: skip
    assert key_of(request, {}, partition, "d", "r") != key_of(
        changed_request, {}, changed_partition, "d", "r"
    )


def key(drawn: Any, more: dict[str, Any]) -> str | None:
    request, partition, digest, revision = drawn
    return key_of(request, more, partition, digest, revision)


def test_a_key_tells_nothing_without_the_tenants_key() -> None:
    chat = parse_chat(orjson.dumps(BASE))
    ours = cache_key(chat, permit(FACTS, BUNDLE), PLACE, KEYS.commit)
    theirs = cache_key(chat, permit(FACTS, BUNDLE), PLACE, TenantKeys.apart(b"o" * 32).commit)
    assert ours != theirs
    assert ours is not None
    assert len(ours) == len("answer/") + 64


def test_the_order_of_a_requests_own_fields_does_not_matter() -> None:
    ordered = parse_chat(orjson.dumps({**BASE, "seed": 1, "top_p": 0.5}))
    reversed_ = parse_chat(orjson.dumps({"top_p": 0.5, "seed": 1, **BASE}))
    permitted = permit(FACTS, BUNDLE)
    assert cache_key(ordered, permitted, PLACE, KEYS.commit) == cache_key(
        reversed_, permitted, PLACE, KEYS.commit
    )


def test_nothing_is_cached_without_a_declared_place_or_where_the_labels_forbid_it() -> None:
    chat = parse_chat(orjson.dumps(BASE))
    permitted = permit(FACTS, BUNDLE)
    assert permitted.allows(Action.CACHE, PLACE)
    assert cache_key(chat, permitted, None, KEYS.commit) is None
    assert cache_key(chat, permitted, "audit-files", KEYS.commit) is None
    nowhere = replace(permitted, places={**permitted.places, Action.CACHE: frozenset()})
    assert cache_key(chat, nowhere, PLACE, KEYS.commit) is None


# Entries


BODY = {
    "id": "chatcmpl-one",
    "object": "chat.completion",
    "created": 7,
    "model": "gpt-oss-20b",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "said \"id\":\"chatcmpl-one\"\n",
                "reasoning": "thought",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            "logprobs": {"content": [{"token": "said", "logprob": -0.5, "bytes": None, "top_logprobs": []}]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE.wire(),
}  # fmt: skip


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return orjson.dumps(
        {
            "id": "chatcmpl-one", "object": "chat.completion.chunk", "created": 7, "model": "gpt-oss-20b",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
    )  # fmt: skip


STREAM = (
    event({"role": "assistant", "content": ""}),
    event({"reasoning": "tho"}),
    event({"reasoning": "ught"}),
    event({"content": "he\n"}),
    event({"content": "llo"}),
    event({"tool_calls": [{"index": 0, "id": "c1", "type": "function",
                           "function": {"name": "f", "arguments": ""}}]}),
    event({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
    event({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
    event({}, "tool_calls"),
)  # fmt: skip


def plain(body: dict[str, Any] = BODY) -> CachedAnswer:
    return CachedAnswer(ORIGIN, "chatcmpl-one", USAGE, False, (orjson.dumps(body),))


def streamed(parts: tuple[bytes, ...] = STREAM) -> CachedAnswer:
    return CachedAnswer(ORIGIN, "chatcmpl-one", USAGE, True, parts)


@pytest.mark.parametrize("answer", [plain(), streamed()])
def test_an_entry_opens_as_it_was_sealed(answer: CachedAnswer) -> None:
    sealed = seal_entry(answer, "answer/k", "acme", KEYS)
    assert sealed is not None
    assert b"chatcmpl" not in sealed
    assert open_entry(sealed, "answer/k", "acme", KEYS) == answer


def test_an_entry_that_was_moved_damaged_or_written_in_another_form_is_a_miss() -> None:
    sealed = seal_entry(plain(), "answer/k", "acme", KEYS)
    assert sealed is not None
    assert open_entry(sealed, "answer/other", "acme", KEYS) is None
    assert open_entry(sealed, "answer/k", "globex", KEYS) is None
    assert open_entry(sealed[:-1], "answer/k", "acme", KEYS) is None
    assert open_entry(b"", "answer/k", "acme", KEYS) is None
    assert open_entry(sealed, "answer/k", "acme", TenantKeys.apart(b"n" * 32)) is None
    for text in (
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"origin":{"labels":[],"colour":1}}\n{}',
        b'{"origin":null}',
    ):
        assert open_entry(KEYS.seal("acme", b"answer/k", text), "answer/k", "acme", KEYS) is None


def test_an_entry_too_large_is_not_kept() -> None:
    assert seal_entry(streamed((b"x" * ENTRY_BYTES_MAX,)), "answer/k", "acme", KEYS) is None


def test_a_plain_answer_is_told_again_under_the_requests_own_id() -> None:
    assert orjson.loads(plain().body("chatcmpl-two")) == {**BODY, "id": "chatcmpl-two"}


def test_a_streamed_answer_is_told_again_chunk_for_chunk() -> None:
    told = streamed().chunks("chatcmpl-two")
    assert [chunk.data for chunk in told[:-1]] == [part.replace(b"-one", b"-two") for part in STREAM]
    assert [chunk.usage for chunk in told] == [*(None for _ in STREAM), USAGE]
    assert orjson.loads(told[-1].data) == {
        "id": "chatcmpl-two", "object": "chat.completion.chunk", "created": 7, "model": "gpt-oss-20b",
        "choices": [], "usage": USAGE.wire(),
    }  # fmt: skip


def test_a_streamed_answer_is_told_whole() -> None:
    assert orjson.loads(streamed().body("chatcmpl-two")) == {
        "id": "chatcmpl-two",
        "object": "chat.completion",
        "created": 7,
        "model": "gpt-oss-20b",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "he\nllo",
                    "reasoning": "thought",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE.wire(),
    }


def test_a_whole_answer_told_as_a_stream_is_the_same_answer() -> None:
    told = plain().chunks("chatcmpl-two")
    again = streamed(tuple(chunk.data for chunk in told[:-1]))
    assert orjson.loads(again.body("chatcmpl-two")) == {**BODY, "id": "chatcmpl-two"}
    assert told[-1].usage == USAGE


def test_a_refusal_survives_both_ways_of_telling() -> None:
    message = {"role": "assistant", "content": None, "refusal": "no"}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {**BODY, "choices": [choice]}
    told = plain(body).chunks("chatcmpl-one")
    assert orjson.loads(streamed(tuple(chunk.data for chunk in told[:-1])).body("chatcmpl-one")) == body


@pytest.mark.parametrize(
    ("finish", "complete"),
    [("stop", True), ("tool_calls", True), ("length", True), ("content_filter", False), (None, False)],
)
def test_only_an_answer_that_its_model_finished_is_complete(finish: str | None, complete: bool) -> None:
    said = event({"content": '"finish_reason":"stop"'})
    assert complete_stream((said, event({}, finish))) is complete


def test_a_hit_is_authorised_again_under_todays_bundle() -> None:
    permitted = permit(FACTS, BUNDLE)
    assert authorised(plain(), permitted, PLACE)
    assert not authorised(plain(), permitted, None)
    elsewhere = replace(
        permitted, places={**permitted.places, Action.INFER: frozenset({"bedrock-frankfurt"})}
    )
    assert not authorised(plain(), elsewhere, PLACE)
    nowhere = replace(permitted, places={**permitted.places, Action.CACHE: frozenset()})
    assert not authorised(plain(), nowhere, PLACE)
