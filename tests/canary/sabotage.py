"""A composition of the gateway whose parts fail as no real part should: with the prompt in their words."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway import logs
from gateway.app import create_app
from gateway.audit.base import AuditSink, Sealed
from gateway.backends.base import Answer, AnswerStream, Backend
from gateway.building import Backends
from gateway.openai import ChatRequest
from gateway.opening import open_context
from gateway.places import Place
from gateway.routing.attempt import Attempt
from gateway.server import GatewayServer, bound_socket, server_config
from gateway.settings import Settings
from gateway.store.base import Entered, Entry, Leaving, Store


class Said(Exception):
    """An error that quotes what it should not."""


def text_of(chat: ChatRequest) -> str:
    return str(chat.wire()["messages"][-1]["content"])


@dataclass(frozen=True)
class SabotagedBackend:
    """Does what the prompt says: `[[bug]]`, `[[chained]]`, `[[forgotten]]`, `[[abort]]` or `[[segfault]]`."""

    inner: Backend

    @property
    def place(self) -> Place:
        return self.inner.place

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        if "[[plan]]" in text_of(chat):
            raise Said(text_of(chat))
        return self.inner.unsupported(chat)

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        await self.fail(chat)
        return await self.inner.complete(attempt, chat, request_id)

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        await self.fail(chat)
        return await self.inner.stream(attempt, chat, request_id)

    async def probe(self) -> None:
        await self.inner.probe()

    async def fail(self, chat: ChatRequest) -> None:
        text = text_of(chat)
        if "[[bug]]" in text:
            raise Said(text)
        if "[[chained]]" in text:
            try:
                dict[str, str]()[text]
            except KeyError as error:
                raise ValueError(f"unexpected {text!r}") from error
        if "[[forgotten]]" in text:
            # Nobody awaits it: asyncio tells about it when it is collected.
            asyncio.get_running_loop().create_task(self.forgotten(text)).add_done_callback(lambda _: None)
        if "[[callback]]" in text:
            asyncio.get_running_loop().call_soon(self.raise_in_callback, text)
        if "[[abort]]" in text:
            os.abort()
        if "[[segfault]]" in text:
            os.kill(os.getpid(), signal.SIGSEGV)

    async def forgotten(self, text: str) -> None:
        raise Said(text)

    def raise_in_callback(self, text: str) -> None:
        raise Said(text)


class SabotagedBackends(Mapping[str, Backend]):
    """The real backends, each of which can be told to fail."""

    def __init__(self, inner: Backends) -> None:
        self.inner = inner

    def unable(self, chat: ChatRequest, model: str) -> dict[str, tuple[str, ...]]:
        SabotagedBackend(next(iter(self.inner.values()))).unsupported(chat)
        return self.inner.unable(chat, model)

    def runs(self, place: str, model: str) -> bool:
        return self.inner.runs(place, model)

    def __getitem__(self, place: str) -> Backend:
        return SabotagedBackend(self.inner[place])

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


@dataclass
class SabotagedStore:
    """Fails on every third call, quoting all that it was given."""

    inner: Store
    calls: int = 0

    async def enter(self, entry: Entry) -> Entered:
        self.fail(entry)
        return await self.inner.enter(entry)

    async def leave(self, leaving: Leaving) -> None:
        self.fail(leaving)
        await self.inner.leave(leaving)

    async def fetch(self, tenant: str, key: str) -> bytes | None:
        self.fail((tenant, key))
        return await self.inner.fetch(tenant, key)

    async def healthy(self) -> bool:
        return False

    async def aclose(self) -> None:
        await self.inner.aclose()

    def fail(self, given: object) -> None:
        self.calls += 1
        if self.calls % 3 == 0:
            raise Said(repr(given))


@dataclass
class SabotagedAudit:
    """Fails on every fifth record, quoting it."""

    inner: AuditSink
    calls: int = 0

    @property
    def replica(self) -> str:
        return self.inner.replica

    @property
    def head(self) -> Sealed:
        return self.inner.head

    async def append(self, kind: str, fields: Mapping[str, Any]) -> Sealed:
        self.calls += 1
        if self.calls % 5 == 0:
            raise Said(repr(fields))
        return await self.inner.append(kind, fields)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def serve_sabotaged(
    settings: Settings, demo_keys: Mapping[str, str], started: Callable[[int], None]
) -> None:
    """`gateway.serving.serve` with a backend that can be told to fail."""
    await serve_with(settings, demo_keys, started, flaky=False)


async def serve_flaky(
    settings: Settings, demo_keys: Mapping[str, str], started: Callable[[int], None]
) -> None:
    """The same with a store and an audit that fail now and then."""
    await serve_with(settings, demo_keys, started, flaky=True)


async def serve_with(
    settings: Settings, demo_keys: Mapping[str, str], started: Callable[[int], None], *, flaky: bool
) -> None:
    logs.log_loop_errors(asyncio.get_running_loop())
    async with open_context(settings, demo_keys) as context:
        parts: dict[str, Any] = {"backends": SabotagedBackends(context.backends)}
        if flaky:
            parts |= {"store": SabotagedStore(context.store), "audit": SabotagedAudit(context.audit)}
        broken = replace(context, **parts)
        server = GatewayServer(
            server_config(create_app(settings, broken), settings), broken.readiness.stop, started
        )
        await server.serve([bound_socket(settings)])
