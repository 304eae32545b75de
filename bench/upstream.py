"""The server that every gateway of the bench stands in front of: canned answers, as cheap as asyncio allows.

`python -m bench.upstream PORT` answers `POST …/chat/completions` as the local engine would, plain or as a
stream, and every GET with 200. Of a request it reads only its length, `"stream":true` and
`"max_completion_tokens":N` (a stream has N chunks), so it costs a few microseconds and never limits a run.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, cast

import uvloop

MODEL: Final = "gpt-oss-20b"
CHUNKS: Final = 200  # of a stream whose request does not say
CHUNK_GAP_S: Final = 0.010
LENGTH: Final = re.compile(rb'"max_completion_tokens":(\d+)')
REASONING: Final = "The user asks for the customs rules of a parcel. I should answer briefly. " * 2
CONTENT: Final = (
    "A parcel from outside the customs union is declared, valued and released; duty may be due. " * 4
)
USAGE: Final = {
    "prompt_tokens": 96,
    "completion_tokens": 128,
    "total_tokens": 224,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 40},
}
HEAD: Final = {
    "id": "chatcmpl-upstream",
    "created": 1767225600,
    "model": MODEL,
    "system_fingerprint": "fp_bench",
}


def compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def plain_answer() -> bytes:
    """One whole HTTP response with a chat completion of about 800 bytes."""
    message = {"role": "assistant", "content": CONTENT, "reasoning": REASONING}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return response(compact({"object": "chat.completion", **HEAD, "choices": [choice], "usage": USAGE}))


def response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return framed(compact({"object": "chat.completion.chunk", **HEAD, "choices": [choice]}))


def framed(data: bytes) -> bytes:
    """One SSE event as one piece of a chunked HTTP body."""
    text = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(text), text)


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def stream_events(count: int) -> list[bytes]:
    """`count` tokens as events, the last with the reason why it finished, the usage, and `[DONE]`."""
    first = STREAM_HEAD + event({"role": "assistant", "content": ""})
    tokens = [event({"content": f" token{number}"}) for number in range(count - 2)]
    usage = framed(compact({"object": "chat.completion.chunk", **HEAD, "choices": [], "usage": USAGE}))
    return [first, *tokens, event({}, "stop") + usage + framed(b"[DONE]") + b"0\r\n\r\n"]


@functools.cache
def stream_asked_for(digits: bytes) -> list[bytes]:
    return stream_events(max(2, int(digits)))


class Upstream(asyncio.Protocol):
    """HTTP/1.1 as far as pooled clients of one request at a time need it."""

    def __init__(self, plain: bytes, pong: bytes) -> None:
        self._plain, self._pong = plain, pong
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._sending: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but ancestry

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            size = body_bytes(self._received[:end])
            if len(self._received) < end + 4 + size:
                return
            body = self._received[end + 4 : end + 4 + size]
            self._received = self._received[end + 4 + size :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        if not body:
            self._transport.write(self._pong)
        elif b'"stream":true' in body:
            asked = LENGTH.search(body)
            events = stream_asked_for(asked[1] if asked else b"%d" % CHUNKS)
            self._sending = asyncio.ensure_future(send_slowly(events, self._transport))
        else:
            self._transport.write(self._plain)


async def send_slowly(events: list[bytes], transport: asyncio.Transport) -> None:
    for piece in events:
        if transport.is_closing():
            return
        transport.write(piece)
        await asyncio.sleep(CHUNK_GAP_S)


def body_bytes(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def serve(port: int) -> None:
    plain, pong = plain_answer(), response(b"{}")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(plain, pong), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
