"""Trying the planned places: the one place where retries, fallbacks, spill and hedges happen.

Every try, whatever its kind, begins in `at_place`, which asks once more whether it is still permitted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.backends.base import Answer, AnswerStream, Backend, BackendFault, asked_by
from gateway.clock import Clock
from gateway.openai import ChatRequest
from gateway.routing import withheld
from gateway.routing.attempt import Attempt
from gateway.routing.health import Health
from gateway.routing.hedge import beside
from gateway.routing.kind import Kind
from gateway.routing.onward import onward, with_larger_context
from gateway.routing.plan import Decision
from gateway.routing.refusals import exhausted, refusal
from gateway.routing.tried import Failed as Failed
from gateway.routing.tried import Reached as Reached
from gateway.routing.tried import Tried as Tried
from gateway.routing.tried import Withheld

BACKOFF_S = 0.2
BACKOFF_MAX_S = 2.0


@dataclass(slots=True)
class Tries:
    """The tries of one request. `pending` are the planned attempts that nobody has begun, `busy` the places
    that are being tried; `faults` are all that were met, `tried` is what is told of each try."""

    decision: Decision
    chat: ChatRequest
    request_id: str
    backends: Mapping[str, Backend]
    health: Health
    clock: Clock
    still_permitted: Callable[[Attempt], bool]
    tried: list[Tried]
    pending: list[Attempt]
    busy: set[str] = field(default_factory=set)
    faults: list[BackendFault] = field(default_factory=list)


async def attempt_in_order(
    decision: Decision,
    chat: ChatRequest,
    request_id: str,
    backends: Mapping[str, Backend],
    health: Health,
    clock: Clock,
    still_permitted: Callable[[Attempt], bool],
    tried: list[Tried],
) -> Reached:
    """Tries each attempt until one answers; adds every try to `tried`, also when it raises.

    `still_permitted` is asked before each try, so that a bundle that was swapped meanwhile can only
    withdraw places; so does a place that now stands elsewhere under its name, or has no backend any more.
    A stream's place stays counted as busy until `release` is called for it.
    Raises `UpstreamRefused`, `ContextLengthExceeded`, `UpstreamMisconfigured`,
    `PermittedBackendSaturated` or `PermittedBackendUnavailable`.
    """
    tries = Tries(
        decision, chat, request_id, backends, health, clock, still_permitted, tried, list(decision.attempts)
    )
    kind, last = decision.first_kind, None
    while tries.pending:
        attempt = tries.pending.pop(0)
        if decision.hedge_after_s is None:
            outcome = await at_place(attempt, kind, tries)
        else:
            outcome = await beside(attempt, kind, tries, at_place, decision.hedge_after_s)
        if isinstance(outcome, Reached):
            return outcome
        if outcome is None:  # withdrawn, and nothing learnt: why the next is tried stays as it was
            kind = "fallback" if kind == "first" else kind
            continue
        last, moved_on = outcome, onward(outcome, decision)
        if moved_on is None:
            raise refusal(outcome)
        kind = moved_on
    raise refusal(last) if last is not None and not last.fault.try_next else exhausted(decision, tries.faults)


async def at_place(attempt: Attempt, kind: Kind, tries: Tries) -> Reached | Failed | None:
    """Tries at one place, again where its fault says so. None: it was withdrawn before the first try."""
    failed, tries_left = None, None
    while (backend := backend_of(attempt, tries.backends)) is not None and tries.still_permitted(attempt):
        outcome = await attempt_once(attempt, kind, backend, tries)
        if isinstance(outcome, Reached):
            return outcome
        tries.faults.append(outcome)
        failed = Failed(attempt, outcome)
        tries_left = outcome.retry_here if tries_left is None else tries_left - 1
        if tries_left <= 0:
            if onward(failed, tries.decision) == "context_window":
                tries.pending = with_larger_context(tries.pending, than=attempt)
            return failed
        await asyncio.sleep(backoff_s(outcome.retry_here - tries_left))
        kind = "retry"
    tries.tried.append(Tried(attempt.place, "withdrawn", None, kind))
    return failed


def backend_of(attempt: Attempt, backends: Mapping[str, Backend]) -> Backend | None:
    """The backend at the very place that was permitted, not merely under its name."""
    backend = backends.get(attempt.place.id)
    return backend if backend is not None and backend.place == attempt.place else None


async def attempt_once(
    attempt: Attempt, kind: Kind, backend: Backend, tries: Tries
) -> Reached | BackendFault:
    place, health, number = attempt.place, tries.health, len(tries.tried)
    health.started(place.id, tries.clock.monotonic_s())
    tries.busy.add(place.id)
    tries.tried.append(Tried(place, "cancelled", None, kind))  # unless it comes to another end
    try:
        answer = await ask(attempt, backend, tries)
    except BackendFault as fault:
        release(attempt, health)
        count_fault(attempt, fault, health, tries.clock)
        usage = fault.usage if isinstance(fault, Withheld) else None
        tries.tried[number] = Tried(place, fault.kind, fault.upstream, kind, usage)
        return fault
    except BaseException:
        release(attempt, health)
        health.neither(place.id)
        tries.tried[number] = Tried(place, "cancelled", asked_by(backend), kind)
        raise
    finally:
        tries.busy.discard(place.id)
    if isinstance(answer, Answer):
        release(attempt, health)
    health.succeeded(place.id)
    tries.tried[number] = Tried(place, "answered", answer.upstream, kind)
    return Reached(attempt, answer, kind)


async def ask(attempt: Attempt, backend: Backend, tries: Tries) -> Answer | AnswerStream:
    """The answer; where the route looks elsewhere for one that is withheld, and it can, such a one raises."""
    moves_on = tries.decision.on_content_filter == "next"
    if tries.chat.wants_stream:
        stream = await backend.stream(attempt, tries.chat, tries.request_id)
        return await withheld.require_stream(stream, attempt) if moves_on and more(tries) else stream
    answer = await backend.complete(attempt, tries.chat, tries.request_id)
    if moves_on and more(tries):
        withheld.require_answer(answer, attempt)
    return answer


def more(tries: Tries) -> bool:
    """Whether anything is left to be tried, or being tried beside."""
    return bool(tries.pending) or len(tries.busy) > 1


def release(attempt: Attempt, health: Health) -> None:
    """The request no longer occupies the place."""
    health.finished(attempt.place.id)


def count_fault(attempt: Attempt, fault: BackendFault, health: Health, clock: Clock) -> None:
    if fault.trips_breaker:
        health.failed(attempt.place.id, clock.monotonic_s())
    else:
        health.neither(attempt.place.id)


def backoff_s(retry: int) -> float:
    """Full jitter: uniform between 0 and a bound that doubles with each retry, in seconds."""
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**retry))  # noqa: S311 - spreads load, guards nothing
