"""The breaker: each transition of its table, and what holds after any sequence of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.health import COOLDOWN_MAX_S, COOLDOWN_S, FAILURES_TO_OPEN, BackendState, Health

NOW_S = 1000.0
CLOSED = BackendState()
FAILING = BackendState(failures=FAILURES_TO_OPEN - 1)
OPEN = BackendState(failures=FAILURES_TO_OPEN, open_until_s=NOW_S + COOLDOWN_S)
HALF_OPEN = BackendState(failures=FAILURES_TO_OPEN, open_until_s=NOW_S)
TRYING = HALF_OPEN.started(NOW_S)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (CLOSED, BackendState(failures=1)),
        (FAILING, OPEN),
        (OPEN, OPEN),
        (
            TRYING,
            BackendState(
                failures=FAILURES_TO_OPEN + 1,
                open_until_s=NOW_S + 2 * COOLDOWN_S,
                cooldown_s=2 * COOLDOWN_S,
                in_flight=1,
            ),
        ),
    ],
)
def test_a_fault_that_counts(state: BackendState, after: BackendState) -> None:
    assert state.failed(NOW_S) == after


@pytest.mark.parametrize("state", [CLOSED, FAILING, OPEN, HALF_OPEN])
def test_a_success_closes_it(state: BackendState) -> None:
    assert state.succeeded() == CLOSED


@pytest.mark.parametrize(
    ("state", "accepts"), [(CLOSED, True), (FAILING, True), (OPEN, False), (HALF_OPEN, True), (TRYING, False)]
)
def test_which_states_take_a_request(state: BackendState, accepts: bool) -> None:
    assert state.accepts(NOW_S) is accepts


def test_a_trial_that_said_nothing_leaves_room_for_another() -> None:
    assert TRYING.neither().finished() == HALF_OPEN


def test_the_cooldown_doubles_up_to_its_bound_and_starts_again_after_a_success() -> None:
    state, now_s, cooldowns = FAILING, NOW_S, []
    for _ in range(7):
        state = state.failed(now_s)
        cooldowns.append(state.open_until_s - now_s)
        now_s = state.open_until_s
        state = state.started(now_s)

    assert cooldowns == [2, 4, 8, 16, 30, 30, 30]
    assert cooldowns[-1] == COOLDOWN_MAX_S
    assert state.succeeded().cooldown_s == COOLDOWN_S


def test_a_burst_of_faults_opens_it_no_longer_than_one() -> None:
    """Requests that were under way when it opened fail too; that is the same outage."""
    health = Health()
    for _ in range(40):
        health.started("a", NOW_S)
    for _ in range(40):
        health.failed("a", NOW_S)
        health.finished("a")

    assert health.state("a").open_until_s == NOW_S + COOLDOWN_S
    assert health.state("a").in_flight == 0
    assert health.state("a").accepts(NOW_S + COOLDOWN_S)


EVENTS = st.lists(st.sampled_from(["try", "succeed", "fail", "neither", "wait"]), max_size=60)


@given(events=EVENTS)
def test_whatever_happens_one_trial_runs_at_a_time_and_time_brings_the_place_back(events: list[str]) -> None:
    health, now_s, running = Health(), NOW_S, 0
    for event in events:
        state = health.state("a")
        match event:
            case "try" if state.accepts(now_s):
                assert not state.trial_running
                health.started("a", now_s)
                running += 1
            case "succeed" | "fail" | "neither" if running:
                running -= 1
                health.finished("a")
                if event == "succeed":
                    health.succeeded("a")
                elif event == "fail":
                    health.failed("a", now_s)
                else:
                    health.neither("a")
            case "wait":
                now_s += 1.5
        state = health.state("a")
        assert state.in_flight == running
        assert state.open_until_s <= now_s + COOLDOWN_MAX_S
        assert state.accepts(now_s) or state.failures >= FAILURES_TO_OPEN
    for _ in range(running):
        health.finished("a")
        health.neither("a")

    assert health.state("a").accepts(now_s + COOLDOWN_MAX_S)


def test_a_place_that_nobody_has_tried_is_taken_for_well() -> None:
    assert Health().state("never tried") == CLOSED


def test_what_waits_is_what_the_backend_says_or_what_is_beyond_its_slots() -> None:
    health = Health()
    for _ in range(5):
        health.started("a", NOW_S)
    assert health.state("a").waiting == 5  # nothing is known of it: it may make one answer at a time

    health.reported("a", slots=4, queued=0)
    assert health.state("a").waiting == 1
    health.reported("a", slots=16, queued=7)  # those of other workers
    assert health.state("a").waiting == 7

    health.finished("a")
    health.failed("a", NOW_S)
    health.succeeded("a")
    assert (health.state("a").slots, health.state("a").queued, health.state("a").in_flight) == (16, 7, 4)
    health.reported("a", 0, 0)
    assert health.state("a").waiting == 4
