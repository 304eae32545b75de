"""A small OpenAI-compatible server over real HTTP, which does exactly what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Upstream:
    """What the server received, and how it answers."""

    handler: Handler
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.method == "POST":
            self.bodies.append(orjson.loads(await request.read()))
        self.arrived.set()
        try:
            return await self.handler(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.gone.set()
            raise


@asynccontextmanager
async def running(handler: Handler) -> AsyncIterator[Upstream]:
    upstream = Upstream(handler)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.receive)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    try:
        yield upstream
    finally:
        await runner.cleanup()


def answering(status: int, body: Any, **headers: str) -> Handler:
    """Answers every request alike; a `bytes` body goes out as it is."""

    async def handler(request: web.Request) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=data, headers={"content-type": "application/json", **fields})

    return handler


def streaming(*parts: bytes, then_hang: bool = False, cut: bool = False) -> Handler:
    """Sends the parts one by one as server-sent events."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(0)
        if then_hang:
            await asyncio.sleep(60)
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return handler


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "upstream-1", "object": "chat.completion.chunk", "created": 17, "model": "upstream-model"}
    return {**head, "choices": choices, **fields}


def event(value: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
DONE = b"data: [DONE]\n\n"


def completion(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    head = {"id": "upstream-1", "object": "chat.completion", "created": 17, "model": "upstream-model"}
    return {**head, "choices": [choice], "usage": USAGE, **fields}
