"""Hedging: where a place lets the client wait, the next planned one is asked beside it.

At most two places are tried at once. The first with a first byte (a plain answer: with the whole answer) is
the one that answers, and the other is cancelled at once. A hedge is an attempt of the plan like any other:
whether it is still permitted is asked again before it begins, and it counts towards `attempts_max`, because
the plan holds no more than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.backends.base import Answer
from gateway.clock import Clock
from gateway.policy.routes import Route
from gateway.routing.attempt import Attempt
from gateway.routing.kind import Kind
from gateway.routing.onward import onward
from gateway.routing.tried import Failed, Reached

if TYPE_CHECKING:
    from gateway.routing.attempts import Tries

Outcome = Reached | Failed | None
AtPlace = Callable[[Attempt, Kind, "Tries"], Awaitable[Outcome]]
Lane = asyncio.Task[Outcome]  # all tries at one place
AT_ONCE = 2


def calls_at_once(route: Route) -> int:
    """How many calls for one request may be under way, and so be billed, at the same time."""
    return 1 if route.hedge_after_s is None else AT_ONCE


async def beside(attempt: Attempt, kind: Kind, tries: Tries, at_place: AtPlace, after_s: float) -> Outcome:
    """Tries at one place, and beside it at the next whenever nothing has come for `after_s` seconds.

    What the place that answered gave, or the last fault once nothing is tried any more; None: all were
    withdrawn. A fault that is the last word ends it, whatever else is being tried.
    """
    lanes: dict[Lane, str] = {}  # to the id of the place
    kept: Lane | None = None
    try:
        async with asyncio.TaskGroup() as group:  # leaves nothing running, however it is left

            def begin(attempt: Attempt, kind: Kind) -> None:
                lanes[group.create_task(lane(attempt, kind, tries, at_place))] = attempt.place.id

            begin(attempt, kind)
            settled, last, wait_s = None, None, after_s
            while settled is None and (running := [one for one in lanes if not one.done()]):
                may_hedge = len(running) < AT_ONCE and bool(tries.pending)
                done = await first_done(running, tries.clock, wait_s if may_hedge else None)
                wait_s = after_s
                for one in done:  # where two are done at once, the one that was asked first counts
                    outcome = one.result()
                    last = outcome or last
                    if outcome is None:
                        wait_s = 0.0  # it was withdrawn, so the next one is due
                    elif settled is None and is_last_word(outcome, tries):
                        settled = one
                if not done:
                    hedge = next_hedge(tries, [lanes[one] for one in running])
                    if hedge is not None:
                        begin(hedge, "hedge")
            for one in lanes:
                one.cancel()
        kept = settled
    finally:
        for one in lanes:
            if one is not kept:
                await discard(one, tries)
        if kept is not None:
            tell_outrun(tries)
    return kept.result() if kept is not None else last


async def lane(attempt: Attempt, kind: Kind, tries: Tries, at_place: AtPlace) -> Outcome:
    return await at_place(attempt, kind, tries)


def is_last_word(outcome: Reached | Failed, tries: Tries) -> bool:
    return isinstance(outcome, Reached) or onward(outcome, tries.decision) is None


async def first_done(running: list[Lane], clock: Clock, within_s: float | None) -> list[Lane]:
    """Those that are done as soon as any is; none when `within_s` seconds passed first."""
    timer = None if within_s is None else asyncio.ensure_future(clock.sleep(within_s))
    try:
        await asyncio.wait(
            running if timer is None else [*running, timer], return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        if timer is not None:
            timer.cancel()
    return [one for one in running if one.done()]


def next_hedge(tries: Tries, busy: Collection[str]) -> Attempt | None:
    """The next planned attempt that may be a hedge, taken from the plan.

    Never at a place that is being tried, whose breaker is open, or that was put last for having too much to
    do: those stay in the plan, for when nothing else is left.
    """
    now_s = tries.clock.monotonic_s()
    for attempt in tries.pending:
        place = attempt.place.id
        if place in busy or place in tries.decision.too_busy:
            continue
        if tries.health.state(place).accepts(now_s):
            tries.pending.remove(attempt)
            return attempt
    return None


async def discard(one: Lane, tries: Tries) -> None:
    """Gives up what a lane came to: one that answered in the same moment holds a stream or used tokens."""
    if one.cancelled() or one.exception() is not None:
        return
    outcome = one.result()
    if not isinstance(outcome, Reached):
        return
    usage = None
    if isinstance(outcome.answer, Answer):
        usage = outcome.answer.usage
    else:
        tries.health.finished(outcome.attempt.place.id)
        await outcome.answer.aclose()
    for number, tried in enumerate(tries.tried):
        if tried.place is outcome.attempt.place and tried.outcome == "answered":
            tries.tried[number] = replace(tried, outcome="cancelled", usage=usage)


def tell_outrun(tries: Tries) -> None:
    """What was cancelled was cancelled by the gateway, not by the client."""
    for number, tried in enumerate(tries.tried):
        if tried.outcome == "cancelled":
            tries.tried[number] = replace(tried, outcome="outrun")
