"""Redis killed, stopped, emptied, restarted, full, and come back: what a request sees each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.facts import Limits
from gateway.store.address import StoreMisconfigured
from gateway.store.base import Entered, Overrun, Put
from gateway.store.redis import RedisStore
from tests.redis_server import RedisServer
from tests.store.requests import (
    CEILING,
    FIRST_TURN,
    NOON_MS,
    PATIENT_S,
    PERSONAL,
    PUBLIC,
    SECOND_TURN,
    THIRD_TURN,
    ManualNow,
    entry,
    leaving,
    saying,
)

pytestmark = pytest.mark.needs("redis-server")

ACCEPTED = Entered(frozenset(), False, True, None, None)
UNREADABLE = Entered(frozenset(), True, False, None, None)
AT_CEILING = Entered(frozenset(), True, True, None, None)
SESSION = saying("p", after=("s",))


@pytest.fixture
async def store(own_redis: RedisServer, now: ManualNow, tmp_path: Path) -> AsyncIterator[RedisStore]:
    opened = await RedisStore.open(
        own_redis.url, state_dir=tmp_path / "state", replicas=4, now_ms=now, timeout_s=0.5
    )
    yield opened
    await opened.aclose()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what happens by itself; the test's own time limit is the bound."""
    while not await condition():  # noqa: ASYNC110 - the condition is in another process
        await asyncio.sleep(0.01)


def client(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port)


async def test_killed_it_answers_at_once_and_comes_back_by_itself(
    store: RedisStore, own_redis: RedisServer
) -> None:
    await store.leave(leaving(entry(), cached=Put("k", b"v", 60)))
    own_redis.kill()
    assert await store.enter(entry(cache_key="k")) == ACCEPTED
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert await store.enter(entry(SECOND_TURN, CEILING, at_ceiling=True)) == AT_CEILING
    assert await store.fetch("acme", "k") is None
    assert await store.healthy() is False
    await store.leave(leaving(entry(), cached=Put("k", b"v", 60)))
    own_redis.start()
    await until(store.healthy)
    await store.leave(leaving(entry(), cached=Put("k", b"again", 60)))
    assert (await store.enter(entry(cache_key="k"))).cached == b"again"


async def test_stopped_no_call_waits_long_and_later_ones_do_not_wait_at_all(
    store: RedisStore, own_redis: RedisServer
) -> None:
    assert await store.enter(entry(THIRD_TURN)) == ACCEPTED  # readable: the first epoch
    own_redis.pause()
    assert await store.enter(entry(THIRD_TURN)) == UNREADABLE
    for _ in range(100):
        assert await store.enter(entry(THIRD_TURN)) == UNREADABLE
    own_redis.resume()
    await until(store.healthy)
    assert await store.enter(entry(THIRD_TURN)) == Entered(PUBLIC, False, True, None, None)


async def test_a_late_answer_is_never_taken_for_anothers(store: RedisStore, own_redis: RedisServer) -> None:
    await store.leave(leaving(entry(), puts=(Put("a", b"of a", 60), Put("b", b"of b", 60))))
    own_redis.pause()
    late = asyncio.create_task(store.fetch("acme", "a"))
    assert await late is None
    own_redis.resume()
    await until(store.healthy)
    assert await store.fetch("acme", "b") == b"of b"
    assert await store.fetch("acme", "a") == b"of a"


async def test_what_a_conversation_carried_during_an_outage_is_known_after_it(
    store: RedisStore, own_redis: RedisServer
) -> None:
    await store.enter(entry())
    own_redis.pause()
    await store.enter(entry(saying("other")))  # its connection is dropped
    first = entry(FIRST_TURN, PERSONAL)
    assert await store.enter(first) == ACCEPTED
    await store.leave(leaving(first, labels=PERSONAL | {"health"}, answer="a1"))
    own_redis.resume()
    await until(store.healthy)
    assert await store.enter(entry(SECOND_TURN, PUBLIC)) == Entered(PERSONAL, False, False, None, None)
    assert (await store.enter(entry(saying("a1"), PUBLIC))).taint == PERSONAL | {"health"}


async def test_a_reservation_taken_before_an_outage_is_settled_after_it(
    store: RedisStore, own_redis: RedisServer
) -> None:
    limits = Limits(max_concurrent=1, tokens_per_minute=100)
    held = entry(limits=limits, tokens=100)
    assert await store.enter(held) == ACCEPTED
    own_redis.pause()
    await store.enter(entry())  # its connection is dropped, so nothing of what follows can still arrive
    await store.leave(leaving(held, tokens=60))
    own_redis.resume()
    await until(store.healthy)
    assert await store.enter(entry(limits=limits, tokens=40)) == ACCEPTED
    assert (await store.enter(entry(limits=limits, tokens=1))).overrun is not None


async def test_emptied_it_answers_only_for_what_began_since(
    store: RedisStore, own_redis: RedisServer
) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    client(own_redis).flushall()
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert await store.enter(entry(SESSION)) == UNREADABLE
    assert await store.enter(entry(saying("n1"), PERSONAL)) == ACCEPTED
    assert await store.enter(entry(saying("n2", after=("n1",)), PUBLIC)) == Entered(
        PERSONAL, False, False, None, None
    )
    # Once judged at the ceiling, the old conversation is on record again, at the ceiling.
    assert await store.enter(entry(SECOND_TURN, CEILING, at_ceiling=True)) == AT_CEILING
    assert await store.enter(entry(THIRD_TURN, PUBLIC)) == Entered(CEILING, False, False, None, None)


async def test_one_message_on_record_does_not_answer_for_the_others(
    store: RedisStore, own_redis: RedisServer
) -> None:
    """Another conversation that began alike is no proof of what this one carried later."""
    await store.enter(entry(FIRST_TURN, PUBLIC))
    await store.enter(entry(SECOND_TURN, PERSONAL))
    client(own_redis).flushall()
    await store.enter(entry(FIRST_TURN, PUBLIC))  # the same opening, in another conversation
    assert await store.enter(entry(THIRD_TURN, PUBLIC)) == Entered(PUBLIC, True, False, None, None)


async def test_restarted_empty_it_is_not_taken_for_a_new_one(
    store: RedisStore, own_redis: RedisServer
) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    own_redis.kill()
    own_redis.start()
    await until(store.healthy)
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE


async def test_a_restarted_gateway_still_knows_of_the_lost_epoch(
    store: RedisStore, own_redis: RedisServer, tmp_path: Path, now: ManualNow
) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    await store.aclose()
    client(own_redis).flushall()
    again = await RedisStore.open(
        own_redis.url, state_dir=tmp_path / "state", now_ms=now, timeout_s=PATIENT_S
    )
    assert await again.enter(entry(SECOND_TURN)) == UNREADABLE
    await again.aclose()


async def test_without_a_state_directory_no_epoch_is_taken_for_the_first(
    own_redis: RedisServer, now: ManualNow
) -> None:
    store = await RedisStore.open(own_redis.url, now_ms=now, timeout_s=PATIENT_S)
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert await store.enter(entry(FIRST_TURN, PERSONAL)) == ACCEPTED
    assert await store.enter(entry(SECOND_TURN, PERSONAL)) == Entered(PERSONAL, False, True, None, None)
    await store.aclose()


async def test_a_worker_that_remembers_corrects_one_that_does_not(
    store: RedisStore, own_redis: RedisServer, tmp_path: Path, now: ManualNow
) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    client(own_redis).flushall()
    new = await RedisStore.open(
        own_redis.url, state_dir=tmp_path / "elsewhere", now_ms=now, timeout_s=PATIENT_S
    )
    assert await new.enter(entry(SECOND_TURN)) == ACCEPTED  # to this machine it is a new store
    assert await store.enter(entry(THIRD_TURN)) == Entered(PUBLIC, True, False, None, None)
    assert await new.enter(entry(saying("y", after=("x",)))) == UNREADABLE
    await new.aclose()


async def test_an_evicted_tenant_loses_its_epoch_with_its_labels(
    store: RedisStore, own_redis: RedisServer
) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    await store.enter(entry(FIRST_TURN, PERSONAL, tenant="globex"))
    client(own_redis).delete("douane:{acme}:labels")
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert (await store.enter(entry(SECOND_TURN, tenant="globex"))).taint == PERSONAL


async def test_after_a_failover_records_of_before_no_longer_answer(
    store: RedisStore, own_redis: RedisServer
) -> None:
    """A replica that takes over has the hash, but perhaps not the latest records in it."""
    await store.enter(entry(FIRST_TURN, PUBLIC))
    client(own_redis).hset("douane:{acme}:labels", "run", "f" * 40)  # as recorded under another server
    assert await store.enter(entry(SECOND_TURN)) == Entered(PUBLIC, True, False, None, None)


async def test_marks_of_an_earlier_version_count_as_lost(store: RedisStore, own_redis: RedisServer) -> None:
    """A first epoch, on the same server, that never lost a thing; but its marks were of something else."""
    run, labels = client(own_redis).info("server")["run_id"], "douane:{acme}:labels"
    old: Any = {"epoch": "g1", "run": run, "0" * 32: "1 public,secret"}
    client(own_redis).hset(labels, mapping=old)
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert set(client(own_redis).hkeys(labels)) == {b"epoch", b"run", b"format"}
    assert await store.enter(entry(FIRST_TURN, PERSONAL)) == ACCEPTED
    assert await store.enter(entry(SECOND_TURN, PERSONAL)) == Entered(PERSONAL, False, True, None, None)
    client(own_redis).delete(labels)
    client(own_redis).hset(labels, mapping=old)
    await store.accept_epoch("acme")
    assert await store.enter(entry(SECOND_TURN)) == ACCEPTED


async def test_an_operator_accepts_what_was_lost(store: RedisStore, own_redis: RedisServer) -> None:
    await store.enter(entry(FIRST_TURN, PERSONAL))
    client(own_redis).flushall()
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert (await store.accept_epoch("acme"))[0] == "a"
    assert await store.enter(entry(SECOND_TURN)) == ACCEPTED


async def test_scripts_that_redis_has_forgotten_are_sent_again(
    store: RedisStore, own_redis: RedisServer
) -> None:
    client(own_redis).script_flush()
    first = entry(FIRST_TURN, PERSONAL)
    assert await store.enter(first) == ACCEPTED
    client(own_redis).script_flush()
    await store.leave(leaving(first, cached=Put("k", b"v", 60)))
    assert await store.enter(entry(SECOND_TURN, PERSONAL, cache_key="k")) == Entered(
        PERSONAL, False, True, None, b"v"
    )


async def test_a_full_redis_is_as_good_as_gone_until_it_has_room(
    store: RedisStore, own_redis: RedisServer
) -> None:
    assert await store.enter(entry()) == ACCEPTED
    client(own_redis).config_set("maxmemory", 1)
    first = entry(FIRST_TURN, PERSONAL)
    assert await store.enter(first) == ACCEPTED
    await store.leave(leaving(first))
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    client(own_redis).config_set("maxmemory", 0)
    await until(store.healthy)
    assert (await store.enter(entry(SECOND_TURN))).taint == PERSONAL


async def test_apart_each_worker_grants_its_share_and_together_at_most_the_stated_bound(
    own_redis: RedisServer, now: ManualNow
) -> None:
    replicas, limit = 3, 10
    limits = Limits(requests_per_minute=limit)
    workers = [
        await RedisStore.open(own_redis.url, replicas=replicas, now_ms=now, timeout_s=PATIENT_S)
        for _ in range(replicas)
    ]

    async def granted() -> int:
        answers = [await worker.enter(entry(limits=limits)) for worker in workers for _ in range(50)]
        return sum(answer.overrun is None for answer in answers)

    together = await granted()
    assert together == limit
    own_redis.kill()
    apart = await granted()
    assert apart == replicas * 4  # ⌈10 / 3⌉ each
    assert apart <= limit + replicas - 1
    assert together + apart <= 2 * limit + replicas - 1
    assert await granted() == 0
    for worker in workers:
        await worker.aclose()


async def test_apart_money_of_a_day_stays_within_the_share_however_often_redis_goes(
    store: RedisStore, own_redis: RedisServer, now: ManualNow
) -> None:
    limits = Limits(usd_per_day=4e-8)  # 40 nano-USD: 10 for each of 4 replicas
    own_redis.kill()
    first = entry(limits=limits, usd_nano=10)
    assert await store.enter(first) == ACCEPTED
    await store.leave(leaving(first, usd_nano=6))
    own_redis.start()
    await until(store.healthy)
    own_redis.kill()
    wait_s = 12 * 3600 - 2.5
    assert now.ms == NOON_MS
    assert await store.enter(entry(limits=limits, usd_nano=5)) == Entered(
        frozenset(), False, True, Overrun("usd_per_day", wait_s), None
    )
    assert await store.enter(entry(limits=limits, usd_nano=4)) == ACCEPTED


async def test_a_worker_that_dies_owing_labels_leaves_an_unreadable_past(
    store: RedisStore, own_redis: RedisServer, tmp_path: Path, now: ManualNow
) -> None:
    assert await store.enter(entry(THIRD_TURN)) == ACCEPTED
    own_redis.pause()
    await store.enter(entry(saying("other")))  # its connection is dropped
    await store.enter(entry(FIRST_TURN, PERSONAL))
    await store.aclose()  # the labels die with it; that it owed them is on disk
    own_redis.resume()
    again = await RedisStore.open(
        own_redis.url, state_dir=tmp_path / "state", now_ms=now, timeout_s=PATIENT_S
    )
    assert await again.enter(entry(SECOND_TURN)) == Entered(PUBLIC, True, False, None, None)
    await again.accept_epoch("acme")
    await again.aclose()
    third = await RedisStore.open(
        own_redis.url, state_dir=tmp_path / "state", now_ms=now, timeout_s=PATIENT_S
    )
    assert await third.enter(entry(SECOND_TURN)) == Entered(PUBLIC, False, True, None, None)
    await third.aclose()


async def test_a_redis_that_is_away_at_the_start_is_waited_for(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.kill()
    store = await RedisStore.open(f"redis://:hunter2@127.0.0.1:{own_redis.port}/0")
    assert await store.enter(entry()) == ACCEPTED
    assert [record.getMessage() for record in caplog.records] == [
        f"redis at redis://127.0.0.1:{own_redis.port}/0 cannot be reached; doing without until it can"
    ]
    await store.aclose()


async def test_a_request_that_is_cancelled_on_its_way_in_holds_nothing(store: RedisStore) -> None:
    limits, wire = Limits(max_concurrent=1), store._link.wire
    hung_up = asyncio.create_task(store.enter(entry(limits=limits)))
    await asyncio.sleep(0)
    hung_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hung_up
    assert await store.enter(entry(limits=limits)) == ACCEPTED
    assert store._link.wire is wire
    assert wire is not None
    assert not wire.lost.done()


async def test_a_wrong_password_is_said_at_once_and_never_shown(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, ("--requirepass", "right"))
    server.start()
    try:
        with pytest.raises(StoreMisconfigured) as refused:
            await RedisStore.open(f"redis://:hunter2@127.0.0.1:{server.port}/0")
        assert "hunter2" not in str(refused.value)
        assert str(refused.value) == (
            f"redis at redis://127.0.0.1:{server.port}/0 refuses us (AuthenticationError); "
            "check user, password and database in the Redis URL"
        )
        store = await RedisStore.open(f"redis://:right@127.0.0.1:{server.port}/3")
        assert await store.enter(entry()) == ACCEPTED
        with redis.Redis(port=server.port, password="right", db=3) as there:
            assert there.keys() == [b"douane:{acme}:labels"]
        await store.aclose()
    finally:
        server.end()
