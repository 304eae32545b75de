"""Places that answer when and as a test says, and one request that is tried at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.backends import base
from gateway.backends.base import Answer, AnswerStream, BackendFault, Chunk, Upstream, Usage
from gateway.clock import ManualClock
from gateway.facts import Facts
from gateway.labels import Labels
from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.policy.permit import permit
from gateway.routing.attempt import Attempt
from gateway.routing.attempts import Reached, Tried, attempt_in_order
from gateway.routing.health import Health
from gateway.routing.plan import Decision, Skipped
from tests.backends.support import chat
from tests.policy.bundles import loaded_default

BUNDLE = loaded_default().bundle
PERMITTED = permit(Facts("demo", "DE", "general", "gpt-oss-20b", Labels("public", frozenset())), BUNDLE)
UPSTREAM = Upstream("127.0.0.1", None, "id", False)
ASKED = Upstream("127.0.0.1", None, None, True)
USAGE = Usage(7, 3)
NAMES = ("local-engine", "bedrock-frankfurt", "bedrock-milan")
WORD = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":"word"}}]}'
Batch = tuple[Chunk, ...]


def answer(finish: str = "stop") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": finish}
    return Answer({"id": "x", "choices": [choice]}, USAGE, UPSTREAM)


class ScriptedStream:
    """A stream whose first batch is there; after `batches` it breaks, or is silent."""

    upstream = UPSTREAM

    def __init__(self, batches: Sequence[Batch], silent: bool) -> None:
        self.batches = list(batches)
        self.silent = silent
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Batch]:
        for batch in self.batches:
            yield batch
        if self.silent:
            await asyncio.Event().wait()
        raise base.Broken("cut")

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Scripted:
    """Fails with each of `faults` in turn, then answers; each call takes `takes_s` of the request's clock."""

    place: Place
    clock: ManualClock
    faults: list[BackendFault | BaseException] = field(default_factory=list)
    takes_s: float = 0.0
    answer: Answer = field(default_factory=answer)
    batches: Sequence[Batch] = ((Chunk(WORD),),)
    silent: bool = False
    calls: int = 0
    running: int = 0
    cancelled: int = 0
    streams: list[ScriptedStream] = field(default_factory=list)
    asked: Upstream = ASKED

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return ()

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        self.calls += 1
        self.running += 1
        try:
            if self.takes_s:
                await self.clock.sleep(self.takes_s)
            if self.faults:
                raise self.faults.pop(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return self.answer

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        await self.complete(attempt, chat, request_id)
        self.streams.append(ScriptedStream(self.batches, self.silent))
        return self.streams[-1]

    async def probe(self) -> None:
        return None


async def all_that_can_run() -> None:
    """Turns the loop until nothing moves that does not wait for the clock."""
    for _ in range(50):
        await asyncio.sleep(0)


def come_of(going: asyncio.Task[Reached]) -> Reached:
    """What has come of a request that must be over by now; raises what it raised."""
    assert going.done(), "it is still going on"
    return going.result()


@dataclass
class Run:
    """One request over three permitted places; `withdrawn` are those that today's bundle does not permit."""

    clock: ManualClock = field(default_factory=ManualClock)
    health: Health = field(default_factory=Health)
    tried: list[Tried] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    skipped: tuple[Skipped, ...] = ()
    attempted: tuple[str, ...] = NAMES
    context_tokens: Mapping[str, int] = field(default_factory=dict)
    first_byte_timeout_s: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    backends: dict[str, Scripted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in NAMES:
            self.backends[name] = Scripted(BUNDLE.places[name], self.clock)

    def __getitem__(self, name: str) -> Scripted:
        return self.backends[name]

    async def go(self, *, stream: bool = False) -> Reached:
        attempts = tuple(
            Attempt(
                BUNDLE.places[name], PERMITTED, self.first_byte_timeout_s, 1.0, self.context_tokens.get(name)
            )
            for name in self.attempted
        )
        return await attempt_in_order(
            replace(Decision("route", attempts, self.skipped), **self.options),
            chat(stream=stream),
            "req",
            self.backends,
            self.health,
            self.clock,
            lambda attempt: attempt.place.id not in self.withdrawn,
            self.tried,
        )

    async def begin(self, *, stream: bool = False) -> asyncio.Task[Reached]:
        """The request as it stands once nothing moves until time passes."""
        going = asyncio.create_task(self.go(stream=stream))
        await all_that_can_run()
        return going

    async def after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await all_that_can_run()

    @property
    def running(self) -> list[str]:
        return [name for name in NAMES if self.backends[name].running]

    @property
    def in_flight(self) -> dict[str, int]:
        """The places that count as busy."""
        return {name: state.in_flight for name, state in self.health.states.items() if state.in_flight}

    def outcomes(self) -> list[tuple[str, str]]:
        return [(one.place.id, one.outcome) for one in self.tried]

    def story(self) -> list[tuple[str, str, str]]:
        return [(one.place.id, one.kind, one.outcome) for one in self.tried]

    def kinds(self) -> list[str]:
        return [one.kind for one in self.tried]
