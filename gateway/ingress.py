"""The edge towards clients: reading a request within bounds, and writing a reply, plain or streamed.

Written on ASGI itself: one request costs no more objects than it needs, and a body over the limit is refused
without being held.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.arrival import EXTENSION, Arrival
from gateway.errors import (
    BodyTooLarge,
    DouaneError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    ShuttingDown,
    UnsupportedEncoding,
)
from gateway.hidden import Hidden, HiddenBytes
from gateway.receipts.nonce import nonce_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON_TYPE = b"application/json"
# A body over the limit is read and thrown away up to this many times the limit, so that a client that sends
# before it listens still hears why it was refused.
DISCARD_LIMITS = 4
CUT_OFF = ShuttingDown("this gateway stopped before the answer was complete; send the request again")


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request as the gateway reads it. Of `x-douane-*`, labels and nonce are read; the rest is ignored.

    `traceparent` is what the caller sent, and may be anything.
    """

    request_id: str
    authorization: Hidden | None
    labels: str | None
    body: bytes
    traceparent: bytes | None = None
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: `body` whole, or as pieces of an event stream."""

    status: int
    headers: Headers
    body: bytes | AsyncGenerator[bytes, None]


class ClientGone(Exception):
    """The client hung up before its request was complete: there is nobody to answer."""


def hide_key(scope: Scope) -> None:
    """From here on nothing that shows the request's headers shows its API key."""
    headers = scope["headers"]
    for position, (name, value) in enumerate(headers):
        if name == b"authorization":
            scope["headers"] = headers = [*headers]
            headers[position] = (name, HiddenBytes(value))


def new_request_id() -> str:
    return f"req_{os.urandom(16).hex()}"


async def read_request(
    scope: Scope, receive: Receive, request_id: str, limit_bytes: int, head_limit_bytes: int, timeout_s: float
) -> Incoming:
    """Reads a JSON request.

    Raises `InvalidRequest`, `HeadersTooLarge`, `BodyTooLarge`, `UnsupportedEncoding`, `RequestTimeout` or
    `ClientGone`.
    """
    authorization = content_type = traceparent = None
    labels: list[str] = []
    nonces: list[bytes] = []
    declared_bytes: int | None = None
    head_bytes = 0
    for name, value in scope["headers"]:
        head_bytes += len(name) + len(value)
        if name == b"authorization":
            if authorization is not None:
                raise InvalidRequest("the `authorization` header is there more than once; send one API key")
            authorization = Hidden(value.decode("latin-1"))
        elif name == b"x-douane-labels":
            labels.append(value.decode("latin-1"))
        elif name == b"x-douane-nonce":
            nonces.append(value)
        elif name == b"content-type":
            content_type = value
        elif name == b"traceparent":
            traceparent = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedEncoding(
                "compressed bodies are not read; send the JSON as it is, without `content-encoding`"
            )
        elif name == b"content-length":
            declared_bytes = int(value) if value.isdigit() else None
    if head_bytes > head_limit_bytes:
        raise HeadersTooLarge(
            f"the request's headers are over the limit of {head_limit_bytes} bytes; send fewer"
        )
    nonce = nonce_of(nonces)
    if content_type is not None and content_type.partition(b";")[0].strip().lower() != JSON_TYPE:
        raise UnsupportedEncoding(
            "the body's `content-type` is not JSON; send `content-type: application/json`"
        )
    arrival: Arrival | None = scope.get("extensions", {}).get(EXTENSION)
    try:
        if arrival is not None and arrival.whole:
            body = await read_body(receive, declared_bytes, limit_bytes)
        else:
            async with asyncio.timeout(timeout_s):
                body = await read_body(receive, declared_bytes, limit_bytes)
    except TimeoutError:
        raise RequestTimeout(
            f"the body did not arrive within {timeout_s:g} s; send it faster or in smaller pieces"
        ) from None
    return Incoming(request_id, authorization, ",".join(labels) if labels else None, body, traceparent, nonce)


async def read_body(receive: Receive, declared_bytes: int | None, limit_bytes: int) -> bytes:
    too_large_text = f"the body is over the limit of {limit_bytes} bytes; shorten `messages`"
    if declared_bytes is not None and declared_bytes > limit_bytes * DISCARD_LIMITS:
        raise BodyTooLarge(too_large_text)  # too much even to throw away: answered before it is sent
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(body) <= limit_bytes:
        return body
    pieces, size = [body], len(body)
    too_large = size > limit_bytes or (declared_bytes is not None and declared_bytes > limit_bytes)
    while message.get("more_body", False):
        if too_large:
            pieces.clear()
            if size > limit_bytes * DISCARD_LIMITS:
                break
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        too_large = too_large or size > limit_bytes
        if not too_large:
            pieces.append(piece)
    if too_large:
        raise BodyTooLarge(too_large_text)
    return b"".join(pieces)


def error_reply(error: DouaneError, request_id: str, extra: Headers | None = None) -> Reply:
    headers: Headers = [(b"x-request-id", request_id.encode()), *(extra or [])]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    if isinstance(error, (BodyTooLarge, RequestTimeout)):
        headers.append((b"connection", b"close"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return json_reply(error.status, error.body(), headers)


def json_reply(status: int, content: Any, headers: Headers | None = None) -> Reply:
    return Reply(status, headers or [], orjson.dumps(content))


def sse_event(data: bytes) -> bytes:
    """One server-sent event; `data` has no line ends."""
    return b"data: %b\n\n" % data


async def write_reply(reply: Reply, send: Send, gone: Callable[[], bool]) -> None:
    """Sends a whole body, or an event stream piece by piece.

    A stream that this process must cut off ends with an error event, unless the client is `gone`.
    """
    headers = [*reply.headers]
    if isinstance(reply.body, bytes):
        if not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", JSON_TYPE))
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        return
    headers += [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ]
    begun = False
    try:
        async with aclosing(reply.body) as pieces:
            # Run before anything is sent: only a generator that has run can say how it ended.
            first = await anext(pieces, b"")
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            begun = True
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except asyncio.CancelledError:
        if begun and not gone():
            await send({"type": "http.response.body", "body": sse_event(orjson.dumps(CUT_OFF.body()))})
        raise
    await send({"type": "http.response.body", "body": b""})
