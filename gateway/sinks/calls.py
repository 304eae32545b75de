"""Backends that note how long each of their calls took, for the trace of one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gateway.backends.base import Answer, AnswerStream, Backend, BackendFault, Reported, Upstream, asked_by
from gateway.clock import Clock
from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt
from gateway.sinks.timing import Timing

Said = TypeVar("Said", Answer, AnswerStream)
CALL = "call"


@dataclass(frozen=True, slots=True)
class TimedBackend:
    """A `Backend`, each of whose calls is noted in `timings`."""

    inner: Backend
    timings: list[Timing]
    clock: Clock

    @property
    def place(self) -> Place:
        return self.inner.place

    @property
    def asked(self) -> Upstream | None:
        return asked_by(self.inner)

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return self.inner.unsupported(chat)

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        return await self._noted(lambda: self.inner.complete(attempt, chat, request_id))

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        return await self._noted(lambda: self.inner.stream(attempt, chat, request_id))

    async def probe(self) -> Reported | None:
        return await self.inner.probe()

    async def _noted(self, call: Callable[[], Awaitable[Said]]) -> Said:
        started_s, outcome, upstream = self.clock.monotonic_s(), "cancelled", None
        try:
            said = await call()
            outcome, upstream = "answered", said.upstream
            return said
        except BackendFault as fault:
            outcome, upstream = fault.kind, fault.upstream
            raise
        except Exception:
            outcome = "bug"
            raise
        finally:
            ended_s = self.clock.monotonic_s()
            self.timings.append(Timing(CALL, started_s, ended_s, self.place, outcome, upstream))


@dataclass(frozen=True, slots=True)
class TimedBackends(Mapping[str, Backend]):
    """The backends, each of them timed."""

    inner: Mapping[str, Backend]
    timings: list[Timing]
    clock: Clock

    def __getitem__(self, place: str) -> Backend:
        return TimedBackend(self.inner[place], self.timings, self.clock)

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)
