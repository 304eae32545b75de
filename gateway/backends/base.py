"""What the gateway asks of a backend, and the closed list of how a backend can fail.

BackendFault                kind of failure       tried again here   next place   breaker counts it
├── Unreachable             no connection, TLS    no                 yes          yes
├── TimedOut                no first byte in time no                 yes          yes
├── Throttled               429 of a shared quota yes, backing off   yes          no
├── Saturated               our engine is full    no                 yes (spill)  no
├── NotReady                model is loading      yes, longer        yes          no
├── ServerFault             5xx, 424              once               yes          yes
├── Broken                  answer cut or corrupt once, if no byte   yes, ditto   yes
├── Refused                 400: request invalid  no                 no           no
└── Misconfigured           401/403/404: our side no                 no           yes
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt

# No answer has a thousand million tokens; what claims so is damaged, and would not fit a record of its cost.
TOKENS_MAX: Final = 10**9


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `reasoning_tokens` are part of `completion_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0

    def wire(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True, slots=True)
class Upstream:
    """Who really answered: `host` is the one that the connection and the signature were made for.

    `redacted` counts, by kind, what was kept from it: spans that were sent as placeholders.
    """

    host: str
    region: str | None
    request_id: str | None
    emulated: bool
    redacted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reported:
    """What a backend says of its own load: how many answers it makes at once, how many requests wait."""

    slots: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: `body` is an OpenAI `chat.completion` object (`model` is the canonical name)."""

    body: dict[str, Any]
    usage: Usage
    upstream: Upstream


@dataclass(frozen=True, slots=True)
class Chunk:
    """One SSE event of a streamed answer.

    `data` is the JSON text of an OpenAI `chat.completion.chunk`, without `data: ` and line ends.
    The last chunk of a complete answer has `usage` (and empty `choices`); a stream that ends without
    one was cut, and the backend raises `Broken` instead of ending.
    """

    data: bytes
    finish_reason: str | None = None
    usage: Usage | None = None


class AnswerStream(Protocol):
    """A streamed answer whose first chunk has already arrived."""

    @property
    def upstream(self) -> Upstream: ...

    def __aiter__(self) -> AsyncIterator[tuple[Chunk, ...]]:
        """Batches of chunks, as they arrive together; raises `BackendFault` where the answer breaks."""
        ...

    async def aclose(self) -> None:
        """Cancels the upstream at once when the answer is not complete; safe to call twice."""
        ...


class Backend(Protocol):
    """One place that infers. Both calls raise only `BackendFault`s."""

    @property
    def place(self) -> Place: ...

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        """Names of the request's parameters that this backend cannot honour (pure)."""
        ...

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer: ...

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        """Returns once the first chunk is there, so that every earlier failure can still be retried."""
        ...

    async def probe(self) -> Reported | None:
        """Raises a `BackendFault` when the backend cannot take requests; costs no tokens.

        Returns its load, None if it says nothing of it.
        """
        ...


@runtime_checkable
class Named(Protocol):
    """A backend that says whom it asks also where no answer came: for calls that were cancelled."""

    @property
    def asked(self) -> Upstream | None: ...


def asked_by(backend: Backend) -> Upstream | None:
    """Whom the backend asks; None where it does not say."""
    return backend.asked if isinstance(backend, Named) else None


class BackendFault(Exception):
    """Base of what a backend can raise. The text never holds a caller's content."""

    kind: ClassVar[str] = "fault"
    retry_here: ClassVar[int] = 0  # further tries at the same place
    try_next: ClassVar[bool] = True
    trips_breaker: ClassVar[bool] = True

    def __init__(
        self, message: str, *, upstream: Upstream | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.upstream = upstream
        self.retry_after_s = retry_after_s


class Unreachable(BackendFault):
    kind = "unreachable"


class TimedOut(BackendFault):
    kind = "timed_out"


class Throttled(BackendFault):
    kind = "throttled"
    retry_here = 1
    trips_breaker = False


class Saturated(BackendFault):
    kind = "saturated"
    trips_breaker = False


class NotReady(BackendFault):
    kind = "not_ready"
    retry_here = 2
    trips_breaker = False


class ServerFault(BackendFault):
    kind = "server_fault"
    retry_here = 1


class Broken(BackendFault):
    kind = "broken"
    retry_here = 1


class Refused(BackendFault):
    kind = "refused"
    try_next = False
    trips_breaker = False

    def __init__(
        self, message: str, *, code: str = "upstream_refused", upstream: Upstream | None = None
    ) -> None:
        super().__init__(message, upstream=upstream)
        self.code = code  # `context_length_exceeded`, `content_filter`, … or `upstream_refused`


class Misconfigured(BackendFault):
    kind = "misconfigured"
    try_next = False
