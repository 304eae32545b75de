"""Rate and money limits of one key: sliding minutes, a calendar day, and requests at work.

A minute is kept as counters of five seconds. What counts is the present one and the twelve before it, which
cover the last sixty seconds whole: so never more than the limit in *any* sixty seconds, and use is forgotten
60 to 65 seconds after it. Money counts by the calendar day of UTC.

A reservation counts at once, so that requests at the same time cannot overrun a limit together; settling
corrects it to what was used. One that never settles (its worker died) frees its place among the requests at
work after `HELD_S`, leaves the minute with it, and stays charged for the day: the answer it was for may well
have been paid.

`lua/limits.lua` is the same arithmetic inside Redis; the tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.facts import Limits
from gateway.store.base import Overrun, Reservation

STEP_MS = 5_000
STEPS = 13  # the present one and the twelve that cover sixty seconds before it
DAY_MS = 86_400_000
HELD_S = 900  # longer than any request may take (`total_timeout_s` of a route)
CONCURRENT_RETRY_S = 1.0
NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Caps:
    """`Limits` in whole units; None is unbounded."""

    requests: int | None
    tokens: int | None
    usd_nano: int | None
    concurrent: int | None

    @property
    def any(self) -> bool:
        """Whether there is anything to count."""
        return self.requests is not None or self.holds

    @property
    def holds(self) -> bool:
        """Whether there is anything that a request gives back when it leaves."""
        return not (self.tokens is None and self.usd_nano is None and self.concurrent is None)


def caps_of(limits: Limits) -> Caps:
    usd = limits.usd_per_day
    return Caps(
        requests=limits.requests_per_minute,
        tokens=limits.tokens_per_minute,
        usd_nano=None if usd is None else round(usd * NANO),
        concurrent=limits.max_concurrent,
    )


def share_of(caps: Caps, replicas: int) -> Caps:
    """What one of `replicas` workers grants by itself while the store is gone.

    Counts are rounded up, so that a small limit still lets something pass; money is rounded down.
    In any minute, N workers that are all apart from the store grant at most N·⌈L/N⌉ ≤ L + N - 1. A minute
    in which they part from it or come back also holds what the store itself granted: at most 2·L + N - 1.
    A day's money: at most 2·L, however often the store goes.
    """

    def up(limit: int | None) -> int | None:
        return None if limit is None else -(-limit // replicas)

    return Caps(
        requests=up(caps.requests),
        tokens=up(caps.tokens),
        usd_nano=None if caps.usd_nano is None else caps.usd_nano // replicas,
        concurrent=up(caps.concurrent),
    )


@dataclass(slots=True)
class Step:
    """Use within five seconds."""

    number: int
    requests: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Held:
    """A reservation at work, and where it was counted."""

    until_ms: int
    step: int
    day: int
    tokens: int
    usd_nano: int


@dataclass(slots=True)
class Usage:
    """What one key has used of its limits."""

    steps: list[Step] = field(default_factory=list)  # oldest first
    day: int = 0
    usd_nano: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    idle_after_ms: int = 0  # when nothing in here can matter any more

    def admit(self, caps: Caps, reservation: Reservation, now_ms: int, *, hit: bool) -> Overrun | None:
        """Counts one request and holds its reservation, or says which limit leaves no room the longest.

        A `hit` of the cache counts as a request and holds nothing.
        """
        step, day = self._advance(now_ms)
        over = self._overruns(caps, reservation, day, now_ms, hit=hit)
        if over:
            return max(over, key=lambda one: one.retry_after_s)
        holds = caps.holds and not hit
        tokens = reservation.tokens if holds else 0
        if not self.steps or self.steps[-1].number != step:
            self.steps.append(Step(step))
        self.steps[-1].requests += 1
        self.steps[-1].tokens += tokens
        if holds:
            self.usd_nano += reservation.usd_nano
            until_ms = now_ms + HELD_S * 1000
            self.held[reservation.id] = Held(until_ms, step, day, tokens, reservation.usd_nano)
        self.idle_after_ms = now_ms + DAY_MS
        return None

    def settle(self, reservation_id: str, used_tokens: int, used_usd_nano: int) -> None:
        """Corrects a reservation to what was used. One that is not at work (any more) changes nothing."""
        held = self.held.pop(reservation_id, None)
        if held is None:
            return
        for step in self.steps:
            if step.number == held.step:
                step.tokens += used_tokens - held.tokens
        if self.day == held.day:
            self.usd_nano += used_usd_nano - held.usd_nano

    def _advance(self, now_ms: int) -> tuple[int, int]:
        """Forgets what is over. A clock that steps back stands still instead, so that nothing comes back."""
        step = now_ms // STEP_MS
        if self.steps:
            step = max(step, self.steps[-1].number)
        self.steps = [one for one in self.steps if one.number > step - STEPS]
        day = max(now_ms // DAY_MS, self.day)
        if day > self.day:
            self.day, self.usd_nano = day, 0
        lapsed = [id_ for id_, held in self.held.items() if held.until_ms <= now_ms]
        for id_ in lapsed:
            del self.held[id_]
        return step, day

    def _overruns(self, caps: Caps, asked: Reservation, day: int, now_ms: int, *, hit: bool) -> list[Overrun]:
        over = []
        if caps.requests is not None:
            wait_ms = self._wait_ms([one.requests for one in self.steps], 1, caps.requests, now_ms)
            if wait_ms:
                over.append(Overrun("requests_per_minute", wait_ms / 1000))
        if hit:
            return over
        if caps.tokens is not None:
            wait_ms = self._wait_ms([one.tokens for one in self.steps], asked.tokens, caps.tokens, now_ms)
            if wait_ms:
                over.append(Overrun("tokens_per_minute", wait_ms / 1000))
        if caps.usd_nano is not None and self.usd_nano + asked.usd_nano > caps.usd_nano:
            over.append(Overrun("usd_per_day", max(1, (day + 1) * DAY_MS - now_ms) / 1000))
        if caps.concurrent is not None and len(self.held) >= caps.concurrent:
            over.append(Overrun("max_concurrent", CONCURRENT_RETRY_S))
        return over

    def _wait_ms(self, used: list[int], asked: int, cap: int, now_ms: int) -> int:
        """Milliseconds until `asked` fits under `cap`: 0 when it does now, a minute when it never will."""
        excess = sum(used) + asked - cap
        if excess <= 0:
            return 0
        for one, amount in zip(self.steps, used, strict=True):
            excess -= amount
            if excess <= 0:
                return max(1, (one.number + STEPS) * STEP_MS - now_ms)
        return STEPS * STEP_MS
