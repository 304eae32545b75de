"""A gateway in the test's own process: real parts, backends that do as told, a client at its ASGI door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.app import ChatEndpoint
from gateway.audit.chain import Link, unseal
from gateway.backends.base import Answer, Backend, Chunk, Upstream, Usage
from gateway.context import GatewayContext
from gateway.keys.opening import MASTER_KEY
from gateway.keys.wrapping import MasterKey
from gateway.openai import ChatRequest
from gateway.opening import RECEIPT_KEY, open_context
from gateway.places import Place
from gateway.receipts.keys import create_key
from gateway.routing.attempt import Attempt
from gateway.settings import Settings
from tests.integration.bundle import DEMO, DEMO_KEYS

UPSTREAM = Upstream("127.0.0.1", None, "upstream-1", False)
USAGE = Usage(5, 3)
Step = tuple[Chunk, ...] | Exception | Callable[[], Awaitable[None]]


def word(text: str, finish: str | None = None) -> Chunk:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return Chunk(json.dumps(chunk, separators=(",", ":")).encode(), finish)


def end(usage: Usage = USAGE) -> Chunk:
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
    return Chunk(json.dumps({**chunk, "usage": usage.wire()}).encode(), None, usage)


WHOLE: Sequence[Step] = ((word("one "),), (word("two", "stop"), end()))


class ScriptedStream:
    """An `AnswerStream` that takes one step after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self.upstream = UPSTREAM
        self.closed = False

    def __aiter__(self) -> ScriptedStream:
        return self

    async def __anext__(self) -> tuple[Chunk, ...]:
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, tuple):
                return step
            await step()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class ScriptedBackend:
    """A `Backend` that answers with `steps`; `before` runs first in every call."""

    place: Place
    steps: Sequence[Step] = WHOLE
    text: str = "one two"
    upstream: Upstream = UPSTREAM
    usage: Usage = USAGE
    before: Callable[[], Awaitable[None]] | None = None
    attempts: list[Attempt] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return ()

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        self.attempts.append(attempt)
        if self.before is not None:
            await self.before()
        message = {"role": "assistant", "content": self.text}
        body = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": 1,
            "model": attempt.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": self.usage.wire(),
        }
        return Answer(body, self.usage, self.upstream)

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> ScriptedStream:
        self.attempts.append(attempt)
        if self.before is not None:
            await self.before()
        stream = ScriptedStream(self.steps)
        stream.upstream = self.upstream
        self.streams.append(stream)
        return stream

    async def probe(self) -> None:
        """Always ready."""


class Backends(dict[str, Backend]):
    """Scripted backends where the gateway has its own."""

    def unable(self, chat: ChatRequest, model: str) -> dict[str, tuple[str, ...]]:
        return {}

    def runs(self, place: str, model: str) -> bool:
        return True


def make_keys(state_dir: Path) -> None:
    state_dir.mkdir(parents=True)
    MasterKey.create(state_dir / MASTER_KEY)
    create_key(state_dir / RECEIPT_KEY)


@asynccontextmanager
async def gateway(state_dir: Path, policies: Path, **settings: Any) -> AsyncIterator[GatewayContext]:
    """A context over the bundle in `policies`, with the in-process store and no backend."""
    make_keys(state_dir)
    given = {"policy_poll_s": 3600, "state_dir": state_dir, "policies": policies, **settings}
    async with open_context(Settings.model_validate(given), DEMO_KEYS) as context:
        yield context


def script(context: GatewayContext, *places: str, **told: Any) -> ScriptedBackend:
    """A backend that does as told at each of `places` (default: the local engine); returns the last."""
    for place in places or ("local-engine",):
        backend = ScriptedBackend(context.policies.current.places[place], **told)
        context.backends._backends[place] = backend
    return backend


@dataclass
class Client:
    """One request at the ASGI door. `gone` set: it has hung up; `reads` not set: it takes no bytes."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    sent: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event | None = None
    _told: bool = False

    async def receive(self) -> dict[str, Any]:
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        if self.reads is not None:
            await self.reads.wait()
        self.sent.append(dict(message))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def answer(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.sent[0]["headers"] if key == name.encode()]
        return found[0].decode() if found else None

    async def ask(self, context: GatewayContext) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [*self.headers],
        }
        await ChatEndpoint(context.settings, context)(scope, self.receive, self.send)


def chat(*texts: str, key: str = DEMO, labels: str | None = None, **fields: Any) -> Client:
    """A client whose messages are `texts`, user and assistant in turn."""
    messages = [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(texts or ("hello",))
    ]
    body = {"model": "gpt-oss-20b", "messages": messages, **fields}
    headers = [(b"authorization", b"Bearer " + key.encode())]
    if labels is not None:
        headers.append((b"x-douane-labels", labels.encode()))
    return Client(json.dumps(body).encode(), tuple(headers))


def records(context: GatewayContext) -> list[Link]:
    """What the audit holds of requests, in order."""
    path = context.audit.path  # type: ignore[attr-defined]
    links = [unseal(line) for line in path.read_bytes().splitlines()]
    return [link for link in links if link.kind in ("begin", "end", "refused")]


def kinds(context: GatewayContext) -> list[str]:
    return [link.kind for link in records(context)]
