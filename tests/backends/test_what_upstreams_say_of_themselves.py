"""What an upstream says of itself is recorded and signed: only what a record can hold gets that far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.backends import converse, converse_answer, openai_wire
from gateway.backends.base import TOKENS_MAX
from gateway.backends.http import open_http, upstream_request_id
from gateway.backends.openai import OpenAIBackend
from gateway.openai import JSON_DEPTH_MAX, ChatRequest, parse_chat
from tests.backends.support import MODEL, attempt, chat, place

COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


@asynccontextmanager
async def saying(request_id: bytes) -> AsyncIterator[str]:
    """A server whose answers carry these very bytes as their id; yields its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = orjson.dumps(COMPLETION)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (request_id, len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("sent", "kept"), [(b"req-1", "req-1"), (b"\xe9", None), (b"two words", None), (b"x" * 129, None)]
)
async def test_an_upstream_names_its_answer_in_printable_ascii_or_not_at_all(
    sent: bytes, kept: str | None
) -> None:
    async with open_http() as http, saying(sent) as url:
        backend = OpenAIBackend(place("openai"), http, url, None)
        answer = await backend.complete(attempt(place("openai")), chat(), "req_1")
    assert answer.upstream.request_id == kept


def test_no_id_stays_none() -> None:
    assert upstream_request_id(None) is None
    assert upstream_request_id("") is None


@pytest.mark.parametrize("header", ["nan", "-nan", "soon", ""])
def test_a_wait_that_is_no_number_is_none(header: str) -> None:
    assert openai_wire.retry_after_s(header) is None


def test_a_wait_is_bounded_on_both_sides() -> None:
    assert (openai_wire.retry_after_s("inf"), openai_wire.retry_after_s("-3")) == (3600, 0)


def test_more_tokens_than_any_answer_has_are_no_count() -> None:
    assert openai_wire.count(TOKENS_MAX) == TOKENS_MAX
    with pytest.raises(ValueError, match="token count"):
        openai_wire.count(TOKENS_MAX + 1)
    with pytest.raises(converse_answer.MalformedAnswer, match="token count"):
        converse_answer.usage_of({"inputTokens": 1, "outputTokens": TOKENS_MAX + 1})


def past_call(arguments: str) -> ChatRequest:
    function = {"name": "f", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    return parse_chat(orjson.dumps({"model": MODEL, "messages": messages, "tools": tools}))


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def test_arguments_that_nest_too_deep_are_named_before_anything_is_sent() -> None:
    fits, deep = past_call(nested(JSON_DEPTH_MAX - 1)), past_call(nested(300))
    assert converse.unsupported(fits) == ()
    orjson.dumps(converse.converse_request(fits))
    assert converse.unsupported(deep) == ("messages[1].tool_calls[0].function.arguments",)
