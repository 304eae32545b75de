"""OpenAI's wire from the client's side: streams cut anywhere, renamed reasoning, faults by code."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends import openai_wire
from gateway.backends.base import (
    BackendFault,
    Broken,
    Chunk,
    Misconfigured,
    Refused,
    Saturated,
    ServerFault,
    Throttled,
    Upstream,
    Usage,
)
from gateway.backends.openai_wire import SseDecoder
from tests.backends.support import chat
from tests.backends.upstream import DONE, USAGE, chunk, completion, event

UPSTREAM = Upstream("host", None, None, False)
WHOLE = (
    event(chunk({"role": "assistant", "content": ""}))
    + event(chunk({"reasoning_content": "hm"}))
    + b": a comment\n\n"
    + event(chunk({"content": "grüß dich"}, None, usage=None))
    + event(chunk({}, "stop"))
    + event(chunk(None, usage=USAGE))
    + DONE
)


def decoder() -> SseDecoder:
    return SseDecoder("r1", "gpt-oss-20b", "engine", UPSTREAM)


def decoded(*parts: bytes) -> list[Chunk]:
    one = decoder()
    return [chunk for part in parts for chunk in one.feed(part)]


def test_a_stream_is_rewritten_to_the_gateways_id_and_model() -> None:
    wire = [orjson.loads(one.data) for one in decoded(WHOLE)]
    head = {"id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 17, "model": "gpt-oss-20b"}

    def delta(value: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": value, "finish_reason": finish}]}

    assert wire == [
        delta({"role": "assistant", "content": ""}),
        delta({"reasoning": "hm"}),
        delta({"content": "grüß dich"}),
        delta({}, "stop"),
        {**head, "choices": [], "usage": Usage(5, 3).wire()},
    ]
    assert [one.finish_reason for one in decoded(WHOLE)] == [None, None, None, "stop", None]
    assert [one.usage for one in decoded(WHOLE)][-1] == Usage(5, 3)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12), st.booleans())
def test_where_the_network_cuts_a_stream_makes_no_difference(cuts: list[int], crlf: bool) -> None:
    whole = WHOLE.replace(b"\n", b"\r\n") if crlf else WHOLE
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    parts = [whole[a:b] for a, b in pairwise(edges)]
    assert decoded(*parts) == decoded(WHOLE)


def test_a_stream_is_complete_only_with_usage_and_done() -> None:
    ends = {}
    for name, tail in {
        "both": event(chunk(None, usage=USAGE)) + DONE,
        "no usage": DONE,
        "no done": event(chunk(None, usage=USAGE)),
        "neither": b"",
    }.items():
        one = decoder()
        one.feed(event(chunk({"content": "x"}, "stop")) + tail)
        ends[name] = one.complete
    assert ends == {"both": True, "no usage": False, "no done": False, "neither": False}


@pytest.mark.parametrize(
    "last",
    [
        event(chunk({}, "stop", usage=USAGE)),
        event(chunk({}, "stop", usage=None)) + event(chunk(None, usage=USAGE)) + DONE,
    ],
)
def test_of_usage_that_grows_with_every_chunk_only_the_last_is_told(last: bytes) -> None:
    growing = {**USAGE, "completion_tokens": 1}
    chunks = decoded(event(chunk({"content": "x"}, None, usage=growing)) + last)
    assert [one.usage for one in chunks] == [None, None, Usage(5, 3)]


def test_usage_that_is_told_only_while_it_grows_counts_at_the_end() -> None:
    body = event(chunk({"content": "x"}, None, usage=USAGE)) + event(chunk({}, "stop", usage=None)) + DONE
    assert [one.usage for one in decoded(body)] == [None, None, Usage(5, 3)]


def test_usage_that_comes_with_the_last_choice_gets_a_chunk_of_its_own() -> None:
    first, second = decoded(event(chunk({"content": "x"}, "stop", usage=USAGE)))
    assert orjson.loads(first.data)["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in orjson.loads(first.data)
    assert (first.usage, second.usage) == (None, Usage(5, 3))
    assert orjson.loads(second.data)["choices"] == []


def test_reported_reasoning_and_cached_tokens_are_kept() -> None:
    details = {
        **USAGE,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    (one,) = decoded(event(chunk(None, usage=details)))
    assert one.usage == Usage(5, 3, reasoning_tokens=2, cached_tokens=4)


@pytest.mark.parametrize(
    "payload",
    [b"nonsense", b"[]", b"1", b"{}", b'{"choices":[{}]}', b'{"choices":[1]}', b'{"choices":[],"usage":{}}'],
)
def test_an_event_that_is_no_chunk_breaks_the_stream(payload: bytes) -> None:
    with pytest.raises(Broken, match="`engine` has an event that is no chunk"):
        decoded(b"data: " + payload + b"\n\n")


def test_an_endless_event_breaks_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_wire, "EVENT_BYTES_MAX", 100)
    with pytest.raises(Broken, match="too long"):
        decoded(b"data: " + b"x" * 200)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"message": "canary", "code": "engine_fault"}, ServerFault, None),
        ({"message": "canary", "code": "context_length_exceeded"}, Refused, "context_length_exceeded"),
        ({"message": "canary", "code": "content_filter"}, Refused, "content_filter"),
        ("canary", ServerFault, None),
        (None, ServerFault, None),
    ],
)
def test_an_error_event_becomes_a_fault_without_its_text(
    error: Any, kind: type[BackendFault], code: str | None
) -> None:
    with pytest.raises(kind) as caught:
        decoded(event({"error": error}))
    assert getattr(caught.value, "code", None) == code
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (
            400,
            {"error": {"code": "context_length_exceeded"}},
            Refused,
            "`engine`: prompt and answer do not fit",
        ),
        (400, {"error": {"param": "seed", "message": "canary"}}, Refused, "because of `seed`"),
        (
            400,
            {"error": {"param": "canary", "message": "canary"}},
            Refused,
            "`engine` refused the request as invalid",
        ),
        (400, b"canary", Refused, "`engine` refused the request as invalid"),
        (422, ["canary"], Refused, "`engine` refused the request as invalid"),
        (413, b"", Refused, "too large"),
        (401, b"", Misconfigured, "refused the gateway's own secret"),
        (403, b"", Misconfigured, "refused the gateway's own secret"),
        (404, b"", Misconfigured, "does not know the path or the model"),
        (408, b"", ServerFault, "failed with status 408"),
        (429, b"", Throttled, "`engine` is full"),
        (500, b"canary", ServerFault, "failed with status 500"),
        (503, b"canary", ServerFault, "failed with status 503"),
    ],
)
def test_http_errors_become_faults_by_status_and_code(
    status: int, body: Any, kind: type[BackendFault], text: str
) -> None:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    fault = openai_wire.http_fault(status, None, raw, "engine", UPSTREAM)
    assert type(fault) is kind
    assert text in str(fault)
    assert "canary" not in str(fault)
    assert fault.upstream == UPSTREAM


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("-1", 0.0), ("9999999", 3600.0), ("soon", None), ("", None), (None, None)],
)
def test_retry_after_is_read_as_seconds_within_an_hour(header: str | None, seconds: float | None) -> None:
    fault = openai_wire.http_fault(429, header, b"", "engine", UPSTREAM, full=Saturated)
    assert (type(fault), fault.retry_after_s) == (Saturated, seconds)


def test_a_plain_answer_is_rewritten_and_its_reasoning_renamed() -> None:
    body = orjson.dumps(completion({"content": "x", "reasoning_content": "hm"}))
    answer, usage = openai_wire.completion(body, "r1", "gpt-oss-20b")
    assert (answer["id"], answer["model"], usage) == ("chatcmpl-r1", "gpt-oss-20b", Usage(5, 3))
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "x", "reasoning": "hm"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        orjson.dumps({**completion({}), "usage": None}),
        b'{"choices":[{}]}',
    ],
)
def test_a_plain_answer_without_choices_or_usage_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match="Error"):
        openai_wire.completion(body, "r1", "gpt-oss-20b")


def test_a_request_is_forwarded_without_the_gateways_own_fields() -> None:
    request = chat(
        "hi", stream=True, user="u", metadata={"session_id": "s"}, temperature=0.5, seed=None, store=False
    )
    assert orjson.loads(openai_wire.request_body(request, "upstream-id", stream=True)) == {
        "model": "upstream-id",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert orjson.loads(openai_wire.request_body(request, "upstream-id", stream=False)).keys() == {
        "model",
        "messages",
        "temperature",
    }


def test_a_past_answer_is_sent_in_the_one_form_that_servers_read() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    past = {
        "role": "assistant",
        "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
        "reasoning_content": "hm",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "tool_calls": [call],
    }
    assert openai_wire.past_message(past) == {
        "role": "assistant",
        "content": "ab",
        "reasoning": "hm",
        "tool_calls": [call],
    }
    assert openai_wire.past_message({"role": "assistant", "refusal": "no"}) == {
        "role": "assistant",
        "content": "no",
    }
