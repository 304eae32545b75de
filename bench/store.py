"""What a round trip to the store costs this process: `python bench/store.py` prints one JSON object.

The same script with the same arguments runs over the store's own pipelined connection and over redis-py's
asyncio client, side by side against one `redis-server`. CPU is this process's own (all threads), the lowest
of several batches; waits are the median. The last part stops the server and times what a call then waits.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import redis.asyncio
import uvloop

from gateway.facts import Limits
from gateway.store.base import MARK_BYTES, Conversation, Entry, Leaving, Put, Reservation
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore, cap_arguments
from tests.redis_server import RedisServer

BATCHES = 7
LABELS = frozenset({"public", "internal", "confidential", "personal"})
LIMITS = Limits(requests_per_minute=10**9, tokens_per_minute=10**12, usd_per_day=10**6, max_concurrent=10**6)
VALUE = os.urandom(2_000)  # a sealed answer of some 300 tokens
HEX = "0123456789abcdef" * 2
LONG = Conversation(tuple(number.to_bytes(MARK_BYTES, "little") for number in range(1, 101)), 0)

serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    connections: int
    cpu_us: float
    wall_us: float


def first_turn(cache_key: str | None, limits: Limits = LIMITS) -> Entry:
    number = next(serial)
    return Entry(
        tenant="acme",
        conversation=Conversation((number.to_bytes(MARK_BYTES),), 0),
        known_labels=LABELS,
        at_ceiling=False,
        reservation=Reservation(f"r{number}", "key-1", 4200, 1_000_000, limits),
        cache_key=cache_key,
    )


def left(of: Entry, cached: Put, puts: tuple[Put, ...] = ()) -> Leaving:
    answer = (next(serial) << 64).to_bytes(MARK_BYTES)
    return Leaving(of.tenant, of.reservation, 500, 100_000, of.known_labels, answer, cached, puts)


async def miss(store: RedisStore | MemoryStore) -> None:
    of = first_turn(HEX + f"{next(serial):032x}")
    assert (await store.enter(of)).accepted
    await store.leave(
        left(of, Put(of.reservation.id, VALUE, 60), (Put("receipt/" + of.reservation.id, VALUE, 60),))
    )


async def hit(store: RedisStore | MemoryStore) -> None:
    assert (await store.enter(first_turn("hit"))).cached == VALUE


async def enter_only(store: RedisStore) -> None:
    assert (await store.enter(first_turn("hit", Limits()))).cached == VALUE


async def peer_enter(store: RedisStore, client: redis.asyncio.Redis) -> None:
    """The same command as `enter_only`, through redis-py."""
    entry, names = first_turn("hit", Limits()), store._names_of("acme")
    caps = cap_arguments(store._caps_of(Limits()))
    reply = await client.evalsha(
        store._scripts.enter.sha, 3, names.labels, names.use + "key-1", names.answer + "hit",
        *store._epoch_arguments("acme"), 0, ",".join(sorted(entry.known_labels)),
        b"".join(entry.conversation.marks), 0, entry.reservation.id, 4200, 1_000_000, *caps,
    )  # fmt: skip
    assert reply[5].endswith(VALUE)


async def measure(what: str, connections: int, calls: int, work: Callable[[], Awaitable[None]]) -> Row:
    async def caller(count: int) -> None:
        for _ in range(count):
            await work()

    cpu, wall = [], []
    for _ in range(BATCHES):
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller(calls // connections) for _ in range(connections)))
        cpu.append((time.process_time() - cpu_s) / calls * 1e6)
        wall.append((time.perf_counter() - wall_s) / calls * 1e6 * connections)
    return Row(what, connections, round(min(cpu), 1), round(statistics.median(wall), 1))


async def stopped(server: RedisServer) -> dict[str, float]:
    """What calls wait, in milliseconds, when the server stops answering in the middle of traffic."""
    store = await RedisStore.open(server.url)
    waits = []
    server.pause()
    try:
        for _ in range(200):
            started_s = time.perf_counter()
            await store.enter(first_turn(None))
            waits.append((time.perf_counter() - started_s) * 1000)
    finally:
        server.resume()
    await store.aclose()
    return {"first_ms": round(waits[0], 1), "longest_later_ms": round(max(waits[1:]), 1)}


async def enter_long(store: RedisStore) -> None:
    assert (await store.enter(replace(first_turn(None, Limits()), conversation=LONG))).accepted


async def records_bytes(store: RedisStore, server: RedisServer, turns: int) -> float:
    """Memory that one mark takes for good, from Redis's own account."""
    async with redis.asyncio.Redis(port=server.port) as client:
        before = await client.memory_usage("douane:{acme}:labels", samples=0) or 0
        for _ in range(turns):
            await store.enter(first_turn(None, Limits()))
        after = await client.memory_usage("douane:{acme}:labels", samples=0) or 0
        return (after - before) / turns


async def run(server: RedisServer, calls: int) -> dict[str, object]:
    # A busy machine may stop Redis for longer than a request would wait; what that costs is measured last.
    store = await RedisStore.open(server.url, timeout_s=10)
    memory = await MemoryStore.open()
    for one in (store, memory):
        await one.leave(left(first_turn(None), Put("hit", VALUE, 3600)))
    client = redis.asyncio.Redis(port=server.port)
    rows = []
    for connections in (1, 16):
        rows += [
            await measure("redis hit: enter", connections, calls, lambda: hit(store)),
            await measure("redis miss: enter + leave, two values", connections, calls, lambda: miss(store)),
            await measure("redis hit, no limits", connections, calls, lambda: enter_only(store)),
            await measure("redis, 100 messages on record", connections, calls, lambda: enter_long(store)),
            await measure("redis-py, same command", connections, calls, lambda: peer_enter(store, client)),
        ]
    rows += [
        await measure("memory hit: enter", 1, calls, lambda: hit(memory)),
        await measure("memory miss: enter + leave, two values", 1, calls, lambda: miss(memory)),
    ]
    stats = (await client.info("commandstats"))["cmdstat_evalsha"]
    record_bytes = await records_bytes(store, server, 20_000)
    await client.aclose()
    await store.aclose()
    await memory.aclose()
    return {
        "machine": {"python": platform.python_version(), "cores": os.cpu_count()},
        "rows": [asdict(row) for row in rows],
        "redis_own_us_a_script": stats["usec_per_call"],
        "record_bytes_a_mark": round(record_bytes, 1),
        "server_stopped": await stopped(server),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=4_000, help="calls of one batch")
    parser.add_argument(
        "--json", action="store_true", help="accepted for uniformity: the output always is JSON"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            print(json.dumps(uvloop.run(run(server, arguments.calls)), indent=2))
        finally:
            server.end()


if __name__ == "__main__":
    main()
