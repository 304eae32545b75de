"""Streams of chat completions, each on a connection of its own: asked for, kept as bytes, read at the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, Final, cast

from bench.null import MODEL, SECRET

PATIENCE_S: Final = 300.0


class Stream(asyncio.Protocol):
    """One request over a connection of its own. Bytes are kept as they come and read at the end."""

    def __init__(self, request: bytes, over: asyncio.Future[None]) -> None:
        self.parts: list[bytes] = []
        self._request = request
        self._over = over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        if data.endswith(b"0\r\n\r\n") and not self._over.done():
            self._over.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(ConnectionError("the server closed a stream before its end"))

    def close(self) -> None:
        self._transport.close()


def request_of(number: int, tokens: int) -> bytes:
    """One streaming chat completion as bytes; the user's message is a new one for each number."""
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Question {number}: say something at random."}],
            "max_completion_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {SECRET}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def events(data: bytes) -> Iterator[Any]:
    """The objects of a stream, without head and framing. Raises `ValueError` unless it ended well."""
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"the server said `{head.splitlines()[0].decode()}`")
    text = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        text += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    *found, done, end = bytes(text).split(b"\n\n")
    if (done, end) != (b"data: [DONE]", b""):
        raise ValueError("a stream did not end with `[DONE]`")
    for event in found:
        yield json.loads(event.removeprefix(b"data: "))


def counted(data: bytes) -> tuple[int, int]:
    """(tokens by the usage, events that carried text) of one stream."""
    tokens = chunks = 0
    for event in events(data):
        if event.get("usage"):
            tokens += event["usage"]["completion_tokens"]
        chunks += any(choice["delta"].get("content") for choice in event["choices"])
    return tokens, chunks


async def load(port: int, streams: int, tokens: int, first: int) -> tuple[list[bytes], float]:
    """Runs the streams together; what each received, and how long all of them took in seconds."""
    loop = asyncio.get_running_loop()
    pool, ends = [], []
    for number in range(first, first + streams):
        end: asyncio.Future[None] = loop.create_future()
        request = request_of(number, tokens)
        _, stream = await loop.create_connection(lambda r=request, e=end: Stream(r, e), "127.0.0.1", port)  # type: ignore[misc]
        pool.append(stream)
        ends.append(end)
    began_s = time.perf_counter()
    for stream in pool:
        stream.begin()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*ends)
    took_s = time.perf_counter() - began_s
    for stream in pool:
        stream.close()
    return [b"".join(stream.parts) for stream in pool], took_s
