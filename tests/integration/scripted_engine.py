"""A stand-in for the engine that does as the test says: hangs, breaks off, is full, or says a given text."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SECRET = "secret-of-the-scripted-engine"
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass(slots=True)
class ScriptedEngine:
    """What it is to do with the next requests, and what it has seen.

    While `free` is not set it does nothing. `status` other than 200 refuses with `error`; `text` is said in
    words of a stream, `pause_s` between two; after `break_after` words the connection is cut.
    """

    url: str = ""
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    text: str = "one two three"
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    pause_s: float = 0.0
    free: threading.Event = field(default_factory=set_event)
    break_after: int | None = None
    garbage: bytes | None = None
    received: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        fresh = ScriptedEngine(url=self.url)
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(fresh, name))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {SECRET}":
            return web.Response(status=401)
        body = await request.json()
        self.received.append(body)
        self.headers.append(dict(request.headers))
        self.started.set()
        try:
            await asyncio.to_thread(self.free.wait, 60)
            if self.status != 200:
                return web.json_response({"error": self.error}, status=self.status)
            if self.garbage is not None:
                return web.Response(body=self.garbage, content_type="application/json")
            if body.get("stream"):
                return await self.stream(request)
            await asyncio.sleep(self.pause_s)
            if self.break_after is not None and request.transport is not None:
                request.transport.close()
            return web.json_response(self.completion())
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up.set()
            raise

    def completion(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None if self.tool_calls else self.text}
        if self.reasoning:
            message["reasoning"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        finish = "tool_calls" if self.tool_calls else "stop"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": USAGE,
        }

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, delta in enumerate(self.deltas()):
            if number == self.break_after:
                assert request.transport is not None
                request.transport.close()
                return response
            await self.say(response, delta)
            await asyncio.sleep(self.pause_s)
        await self.say(response, {}, "tool_calls" if self.tool_calls else "stop")
        await response.write(b"data: %b\n\ndata: [DONE]\n\n" % self.chunk([], USAGE))
        await response.write_eof()
        return response

    def deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        if self.reasoning:
            yield {"reasoning": self.reasoning}
        for index, call in enumerate(self.tool_calls or ()):
            yield {"tool_calls": [{"index": index, **call}]}
        for word in self.text.split(" ") if not self.tool_calls else ():
            yield {"content": f"{word} "}

    async def say(
        self, response: web.StreamResponse, delta: dict[str, Any], finish: str | None = None
    ) -> None:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        await response.write(b"data: %b\n\n" % self.chunk(choices))

    def chunk(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
        return json.dumps(head | ({"usage": usage} if usage else {})).encode()

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-oss-20b", "object": "model"}]})

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


@contextmanager
def running_scripted_engine() -> Iterator[ScriptedEngine]:
    """Serves on a free port, on an event loop in a thread."""
    engine = ScriptedEngine()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", engine.chat)
        app.router.add_get("/v1/models", engine.models)
        app.router.add_get("/health", engine.health)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    thread = threading.Thread(target=loop.run_forever, name="scripted-engine", daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield engine
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
