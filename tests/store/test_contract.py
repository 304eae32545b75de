"""What every store does, run against each implementation."""

from __future__ import annotations

import asyncio

import pytest

from gateway.facts import Limits
from gateway.store.base import MARK_BYTES, Conversation, Entered, Overrun, Put
from tests.store.requests import (
    CEILING,
    FIRST_TURN,
    PERSONAL,
    PUBLIC,
    SECOND_TURN,
    THIRD_TURN,
    ManualNow,
    TestedStore,
    entry,
    leaving,
    mark,
    saying,
)

ACCEPTED = Entered(taint=frozenset(), unreadable=False, accepted=True, overrun=None, cached=None)
NOTHING = frozenset[str]()


def over(limit: str, retry_after_s: float, taint: frozenset[str] = NOTHING) -> Entered:
    return Entered(taint, False, True, Overrun(limit, retry_after_s), None)


# Labels of conversations


async def test_a_first_turn_is_accepted_with_nothing_carried(store: TestedStore) -> None:
    assert await store.enter(entry()) == ACCEPTED


async def test_a_later_turn_reads_what_an_earlier_one_carried(store: TestedStore) -> None:
    first = entry(FIRST_TURN, PERSONAL)
    await store.enter(first)
    await store.leave(leaving(first))
    assert await store.enter(entry(SECOND_TURN, PERSONAL)) == Entered(PERSONAL, False, True, None, None)


async def test_labels_are_on_record_from_the_moment_a_request_enters(store: TestedStore) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))  # and its worker dies
    assert (await store.enter(entry(SECOND_TURN, PUBLIC))).taint == PERSONAL


async def test_a_request_judged_with_too_few_labels_is_not_accepted_and_leaves_no_trace(
    store: TestedStore,
) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    limits = Limits(requests_per_minute=1)
    refused = await store.enter(entry(SECOND_TURN, PUBLIC, limits=limits, cache_key="k"))
    assert refused == Entered(PERSONAL, False, False, None, None)
    again = await store.enter(entry(SECOND_TURN, PERSONAL, limits=limits))
    assert again == Entered(PERSONAL, False, True, None, None)
    assert (await store.enter(entry(THIRD_TURN, CEILING))).taint == PERSONAL


async def test_labels_only_ever_join(store: TestedStore) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    again = entry(FIRST_TURN, PUBLIC)  # the same first message once more, declared lower
    await store.enter(again)
    await store.leave(leaving(again))
    assert (await store.enter(entry(SECOND_TURN, CEILING))).taint == PERSONAL


async def test_an_answer_carries_the_labels_of_its_request(store: TestedStore) -> None:
    first = entry(FIRST_TURN, PERSONAL)
    await store.enter(first)
    await store.leave(leaving(first, answer="a1"))
    assert (await store.enter(entry(saying("a1"), PUBLIC))).taint == PERSONAL


async def test_an_answer_keeps_what_the_same_words_carried_before(store: TestedStore) -> None:
    await store.enter(entry(saying("yes"), PERSONAL))
    other = entry(FIRST_TURN, frozenset({"public", "health"}))
    await store.enter(other)
    await store.leave(leaving(other, answer="yes"))
    assert (await store.enter(entry(saying("yes"), CEILING))).taint == PERSONAL | {"health"}


async def test_an_answer_found_in_the_cache_carries_the_labels_of_whoever_finds_it(
    store: TestedStore,
) -> None:
    made = entry(FIRST_TURN, PUBLIC)
    await store.enter(made)
    await store.leave(leaving(made, answer="a1", cached=Put("k", b"v", 60)))
    await store.enter(entry(saying("another question"), PERSONAL, cache_key="k"))
    assert (await store.enter(entry(saying("a1"), PUBLIC))).taint == PERSONAL


async def test_a_cached_answer_without_a_mark_leaves_none(store: TestedStore) -> None:
    made = entry(FIRST_TURN, PERSONAL)
    await store.enter(made)
    await store.leave(leaving(made, cached=Put("k", b"v", 60)))
    assert (await store.enter(entry(saying("x"), PERSONAL, cache_key="k"))).cached == b"v"
    assert await store.enter(entry(Conversation((bytes(MARK_BYTES),), 0))) == ACCEPTED


async def test_labels_of_every_mark_are_joined_and_left_with_all_of_them(store: TestedStore) -> None:
    await store.enter(entry(saying("a"), frozenset({"public", "health"})))
    await store.enter(entry(saying("b"), frozenset({"public", "internal"})))
    both = entry(saying("c", after=("x", "b", "a")), CEILING)
    assert (await store.enter(both)).taint == {"public", "internal", "health"}
    for one in "abcx":
        assert (await store.enter(entry(saying(one), PUBLIC))).taint == CEILING


@pytest.mark.parametrize("messages", [1, 999, 1000, 1001, 4097])
async def test_a_conversation_of_any_length_is_found_by_each_of_its_messages(
    store: TestedStore, messages: int
) -> None:
    names = [f"m{number}" for number in range(messages)]
    assert await store.enter(entry(saying(*names), PERSONAL)) == ACCEPTED
    for one in {names[0], names[-1], names[len(names) // 2]}:
        assert (await store.enter(entry(saying(one), PUBLIC))).taint == PERSONAL
    everything = saying("new", after=tuple(reversed(names)))
    assert await store.enter(entry(everything, PERSONAL)) == Entered(PERSONAL, False, True, None, None)


async def test_a_request_without_a_message_that_is_marked_has_nothing_to_carry(store: TestedStore) -> None:
    assert await store.enter(entry(saying(), PERSONAL)) == ACCEPTED
    assert await store.enter(entry(saying(), PUBLIC)) == ACCEPTED


async def test_conversations_of_two_tenants_never_meet(store: TestedStore) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL, tenant="acme"))
    assert (await store.enter(entry(SECOND_TURN, PUBLIC, tenant="globex"))) == ACCEPTED


async def test_labels_do_not_fade_with_time(store: TestedStore, now: ManualNow) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    now.pass_s(400 * 86_400)
    assert (await store.enter(entry(SECOND_TURN, PUBLIC))).taint == PERSONAL


async def test_a_past_that_nobody_recorded_is_no_past_in_the_first_epoch(store: TestedStore) -> None:
    assert await store.enter(entry(saying("p", after=("few", "shots")), PUBLIC)) == ACCEPTED


async def test_where_labels_may_have_been_lost_all_that_was_said_before_must_be_on_record(
    doubting_store: TestedStore,
) -> None:
    enter = doubting_store.enter
    readable, unreadable = (
        Entered(PERSONAL, False, True, None, None),
        Entered(PERSONAL, True, False, None, None),
    )
    assert await enter(entry(FIRST_TURN, PERSONAL)) == ACCEPTED
    assert await enter(entry(SECOND_TURN, PERSONAL)) == readable
    for before in (("m1", "lost"), ("lost", "m1"), ("m1", "m2", "lost")):
        assert await enter(entry(saying("m9", after=before), PERSONAL)) == unreadable
    assert (await enter(entry(saying("lost"), PUBLIC))) == ACCEPTED  # a lone message may be new
    assert await enter(entry(saying("m9", after=("m1", "lost")), PERSONAL)) == readable


async def test_where_labels_may_have_been_lost_a_session_vouches_once_it_was_judged_at_the_highest(
    doubting_store: TestedStore,
) -> None:
    turn = saying("new", after=("session",))
    assert await doubting_store.enter(entry(turn, PUBLIC)) == Entered(NOTHING, True, False, None, None)
    assert (await doubting_store.enter(entry(turn, CEILING, at_ceiling=True))).accepted
    rewritten = Conversation((mark("session"), mark("another"), mark("history")), vouchers=1)
    assert await doubting_store.enter(entry(rewritten, PUBLIC)) == Entered(CEILING, False, False, None, None)


async def test_an_answer_that_was_delivered_vouches_for_itself(doubting_store: TestedStore) -> None:
    first = entry(FIRST_TURN, PERSONAL)
    await doubting_store.enter(first)
    await doubting_store.leave(leaving(first, answer="a1", cached=Put("k", b"v", 60)))
    second = saying("m2", after=("m1", "a1"))
    assert await doubting_store.enter(entry(second, PERSONAL)) == Entered(PERSONAL, False, True, None, None)


async def test_an_overrun_still_records_the_labels(store: TestedStore) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL, limits=Limits(requests_per_minute=0)))
    assert (await store.enter(entry(SECOND_TURN, PUBLIC))).taint == PERSONAL


# Values


async def test_a_value_is_found_until_its_time_is_over(store: TestedStore, now: ManualNow) -> None:
    first = entry()
    await store.enter(first)
    cached, receipt = Put("k", b"\x00sealed\xff\r\n", 60), Put("receipt", b"r", 60)
    await store.leave(leaving(first, cached=cached, puts=(receipt,)))
    assert await store.enter(entry(cache_key="k")) == Entered(
        NOTHING, False, True, None, b"\x00sealed\xff\r\n"
    )
    assert await store.fetch("acme", "receipt") == b"r"
    assert await store.fetch("acme", "none") is None
    assert await store.fetch("acme", "k") is None  # nor does a receipt pass for an answer
    assert (await store.enter(entry(cache_key="receipt"))).cached is None


async def test_a_value_of_one_tenant_is_not_found_by_another(store: TestedStore) -> None:
    await store.leave(leaving(entry(), cached=Put("k", b"v", 60), puts=(Put("k", b"v", 60),)))
    assert await store.fetch("globex", "k") is None
    assert (await store.enter(entry(tenant="globex", cache_key="k"))).cached is None


async def test_a_later_put_replaces_an_earlier_one(store: TestedStore) -> None:
    await store.leave(leaving(entry(), puts=(Put("k", b"old", 60), Put("k", b"new", 60))))
    assert await store.fetch("acme", "k") == b"new"


async def test_a_put_without_time_to_live_keeps_nothing(store: TestedStore) -> None:
    await store.leave(leaving(entry(), cached=Put("k", b"v", 0), puts=(Put("k", b"v", 0),)))
    assert await store.fetch("acme", "k") is None
    assert (await store.enter(entry(cache_key="k"))).cached is None


async def test_a_hit_counts_as_one_request_and_holds_nothing(store: TestedStore) -> None:
    await store.leave(leaving(entry(), cached=Put("k", b"v", 60)))
    limits = Limits(requests_per_minute=2, tokens_per_minute=10, usd_per_day=1e-9, max_concurrent=1)
    for _ in range(2):
        hit = await store.enter(entry(limits=limits, tokens=10_000, usd_nano=10_000, cache_key="k"))
        assert hit == Entered(NOTHING, False, True, None, b"v")
    assert (await store.enter(entry(limits=limits, cache_key="k"))).overrun == Overrun(
        "requests_per_minute", 62.5
    )
    wider = Limits(requests_per_minute=3, tokens_per_minute=10, usd_per_day=1e-9, max_concurrent=1)
    assert await store.enter(entry(limits=wider, tokens=10, usd_nano=1)) == ACCEPTED


# Limits


async def test_requests_of_any_sixty_seconds_stay_within_the_limit(
    store: TestedStore, now: ManualNow
) -> None:
    limits = Limits(requests_per_minute=3)
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    now.pass_s(30)
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    assert await store.enter(entry(limits=limits)) == over("requests_per_minute", 32.5)
    now.pass_s(30)  # sixty seconds after the first one: it still counts
    assert await store.enter(entry(limits=limits)) == over("requests_per_minute", 2.5)
    now.pass_s(2.5)
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    assert await store.enter(entry(limits=limits)) == over("requests_per_minute", 30)


async def test_a_refused_request_does_not_count(store: TestedStore, now: ManualNow) -> None:
    limits = Limits(requests_per_minute=1)
    await store.enter(entry(limits=limits))
    for _ in range(5):
        assert await store.enter(entry(limits=limits)) == over("requests_per_minute", 62.5)
    now.pass_s(62.5)
    assert await store.enter(entry(limits=limits)) == ACCEPTED


async def test_tokens_are_reserved_at_once_and_settled_to_what_was_used(store: TestedStore) -> None:
    limits = Limits(tokens_per_minute=1000)
    first = entry(limits=limits, tokens=900)
    assert await store.enter(first) == ACCEPTED
    assert await store.enter(entry(limits=limits, tokens=101)) == over("tokens_per_minute", 62.5)
    await store.leave(leaving(first, tokens=250))
    assert await store.enter(entry(limits=limits, tokens=750)) == ACCEPTED
    assert await store.enter(entry(limits=limits, tokens=1)) == over("tokens_per_minute", 62.5)


async def test_more_tokens_than_reserved_count_too(store: TestedStore) -> None:
    limits = Limits(tokens_per_minute=1000)
    first = entry(limits=limits, tokens=100)
    await store.enter(first)
    await store.leave(leaving(first, tokens=1500))
    assert await store.enter(entry(limits=limits, tokens=1)) == over("tokens_per_minute", 62.5)


async def test_a_request_larger_than_the_limit_never_fits(store: TestedStore) -> None:
    assert await store.enter(entry(limits=Limits(tokens_per_minute=10), tokens=11)) == over(
        "tokens_per_minute", 65
    )


async def test_money_counts_until_the_end_of_the_day(store: TestedStore, now: ManualNow) -> None:
    limits = Limits(usd_per_day=1.0)
    first = entry(limits=limits, usd_nano=700_000_000)
    assert await store.enter(first) == ACCEPTED
    to_midnight_s = 12 * 3600 - 2.5
    assert await store.enter(entry(limits=limits, usd_nano=300_000_001)) == over("usd_per_day", to_midnight_s)
    await store.leave(leaving(first, usd_nano=600_000_000))
    assert await store.enter(entry(limits=limits, usd_nano=400_000_000)) == ACCEPTED
    now.pass_s(to_midnight_s - 0.001)
    assert await store.enter(entry(limits=limits, usd_nano=1)) == over("usd_per_day", 0.001)
    now.pass_s(0.001)
    assert await store.enter(entry(limits=limits, usd_nano=1_000_000_000)) == ACCEPTED


async def test_a_reservation_of_yesterday_does_not_touch_the_money_of_today(
    store: TestedStore, now: ManualNow
) -> None:
    limits = Limits(usd_per_day=1.0)
    now.pass_s(12 * 3600 - 12.5)
    late = entry(limits=limits, usd_nano=1_000_000_000)
    await store.enter(late)
    now.pass_s(20)
    assert await store.enter(entry(limits=limits, usd_nano=600_000_000)) == ACCEPTED
    await store.leave(leaving(late))
    assert (await store.enter(entry(limits=limits, usd_nano=400_000_001))).overrun is not None
    assert await store.enter(entry(limits=limits, usd_nano=400_000_000)) == ACCEPTED


async def test_requests_at_work_are_bounded(store: TestedStore) -> None:
    limits = Limits(max_concurrent=2)
    first, second = entry(limits=limits), entry(limits=limits)
    await store.enter(first)
    await store.enter(second)
    assert await store.enter(entry(limits=limits)) == over("max_concurrent", 1)
    await store.leave(leaving(first))
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    assert await store.enter(entry(limits=limits)) == over("max_concurrent", 1)


async def test_settling_twice_is_settling_once(store: TestedStore) -> None:
    limits = Limits(tokens_per_minute=100, usd_per_day=1e-7, max_concurrent=2)
    first, second = entry(limits=limits, tokens=50, usd_nano=50), entry(limits=limits, tokens=50, usd_nano=50)
    await store.enter(first)
    await store.enter(second)
    for _ in range(3):
        await store.leave(leaving(first, tokens=40, usd_nano=40))
    assert await store.enter(entry(limits=limits, tokens=10, usd_nano=10)) == ACCEPTED
    assert (await store.enter(entry(limits=limits))).overrun == Overrun("max_concurrent", 1)
    await store.leave(leaving(second, tokens=50, usd_nano=50))
    assert await store.enter(entry(limits=limits, tokens=1)) == over("tokens_per_minute", 62.5)


async def test_a_request_whose_worker_died_frees_its_place_after_fifteen_minutes(
    store: TestedStore, now: ManualNow
) -> None:
    limits = Limits(max_concurrent=2, usd_per_day=1e-8)
    await store.enter(entry(limits=limits, usd_nano=4))
    now.pass_s(1)
    await store.enter(entry(limits=limits, usd_nano=4))
    now.pass_s(898)
    assert await store.enter(entry(limits=limits)) == over("max_concurrent", 1)
    now.pass_s(1)
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    assert await store.enter(entry(limits=limits)) == over("max_concurrent", 1)
    now.pass_s(900)
    # The places are free; the money may have been spent, so it stays charged for the day.
    assert (await store.enter(entry(limits=limits, usd_nano=3))).overrun == Overrun(
        "usd_per_day", 12 * 3600 - 1802.5
    )
    assert await store.enter(entry(limits=limits, usd_nano=2)) == ACCEPTED


async def test_the_limit_that_takes_longest_is_the_one_named(store: TestedStore) -> None:
    limits = Limits(requests_per_minute=0, tokens_per_minute=0, usd_per_day=0.0, max_concurrent=0)
    assert await store.enter(entry(limits=limits, tokens=1, usd_nano=1)) == over(
        "usd_per_day", 12 * 3600 - 2.5
    )


async def test_two_keys_of_a_tenant_have_limits_of_their_own(store: TestedStore) -> None:
    limits = Limits(requests_per_minute=1)
    assert await store.enter(entry(limits=limits, key_id="key-1")) == ACCEPTED
    assert await store.enter(entry(limits=limits, key_id="key-2")) == ACCEPTED
    assert await store.enter(entry(limits=limits, key_id="key-1")) == over("requests_per_minute", 62.5)
    assert await store.enter(entry(limits=limits, key_id="key-1", tenant="globex")) == ACCEPTED


async def test_a_clock_that_steps_back_gives_nothing_back(store: TestedStore, now: ManualNow) -> None:
    limits = Limits(requests_per_minute=1, usd_per_day=1e-9)
    assert await store.enter(entry(limits=limits, usd_nano=1)) == ACCEPTED
    now.pass_s(-2 * 86_400)
    refused = await store.enter(entry(limits=limits, usd_nano=0))
    assert refused.overrun is not None
    assert refused.overrun.limit == "requests_per_minute"
    assert (await store.enter(entry(limits=limits, usd_nano=1))).overrun is not None


@pytest.mark.parametrize("limit", ["requests", "tokens", "usd", "concurrent"])
async def test_many_at_once_are_granted_exactly_the_limit(store: TestedStore, limit: str) -> None:
    limits = {
        "requests": Limits(requests_per_minute=37),
        "tokens": Limits(tokens_per_minute=37 * 11 + 10),
        "usd": Limits(usd_per_day=37 * 11e-9 + 10e-9),
        "concurrent": Limits(max_concurrent=37),
    }[limit]
    answers = await asyncio.gather(
        *(store.enter(entry(limits=limits, tokens=11, usd_nano=11)) for _ in range(200))
    )
    assert sum(answer == ACCEPTED for answer in answers) == 37
    assert sum(answer.overrun is not None for answer in answers) == 163


async def test_a_store_that_is_here_is_healthy(store: TestedStore) -> None:
    assert await store.healthy() is True
