"""What is known of each backend's state: a circuit breaker and a count of requests under way.

The breaker's transitions, whole:

    state      on success          on a fault that counts                 when time passes
    closed     failures = 0        failures += 1; at the threshold: open  –
    open       –                   –                                      after `cooldown_s`: half-open
    half-open  closed              open, with the cooldown doubled        –

Open means: not planned. Half-open means: one request may try. A breaker only ever removes a place from the
plan; nothing here can add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

FAILURES_TO_OPEN = 3
COOLDOWN_S = 2.0
COOLDOWN_MAX_S = 30.0


@dataclass(frozen=True, slots=True)
class BackendState:
    """A snapshot of one backend. Times are of the monotonic clock, in seconds.

    `in_flight` counts this worker's requests. `slots` and `queued` are what the backend last said of itself:
    how many answers it makes at once and how many requests of all workers wait; 0 where it says nothing.
    """

    failures: int = 0
    open_until_s: float = 0.0
    cooldown_s: float = COOLDOWN_S
    trial_running: bool = False
    in_flight: int = 0
    slots: int = 0
    queued: int = 0

    @property
    def waiting(self) -> int:
        """Requests that wait there: as it said, or this worker's beyond what it makes at once."""
        return max(self.queued, self.in_flight - self.slots)

    def accepts(self, now_s: float) -> bool:
        """Whether a request may be planned here: closed, or half-open with no trial under way."""
        if self.failures < FAILURES_TO_OPEN:
            return True
        return now_s >= self.open_until_s and not self.trial_running

    def half_open(self, now_s: float) -> bool:
        return self.failures >= FAILURES_TO_OPEN and now_s >= self.open_until_s

    def started(self, now_s: float) -> BackendState:
        trial = self.trial_running or self.half_open(now_s)
        return replace(self, trial_running=trial, in_flight=self.in_flight + 1)

    def finished(self) -> BackendState:
        return replace(self, in_flight=max(0, self.in_flight - 1))

    def succeeded(self) -> BackendState:
        return replace(self, failures=0, open_until_s=0.0, cooldown_s=COOLDOWN_S, trial_running=False)

    def failed(self, now_s: float) -> BackendState:
        if self.failures >= FAILURES_TO_OPEN and now_s < self.open_until_s:
            return self  # open: a request that began before says nothing new, and must not prolong it
        failures = self.failures + 1
        if failures < FAILURES_TO_OPEN:
            return replace(self, failures=failures, trial_running=False)
        cooldown_s = (
            min(self.cooldown_s * 2, COOLDOWN_MAX_S) if failures > FAILURES_TO_OPEN else self.cooldown_s
        )
        return replace(
            self,
            failures=failures,
            open_until_s=now_s + cooldown_s,
            cooldown_s=cooldown_s,
            trial_running=False,
        )

    def neither(self) -> BackendState:
        """A trial that said nothing about the backend's health: it was cancelled, or refused as invalid."""
        return replace(self, trial_running=False)


@dataclass
class Health:
    """The states of all backends of this worker; the one mutable thing of the routing package."""

    states: dict[str, BackendState] = field(default_factory=dict)

    def state(self, place_id: str) -> BackendState:
        return self.states.get(place_id, UNKNOWN)

    def snapshot(self) -> Mapping[str, BackendState]:
        """The states as they are now; read at once, never kept."""
        return self.states

    def started(self, place_id: str, now_s: float) -> None:
        self.states[place_id] = self.state(place_id).started(now_s)

    def finished(self, place_id: str) -> None:
        self.states[place_id] = self.state(place_id).finished()

    def succeeded(self, place_id: str) -> None:
        state = self.state(place_id)
        if state.failures or state.trial_running:
            self.states[place_id] = state.succeeded()

    def failed(self, place_id: str, now_s: float) -> None:
        self.states[place_id] = self.state(place_id).failed(now_s)

    def reported(self, place_id: str, slots: int, queued: int) -> None:
        """The backend told its load; zeros when it could not be asked."""
        self.states[place_id] = replace(self.state(place_id), slots=slots, queued=queued)

    def neither(self, place_id: str) -> None:
        self.states[place_id] = self.state(place_id).neither()


UNKNOWN = BackendState()
