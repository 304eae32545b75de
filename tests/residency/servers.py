"""The outside of the gateway: emulated regions and OpenAI-compatible servers, each with a ledger of its own.

Each request is told by the last of the marks in its text. Whoever listens hears of every request before the
answer is made, and says what is to be done with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from aiohttp import web

from gateway.testing.bedrock.answers import Reply
from gateway.testing.bedrock.app import Emulator, Scope, Send
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.model import Call, ServiceModel
from gateway.testing.bedrock.server import running_emulator
from gateway.testing.bedrock.signature import WireRequest
from tests.residency.geography import REGIONS
from tests.residency.worlds import SERVERS

TOO_LONG = "context_length_exceeded"
SECRET = "secret-of-the-made-up-servers"
MARK = re.compile(rb"mark[0-9a-z]+x[0-9]+z")
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}

# (where, mark, body) -> what is to be done; a word of `worlds.FAULTS`, or "" for an answer.
Listener = Callable[[str, str, bytes], Awaitable[str]]


def last_mark(body: bytes) -> str:
    """The mark of the newest text of a request; empty for a request that has none."""
    marks = MARK.findall(body)
    return marks[-1].decode() if marks else ""


BEDROCK_FAULTS = {
    "failed": Fault(kind="error", code="InternalServerException"),
    "throttled": Fault(kind="error", code="ThrottlingException"),
    "full": Fault(kind="error", code="ServiceQuotaExceededException"),
    "loading": Fault(kind="error", code="ModelNotReadyException"),
    "timed out": Fault(kind="error", code="ModelTimeoutException"),
    "cut": Fault(kind="cut"),
    "cut later": Fault(kind="cut", after_events=3),
    "garbage": Fault(kind="garbage"),
    "denied": Fault(kind="error", code="AccessDeniedException"),
    "invalid": Fault(kind="error", code="ValidationException"),
    "too long": Fault(
        kind="error", code="ValidationException", message="This exceeds the maximum context length."
    ),
}
STATUS = {"failed": 500, "throttled": 429, "full": 429, "loading": 503, "timed out": 408, "denied": 403,
          "invalid": 400, "too long": 400}  # fmt: skip


class ReadOnce(ServiceModel):
    """botocore's description, asked once: every injected error looks its shape up."""

    error_shapes = functools.cache(ServiceModel.error_shapes)


@dataclass(frozen=True, slots=True)
class Region(Emulator):
    """An emulated region that asks before it answers."""

    told: list[Listener] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)  # URLs of the other places, for redirects
    withheld: list[bool] = field(default_factory=list)  # whether the next answer is

    async def serve(self, scope: Scope, request: WireRequest, send: Send) -> None:
        todo = await self.told[0](self.region, last_mark(request.body), request.body)
        if todo == "redirected":
            target = self.elsewhere[len(self.ledger.entries) % len(self.elsewhere)]
            self.faults.add(Fault(kind="redirect", location=target + request.target))
        elif todo in BEDROCK_FAULTS:
            self.faults.add(BEDROCK_FAULTS[todo])
        self.withheld[:] = [todo == "withheld"]  # nobody else comes between this and `answer`
        # Named, for a slotted dataclass is another class than the one that `super()` would look for.
        await Emulator.serve(self, scope, request, send)

    async def answer(
        self, scope: Scope, call: Call, reply: Reply, fault: Fault | None, send: Send, request_id: str
    ) -> None:
        if self.withheld.pop():
            reply = replace(reply, stop_reason="content_filtered")
        await Emulator.answer(self, scope, call, reply, fault, send, request_id)


@dataclass(slots=True)
class Server:
    """An OpenAI-compatible server, or an engine; `ledger` holds the mark of each request that it was sent."""

    name: str
    told: list[Listener]
    elsewhere: list[str] = field(default_factory=list)
    ledger: list[str] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        mark = last_mark(body)
        self.ledger.append(mark)
        todo = await self.told[0](self.name, mark, body)
        if request.headers.get("authorization") != f"Bearer {SECRET}":
            return web.Response(status=401)
        if todo == "redirected":
            target = self.elsewhere[len(self.ledger) % len(self.elsewhere)]
            return web.Response(status=307, headers={"location": target + request.path})
        if todo in STATUS:
            error = {"message": "as the test says", "code": TOO_LONG if todo == "too long" else None}
            return web.json_response({"error": error}, status=STATUS[todo])
        if todo == "garbage":
            return web.Response(body=b"\x00not an answer", content_type="application/json")
        asked = orjson.loads(body)
        if asked.get("stream"):
            return await self.stream(request, mark, todo)
        if todo in ("cut", "cut later"):
            assert request.transport is not None
            request.transport.close()
        message = {"role": "assistant", "content": self.text(mark)}
        finish = "content_filter" if todo == "withheld" else "stop"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return web.json_response({"id": "x", "object": "chat.completion", "created": 1, "model": "m",
                                  "choices": [choice], "usage": USAGE})  # fmt: skip

    def text(self, mark: str) -> str:
        return f"said by {self.name} of {mark}"

    async def stream(self, request: web.Request, mark: str, todo: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        said = {"index": 0, "delta": {"content": self.text(mark)}, "finish_reason": None}
        finish = "content_filter" if todo == "withheld" else "stop"
        whole = [
            *([] if todo == "withheld" else [self.chunk([said])]),
            self.chunk([{"index": 0, "delta": {}, "finish_reason": finish}]),
            self.chunk([], usage=USAGE),
            b"data: [DONE]\n\n",
        ]
        kept = {"cut": 0, "cut later": 1}.get(todo, len(whole))
        if kept:
            await response.write(b"".join(whole[:kept]))
        if kept < len(whole):
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write_eof()
        return response

    def chunk(self, choices: list[Any], **more: Any) -> bytes:
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
        return b"data: %b\n\n" % orjson.dumps({**head, **more})


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything that runs: URLs by region and by server, the ledgers, and who is told of requests."""

    regions: dict[str, Region]
    servers: dict[str, Server]
    urls: dict[str, str]
    told: list[Listener]

    def received(self) -> dict[str, int]:
        """How many requests each place has been sent so far, by its own ledger."""
        counts = {
            region: sum(entry.kind == "request" for entry in emulator.ledger.entries)
            for region, emulator in self.regions.items()
        }
        return counts | {name: len(server.ledger) for name, server in self.servers.items()}


async def nobody(where: str, mark: str, body: bytes) -> str:
    raise AssertionError(f"{where} was sent a request while nothing was asked")


@asynccontextmanager
async def running_outside() -> AsyncIterator[Outside]:
    told: list[Listener] = [nobody]
    model = ReadOnce()
    regions = {region: Region(region, model=model, told=told) for region in REGIONS}
    servers = {name: Server(name, told) for name in SERVERS}
    urls: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for region, emulator in regions.items():
            running = await stack.enter_async_context(running_emulator(region, emulator=emulator))
            urls[region] = running.url
        for name, server in servers.items():
            app = web.Application()
            app.router.add_post("/v1/chat/completions", server.chat)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls[name] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for region, emulator in regions.items():
            emulator.elsewhere.extend(urls[name] for name in REGIONS if name != region)
        for server in servers.values():
            server.elsewhere.extend(urls[name] for name in REGIONS)
        yield Outside(regions, servers, urls, told)
