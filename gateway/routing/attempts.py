"""Trying the planned places in order: the one place where retry, fallback and spill happen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway import errors
from gateway.backends.base import (
    Answer,
    AnswerStream,
    Backend,
    BackendFault,
    Misconfigured,
    Refused,
    Saturated,
    Upstream,
)
from gateway.clock import Clock
from gateway.openai import ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt
from gateway.routing.health import Health
from gateway.routing.kind import Kind
from gateway.routing.plan import Decision

BACKOFF_S = 0.2
BACKOFF_MAX_S = 2.0
RETRY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Tried:
    """One try: `kind` says why it was made, `outcome` how it ended.

    An outcome is `answered`, `cancelled` (the client left), `withdrawn` (the policy in force by then permits
    it no longer, and nothing was sent) or a fault's kind.
    """

    place: Place
    outcome: str
    upstream: Upstream | None
    kind: Kind


@dataclass(frozen=True, slots=True)
class Reached:
    """The first attempt that answered; of a stream, the first chunk is there and the rest is to be read."""

    attempt: Attempt
    answer: Answer | AnswerStream
    kind: Kind


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
    """Tries each attempt until one answers; appends every try to `tried`, also when it raises.

    `still_permitted` is asked before each try, so that a bundle that was swapped meanwhile can only
    withdraw places; so does a place that now stands elsewhere under its name, or has no backend any more.
    A stream's place stays counted as busy until `release` is called for it.
    Raises `UpstreamRefused`, `ContextLengthExceeded`, `UpstreamMisconfigured`,
    `PermittedBackendSaturated` or `PermittedBackendUnavailable`.
    """
    faults: list[BackendFault] = []
    kind = decision.first_kind
    for attempt in decision.attempts:
        tries_left = None
        while (backend := backend_of(attempt, backends)) is not None and still_permitted(attempt):
            outcome = await attempt_once(attempt, chat, request_id, backend, health, clock, tried, kind)
            if isinstance(outcome, Reached):
                return outcome
            faults.append(outcome)
            if not outcome.try_next:
                raise refusal(outcome, attempt)
            tries_left = outcome.retry_here if tries_left is None else tries_left - 1
            if tries_left <= 0:
                break
            await asyncio.sleep(backoff_s(outcome.retry_here - tries_left))
            kind = "retry"
        else:
            tried.append(Tried(attempt.place, "withdrawn", None, kind))
        kind = "spill" if faults and isinstance(faults[-1], Saturated) else "fallback"
    raise exhausted(decision, faults)


def backend_of(attempt: Attempt, backends: Mapping[str, Backend]) -> Backend | None:
    """The backend at the very place that was permitted, not merely under its name."""
    backend = backends.get(attempt.place.id)
    return backend if backend is not None and backend.place == attempt.place else None


async def attempt_once(
    attempt: Attempt,
    chat: ChatRequest,
    request_id: str,
    backend: Backend,
    health: Health,
    clock: Clock,
    tried: list[Tried],
    kind: Kind,
) -> Reached | BackendFault:
    place = attempt.place
    health.started(place.id, clock.monotonic_s())
    try:
        answer: Answer | AnswerStream
        if chat.wants_stream:
            answer = await backend.stream(attempt, chat, request_id)
        else:
            answer = await backend.complete(attempt, chat, request_id)
            release(attempt, health)
    except BackendFault as fault:
        release(attempt, health)
        count_fault(attempt, fault, health, clock)
        tried.append(Tried(place, fault.kind, fault.upstream, kind))
        return fault
    except BaseException:
        release(attempt, health)
        health.neither(place.id)
        tried.append(Tried(place, "cancelled", None, kind))
        raise
    health.succeeded(place.id)
    tried.append(Tried(place, "answered", answer.upstream, kind))
    return Reached(attempt, answer, kind)


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


def refusal(fault: BackendFault, attempt: Attempt) -> errors.DouaneError:
    """What a caller reads when trying elsewhere would not help."""
    if isinstance(fault, Refused) and fault.code == "context_length_exceeded":
        return errors.ContextLengthExceeded(
            "the prompt and the requested answer do not fit the model's context; shorten `messages` or lower "
            "`max_completion_tokens`",
            param="messages",
        )
    if isinstance(fault, Misconfigured):
        return errors.UpstreamMisconfigured(
            f"the backend `{attempt.place.id}` refused the gateway's credentials, model id or region; "
            "its operator must fix this (`douane` logs name the cause)"
        )
    return errors.UpstreamRefused(
        f"the backend `{attempt.place.id}` refused the request as invalid "
        f"(`{getattr(fault, 'code', fault.kind)}`); change its parameters"
    )


def exhausted(decision: Decision, faults: list[BackendFault]) -> errors.DouaneError:
    """A backend is permitted, but none answered: never a reason to look further than `Permitted`."""
    retry_after_s = min(
        (fault.retry_after_s for fault in faults if fault.retry_after_s), default=RETRY_AFTER_S
    )
    if faults and all(isinstance(fault, Saturated) for fault in faults):
        return errors.PermittedBackendSaturated(
            "every permitted backend is full and this request may not spill elsewhere; try again after "
            f"{retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )
    unsupported = list(dict.fromkeys(name for one in decision.skipped for name in one.parameters))
    if (
        not decision.attempts
        and unsupported
        and not any(one.reason == "unavailable" for one in decision.skipped)
    ):
        return errors.UnsupportedParameter(
            f"no backend that is permitted for this request honours `{'`, `'.join(unsupported)}`; remove it",
            param=unsupported[0],
        )
    return errors.PermittedBackendUnavailable(
        "a backend is permitted for this request, but none of them can answer now; try again after "
        f"{retry_after_s:.0f} s",
        retry_after_s=retry_after_s,
    )
