"""What goes into a step and what comes out of it: the seams of the engine, as plain values and protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from local_engine.errors import RequestError
from local_engine.scheduler import Plan, Reason

if TYPE_CHECKING:
    from local_engine.sampling import Logprobs


class Grammar(Protocol):
    """What one choice may say next."""

    def fill(self, mask: Any) -> None:
        """Sets in int32 [ceil(V / 32)] bit v % 32 of word v // 32 for each token v that may come next.

        May be called on another thread than `accept`, never at the same time.
        """

    def accept(self, token: int) -> None:
        """A token was sampled, one that the last mask allowed."""


class Sampled(NamedTuple):
    """What a sampled row gave: a token, or -1 when its logits were unusable."""

    token: int
    logprobs: Logprobs | None


class Ticket(Protocol):
    """A step under way."""

    def results(self) -> list[Sampled]:
        """Waits for the step; one entry for each of `plan.sampling`, in order. Raises `DeviceLost`."""


class Runner(Protocol):
    """Computes steps. `overlaps`: a step may be launched before the one before it has given its results."""

    @property
    def overlaps(self) -> bool: ...

    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> Ticket:
        """Begins a step; `grammars` belong to `plan.sampling`. Raises `DeviceLost`."""


class Token(NamedTuple):
    """One sampled token of a choice, stop tokens included."""

    choice: int
    id: int
    logprobs: Logprobs | None


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice is over: a stop token, the token limit, or `cancel`. The cache held `cached_tokens` of its
    prompt."""

    choice: int
    reason: Reason
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The whole request broke off with an error that may be shown."""

    error: RequestError


Step = Token | Finished | Failed
Deliver = Callable[[Step], None]
