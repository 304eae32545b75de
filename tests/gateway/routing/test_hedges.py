"""Hedges: another planned place beside one that lets the client wait; never any other, never too many."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import errors
from gateway.backends import base
from gateway.backends.base import BackendFault
from gateway.routing import attempts
from gateway.routing.health import FAILURES_TO_OPEN, BackendState
from gateway.routing.hedge import AT_ONCE
from tests.gateway.routing.scripted import ASKED, NAMES, UPSTREAM, USAGE, Run, all_that_can_run, come_of

ENGINE, FRANKFURT, MILAN = NAMES
AFTER_S = 2.0
FOREVER_S = 1e6


def hedging(**takes_s: float) -> Run:
    """A request that is hedged after `AFTER_S`; the places take so long, in the plan's order."""
    run = Run(options={"hedge_after_s": AFTER_S})
    for name, seconds in zip(NAMES, takes_s.values(), strict=False):
        run[name].takes_s = seconds
    return run


@pytest.mark.parametrize("stream", [False, True])
async def test_where_the_first_place_is_slow_the_next_one_answers_and_the_first_is_cancelled(
    stream: bool,
) -> None:
    run = hedging(engine=FOREVER_S, frankfurt=1.0)
    going = await run.begin(stream=stream)
    await run.after(AFTER_S)
    assert run.running == [ENGINE, FRANKFURT]
    await run.after(1.0)

    reached = come_of(going)
    assert (reached.attempt.place.id, reached.kind) == (FRANKFURT, "hedge")
    assert run.story() == [(ENGINE, "first", "outrun"), (FRANKFURT, "hedge", "answered")]
    assert run.tried[0].upstream == ASKED
    assert run[ENGINE].cancelled == 1
    assert run[MILAN].calls == 0
    assert run.in_flight == ({FRANKFURT: 1} if stream else {})
    assert run.health.state(ENGINE).failures == 0
    assert run.clock.sleepers == []


async def test_no_hedge_begins_before_its_time() -> None:
    run = hedging(engine=FOREVER_S)
    going = await run.begin()
    await run.after(AFTER_S - 0.001)
    assert run.running == [ENGINE]
    await run.after(0.001)
    assert come_of(going).attempt.place.id == FRANKFURT


async def test_a_place_that_answers_in_time_is_the_only_one_asked() -> None:
    run = hedging(engine=AFTER_S - 0.001)
    going = await run.begin()
    await run.after(AFTER_S - 0.001)

    assert come_of(going).attempt.place.id == ENGINE
    assert run.story() == [(ENGINE, "first", "answered")]
    assert run.clock.sleepers == []


async def test_the_first_place_may_still_be_the_faster_one() -> None:
    run = hedging(engine=AFTER_S + 1.0, frankfurt=FOREVER_S)
    going = await run.begin()
    await run.after(AFTER_S)
    await run.after(1.0)

    assert come_of(going).attempt.place.id == ENGINE
    assert run.story() == [(ENGINE, "first", "answered"), (FRANKFURT, "hedge", "outrun")]
    assert run[FRANKFURT].cancelled == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_of_two_answers_in_one_moment_the_other_is_closed_and_what_it_used_is_known(
    stream: bool,
) -> None:
    run = hedging(engine=AFTER_S + 1.0, frankfurt=1.0)
    going = await run.begin(stream=stream)
    await run.after(AFTER_S)
    await run.after(1.0)

    assert come_of(going).attempt.place.id == ENGINE
    assert run.story() == [(ENGINE, "first", "answered"), (FRANKFURT, "hedge", "outrun")]
    assert run.tried[1].upstream == UPSTREAM
    assert run.tried[1].usage == (None if stream else USAGE)
    assert run.tried[0].usage is None
    assert [one.closed for one in run[FRANKFURT].streams] == ([True] if stream else [])
    assert [one.closed for one in run[ENGINE].streams] == ([False] if stream else [])
    assert run.in_flight == ({ENGINE: 1} if stream else {})


async def test_a_hedge_whose_place_was_withdrawn_since_the_plan_is_not_made_and_the_next_is_due() -> None:
    run = hedging(engine=FOREVER_S)
    going = await run.begin()
    run.withdrawn.add(FRANKFURT)
    await run.after(AFTER_S)

    assert come_of(going).attempt.place.id == MILAN
    assert run[FRANKFURT].calls == 0
    assert run.story() == [
        (ENGINE, "first", "outrun"),
        (FRANKFURT, "hedge", "withdrawn"),
        (MILAN, "hedge", "answered"),
    ]


async def test_a_place_whose_breaker_opened_since_is_no_hedge_but_stays_in_the_plan() -> None:
    run = hedging(engine=3 * AFTER_S)
    run[ENGINE].faults = [base.TimedOut("x")]
    going = await run.begin()
    for name in (FRANKFURT, MILAN):
        run.health.states[name] = BackendState(failures=FAILURES_TO_OPEN, open_until_s=FOREVER_S)
    await run.after(AFTER_S)
    await run.after(AFTER_S)
    assert run.running == [ENGINE]
    await run.after(AFTER_S)

    assert come_of(going).attempt.place.id == FRANKFURT
    assert run.story() == [(ENGINE, "first", "timed_out"), (FRANKFURT, "fallback", "answered")]


async def test_a_place_that_was_put_last_for_having_too_much_to_do_is_no_hedge() -> None:
    run = hedging(engine=FOREVER_S)
    run.options["too_busy"] = frozenset({FRANKFURT})
    going = await run.begin()
    await run.after(AFTER_S)

    assert come_of(going).attempt.place.id == MILAN
    assert run[FRANKFURT].calls == 0


async def test_a_place_is_no_hedge_for_itself() -> None:
    run = hedging(engine=3 * AFTER_S)
    run.attempted = (ENGINE, ENGINE)
    going = await run.begin()
    await run.after(AFTER_S)
    assert run[ENGINE].calls == 1
    await run.after(2 * AFTER_S)
    come_of(going)


async def test_there_is_one_hedge_at_a_time() -> None:
    run = hedging(engine=FOREVER_S, frankfurt=FOREVER_S, milan=FOREVER_S)
    going = await run.begin()
    for _ in range(5):
        await run.after(AFTER_S)
    assert run.running == [ENGINE, FRANKFURT]
    assert len(run.running) == AT_ONCE
    going.cancel()
    await asyncio.wait([going])


async def test_a_hedge_that_fails_leaves_room_for_another_after_the_same_time() -> None:
    run = hedging(engine=FOREVER_S)
    run[FRANKFURT].faults = [base.Unreachable("x")]
    going = await run.begin()
    await run.after(AFTER_S)
    assert run.running == [ENGINE]
    await run.after(AFTER_S)

    assert come_of(going).attempt.place.id == MILAN
    assert run.story() == [
        (ENGINE, "first", "outrun"),
        (FRANKFURT, "hedge", "unreachable"),
        (MILAN, "hedge", "answered"),
    ]


async def test_where_the_first_place_fails_the_hedge_goes_on_and_then_the_plan() -> None:
    run = hedging(engine=AFTER_S + 1.0, frankfurt=2.0)
    run[ENGINE].faults = [base.TimedOut("x")]
    run[FRANKFURT].faults = [base.Saturated("x")]
    going = await run.begin()
    await run.after(AFTER_S)
    await run.after(1.0)
    assert run.running == [FRANKFURT]
    await run.after(1.0)

    assert come_of(going).attempt.place.id == MILAN
    assert run.story() == [
        (ENGINE, "first", "timed_out"),
        (FRANKFURT, "hedge", "saturated"),
        (MILAN, "spill", "answered"),
    ]
    assert run.health.state(ENGINE).failures == 1


async def test_a_fault_that_is_the_last_word_ends_the_other_call_too() -> None:
    run = hedging(engine=FOREVER_S)
    run[FRANKFURT].faults = [base.Refused("x")]
    going = await run.begin()
    await run.after(AFTER_S)

    with pytest.raises(errors.UpstreamRefused):
        come_of(going)
    assert run.story() == [(ENGINE, "first", "outrun"), (FRANKFURT, "hedge", "refused")]
    assert run[ENGINE].cancelled == 1
    assert run.in_flight == {}


async def test_nothing_is_hedged_after_the_first_byte() -> None:
    run = hedging()
    reached = await run.go(stream=True)
    await run.after(10 * AFTER_S)

    assert reached.attempt.place.id == ENGINE
    assert run.story() == [(ENGINE, "first", "answered")]
    assert run.clock.sleepers == []


async def test_a_client_that_leaves_cancels_both() -> None:
    run = hedging(engine=FOREVER_S, frankfurt=FOREVER_S)
    going = await run.begin()
    await run.after(AFTER_S)
    going.cancel()
    await asyncio.wait([going])

    assert going.cancelled()
    assert [run[name].cancelled for name in NAMES] == [1, 1, 0]
    assert run.story() == [(ENGINE, "first", "cancelled"), (FRANKFURT, "hedge", "cancelled")]
    assert run.in_flight == {}
    assert run.clock.sleepers == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_the_moment_of_the_answer_leaves_no_stream_open(stream: bool) -> None:
    run = hedging(engine=1.0)
    going = await run.begin(stream=stream)
    run.clock.advance(1.0)
    for _ in range(50):  # until the place has answered, and the request has not heard of it
        await asyncio.sleep(0)
        if run.tried[0].outcome == "answered":
            break
    going.cancel()
    await asyncio.wait([going])

    assert going.cancelled()
    assert run.story() == [(ENGINE, "first", "cancelled")]
    assert run.tried[0].usage == (None if stream else USAGE)
    assert [one.closed for one in run[ENGINE].streams] == ([True] if stream else [])
    assert run.in_flight == {}


async def test_a_bug_at_one_place_is_no_reason_to_leave_the_other_running() -> None:
    run = hedging(engine=FOREVER_S)
    run[FRANKFURT].faults = [RuntimeError("x")]
    going = await run.begin()
    await run.after(AFTER_S)

    with pytest.raises(ExceptionGroup):
        come_of(going)
    assert run.running == []
    assert run.in_flight == {}


FAULTS = st.sampled_from(
    [base.Unreachable, base.TimedOut, base.Throttled, base.Saturated, base.ServerFault, base.Refused]
)
SECONDS = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, FOREVER_S])
PLACE = st.tuples(SECONDS, st.lists(FAULTS, max_size=3))


@settings(max_examples=150, deadline=None)
@given(
    places=st.tuples(PLACE, PLACE, PLACE),
    withdrawals=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 4)),
    leaves_at=st.none() | st.integers(0, 6),
    stream=st.booleans(),
)
def test_whatever_happens_everything_that_began_has_ended(
    places: tuple[tuple[float, list[type[BackendFault]]], ...],
    withdrawals: dict[str, int],
    leaves_at: int | None,
    stream: bool,
) -> None:
    with patch.object(attempts, "BACKOFF_S", 0.0):
        asyncio.run(one_story(places, withdrawals, leaves_at, stream))


async def one_story(
    places: tuple[tuple[float, list[type[BackendFault]]], ...],
    withdrawals: dict[str, int],
    leaves_at: int | None,
    stream: bool,
) -> None:
    run = Run(options={"hedge_after_s": AFTER_S})
    for name, (seconds, faults) in zip(NAMES, places, strict=True):
        run[name].takes_s, run[name].faults = seconds, [fault("x") for fault in faults]
    calls_when_withdrawn: dict[str, int] = {}
    going = asyncio.create_task(run.go(stream=stream))
    for second in range(8):
        for name in [name for name, at in withdrawals.items() if at == second]:
            run.withdrawn.add(name)
            calls_when_withdrawn[name] = run[name].calls
        if second == leaves_at:
            going.cancel()
        await all_that_can_run()
        assert len(run.running) <= AT_ONCE
        await run.after(1.0)
    await run.after(FOREVER_S)
    await run.after(FOREVER_S)
    going.cancel()
    await asyncio.wait([going])

    answered = [one for one in run.tried if one.outcome == "answered"]
    reached = None if going.cancelled() or going.exception() else going.result()
    assert [one.place for one in answered] == ([reached.attempt.place] if reached else [])
    assert run.in_flight == ({reached.attempt.place.id: 1} if reached and stream else {})
    assert run.running == []
    assert run.clock.sleepers == []
    for name, calls in calls_when_withdrawn.items():
        assert run[name].calls == calls
    opened = [one for name in NAMES for one in run[name].streams]
    assert [one.closed for one in opened].count(False) == (1 if reached and stream else 0)
    assert sum(run[name].calls for name in NAMES) == sum(one.outcome != "withdrawn" for one in run.tried)
    if going.cancelled():
        assert "outrun" not in [one.outcome for one in run.tried]
    else:
        assert "cancelled" not in [one.outcome for one in run.tried]
