"""What only the store in the process does: bounds, and forgetting out loud."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.store.base import Entered, Put
from gateway.store.memory import MemoryStore, TooManyWorkers
from tests.store.requests import CEILING, FIRST_TURN, PERSONAL, SECOND_TURN, ManualNow, entry, leaving, saying

ACCEPTED = Entered(frozenset(), False, True, None, None)
UNREADABLE = Entered(frozenset(), True, False, None, None)


async def put(store: MemoryStore, key: str, value: bytes, ttl_s: int = 60) -> None:
    await store.leave(leaving(entry(), puts=(Put(key, value, ttl_s),)))


async def test_more_than_one_worker_is_refused() -> None:
    with pytest.raises(TooManyWorkers) as refused:
        await MemoryStore.open(workers=2)
    assert str(refused.value) == (
        "the in-process store serves one worker, not `2`: each would count limits and remember labels by "
        "itself; set `DOUANE_REDIS_URL`, or run one worker"
    )


async def test_values_past_the_bound_push_out_the_least_recently_used() -> None:
    store = await MemoryStore.open(values_bytes_max=30)
    for key in ("a", "b", "c"):
        await put(store, key, bytes(10))
    assert await store.fetch("acme", "a") == bytes(10)
    await put(store, "d", bytes(10))
    assert [await store.fetch("acme", key) is not None for key in "abcd"] == [True, False, True, True]
    await put(store, "huge", bytes(31))
    assert await store.fetch("acme", "huge") is None
    assert [await store.fetch("acme", key) is not None for key in "abcd"] == [True, False, True, True]


async def test_a_value_ends_with_its_time(tmp_path: Path) -> None:
    now = ManualNow()
    store = await MemoryStore.open(now_ms=now)
    await put(store, "k", b"v", ttl_s=60)
    now.pass_s(59.999)
    assert await store.fetch("acme", "k") == b"v"
    now.pass_s(0.001)
    assert await store.fetch("acme", "k") is None


async def test_labels_past_the_bound_make_the_past_unreadable_rather_than_empty(tmp_path: Path) -> None:
    store = await MemoryStore.open(state_dir=tmp_path, records_max=10)
    await store.enter(entry(FIRST_TURN, PERSONAL))
    assert (await store.enter(entry(SECOND_TURN, PERSONAL))).unreadable is False
    for number in range(20):
        await store.enter(entry(saying(f"n{number}"), PERSONAL))
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    # What is still known of an older conversation still counts, though it no longer answers for it.
    assert await store.enter(entry(saying("x", after=("n12",)), CEILING)) == Entered(
        PERSONAL, True, False, None, None
    )
    await store.aclose()


async def test_after_a_restart_only_what_began_since_is_readable(tmp_path: Path) -> None:
    store = await MemoryStore.open(state_dir=tmp_path)
    assert await store.enter(entry(SECOND_TURN)) == ACCEPTED  # the first epoch of this machine
    await store.aclose()
    store = await MemoryStore.open(state_dir=tmp_path)
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert await store.enter(entry(FIRST_TURN, PERSONAL)) == ACCEPTED
    assert await store.enter(entry(SECOND_TURN, PERSONAL)) == Entered(PERSONAL, False, True, None, None)
    assert (await store.accept_epoch("acme"))[0] == "a"
    assert await store.enter(entry(saying("y", after=("lost",)))) == ACCEPTED
    await store.aclose()


async def test_without_a_state_directory_no_past_is_taken_for_empty() -> None:
    store = await MemoryStore.open()
    assert await store.enter(entry(SECOND_TURN)) == UNREADABLE
    assert await store.enter(entry(SECOND_TURN, CEILING, at_ceiling=True)) == Entered(
        frozenset(), True, True, None, None
    )
