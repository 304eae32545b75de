"""Whatever an upstream sends, a backend raises a BackendFault or gives chunks; nothing else ever escapes."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends import converse_answer, openai_wire
from gateway.backends.base import BackendFault, Chunk, Upstream
from gateway.backends.bedrock import ConverseStreamDecoder
from gateway.testing.bedrock import answers, eventstream
from gateway.testing.bedrock.model import Call
from tests.backends.support import MODEL, RUNTIME_ID

UPSTREAM = Upstream("host", "eu-central-1", None, True)
SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
)
KEYS = st.sampled_from(
    ["choices", "delta", "usage", "error", "message", "content", "text", "output", "toolUse", "input", "name",
     "reasoningContent", "reasoningText", "stopReason", "inputTokens", "outputTokens", "prompt_tokens",
     "completion_tokens", "finish_reason", "reasoning_content", "start", "contentBlockIndex", "toolUseId"]
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=12
)
EVENTS = st.sampled_from(
    [
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
        "new",
    ]
)


def whole_stream() -> bytes:
    messages = [{"role": "user", "content": [{"text": 'hi [[call f {"a": "é"}]]'}]}]
    tools = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}]}
    call = Call("ConverseStream", RUNTIME_ID, {"messages": messages, "toolConfig": tools})
    reply = answers.compose(call, "eu-central-1")
    return b"".join(eventstream.event(*one) for one in answers.converse_events(reply, call, 1))


WHOLE = whole_stream()


def decoder() -> ConverseStreamDecoder:
    translator = converse_answer.StreamTranslator("r1", MODEL, 17)
    return ConverseStreamDecoder(translator, "bedrock", UPSTREAM)


def decoded(*parts: bytes) -> list[Chunk]:
    one = decoder()
    chunks = [chunk for part in parts for chunk in one.feed(part)]
    assert one.complete
    return chunks


@given(st.lists(st.integers(0, len(WHOLE)), max_size=10))
def test_where_the_network_cuts_an_event_stream_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    parts = [WHOLE[a:b] for a, b in pairwise(edges)]
    assert decoded(*parts) == decoded(WHOLE)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_one_wrong_byte_anywhere_never_passes_for_a_complete_answer(position: int, flip: int) -> None:
    spoilt = bytearray(WHOLE)
    spoilt[position] ^= flip
    one = decoder()
    with suppress(BackendFault):
        one.feed(bytes(spoilt))
    assert not one.complete


@given(st.binary(max_size=200))
def test_random_bytes_are_no_event_stream(data: bytes) -> None:
    one = decoder()
    with suppress(BackendFault):
        one.feed(data)
    assert not one.complete


@given(st.lists(st.tuples(EVENTS, JSON), max_size=4))
def test_events_of_any_shape_give_chunks_or_a_fault(events: list[tuple[str, Any]]) -> None:
    one = decoder()
    with suppress(BackendFault):
        for event_type, members in events:
            for chunk in one.feed(eventstream.event(event_type, members)):
                assert orjson.loads(chunk.data)["object"] == "chat.completion.chunk"


@given(JSON)
def test_converse_answers_of_any_shape_are_an_answer_or_malformed(answer: Any) -> None:
    with suppress(converse_answer.MalformedAnswer):
        body = converse_answer.completion(answer, "r1", MODEL, 17)
        assert body["choices"][0]["message"]["role"] == "assistant"


@given(JSON)
def test_chunks_of_any_shape_give_chunks_or_a_fault(value: Any) -> None:
    one = openai_wire.SseDecoder("r1", MODEL, "engine", UPSTREAM)
    with suppress(BackendFault):
        for chunk in one.feed(b"data: %b\n\n" % orjson.dumps(value)):
            assert orjson.loads(chunk.data)["model"] == MODEL
            assert chunk.finish_reason is None or isinstance(chunk.finish_reason, str)


@given(JSON)
def test_completions_of_any_shape_are_an_answer_or_a_value_error(value: Any) -> None:
    with suppress(ValueError):
        answer, usage = openai_wire.completion(orjson.dumps(value), "r1", MODEL)
        assert (answer["model"], usage.prompt_tokens >= 0) == (MODEL, True)


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "7", None])
def test_a_token_count_that_is_no_natural_number_is_never_billed(tokens: Any) -> None:
    with pytest.raises(ValueError, match="natural number"):
        openai_wire.usage_of({"prompt_tokens": tokens, "completion_tokens": 1})
    with pytest.raises(converse_answer.MalformedAnswer):
        converse_answer.usage_of({"inputTokens": tokens, "outputTokens": 1, "totalTokens": 2})
