"""How often a request waits for Redis, counted on the wire between the two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import hiredis
import pytest
import uvloop

from gateway.facts import Limits
from gateway.store.address import parse_url
from gateway.store.base import Put
from gateway.store.redis import RedisStore
from gateway.store.wire import GRACE_S, TIMEOUT_S, StoreGone, Wire
from tests.redis_server import RedisServer
from tests.store.requests import FIRST_TURN, PATIENT_S, PERSONAL, SECOND_TURN, entry, leaving

pytestmark = pytest.mark.needs("redis-server")


class Tap:
    """A relay that notes what passes: commands of the gateway, and writes that carried them."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.writes = 0

    @asynccontextmanager
    async def between(self, server: RedisServer) -> AsyncIterator[str]:
        relays: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, away = await asyncio.open_connection("127.0.0.1", server.port)
            relays.add(asyncio.create_task(self.relay(reader, away, noted=True)))
            relays.add(asyncio.create_task(self.relay(there, writer, noted=False)))

        listener = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with listener:
            yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
            await asyncio.gather(*relays)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, noted: bool) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            if noted:
                self.writes += 1
                parser.feed(data)
                while command := parser.gets():
                    self.commands.append(command)
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    def take(self) -> list[bytes]:
        names = [command[0] for command in self.commands]
        self.commands, self.writes = [], 0
        return names


LIMITED = Limits(requests_per_minute=100, tokens_per_minute=100_000, usd_per_day=1.0, max_concurrent=50)


@pytest.fixture
def tap() -> Tap:
    return Tap()


@pytest.fixture
async def store(tap: Tap, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[RedisStore]:
    async with tap.between(redis_server) as url:
        opened = await RedisStore.open(url, state_dir=tmp_path, timeout_s=PATIENT_S)
        tap.take()
        yield opened
        await opened.aclose()


async def test_a_miss_takes_two_round_trips_and_a_hit_one(store: RedisStore, tap: Tap) -> None:
    miss = entry(labels=PERSONAL, limits=LIMITED, tokens=100, usd_nano=100, cache_key="k")
    assert (await store.enter(miss)).cached is None
    await store.leave(
        leaving(
            miss, tokens=10, usd_nano=10, answer="a1", cached=Put("k", b"v", 60), puts=(Put("r", b"w", 60),)
        )
    )
    assert tap.take() == [b"EVALSHA", b"EVALSHA"]
    hit = entry(FIRST_TURN, PERSONAL, limits=LIMITED, cache_key="k")
    assert (await store.enter(hit)).cached == b"v"
    assert tap.take() == [b"EVALSHA"]
    # The hit has left its mark all the same, with nothing more to say when it leaves.
    assert (await store.enter(entry(SECOND_TURN, PERSONAL, limits=LIMITED))).taint == PERSONAL


async def test_a_request_without_room_takes_one_round_trip(store: RedisStore, tap: Tap) -> None:
    refused = await store.enter(entry(limits=Limits(requests_per_minute=0)))
    assert refused.overrun is not None
    assert tap.take() == [b"EVALSHA"]


async def test_calls_of_one_turn_of_the_event_loop_are_written_together(store: RedisStore, tap: Tap) -> None:
    answers = await asyncio.gather(*(store.enter(entry(limits=LIMITED)) for _ in range(16)))
    assert all(answer.accepted for answer in answers)
    assert len(tap.commands) == 16
    assert tap.writes == 1


async def test_no_call_may_wait_longer_than_fifty_milliseconds(redis_server: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    wire = await Wire.connect(parse_url(redis_server.url).connection())
    redis_server.pause()
    before_s = loop.time()
    call = wire.call("PING")
    deadline_s, pending = wire._pending[0]
    assert pending is call
    assert before_s + TIMEOUT_S <= deadline_s <= loop.time() + TIMEOUT_S
    assert TIMEOUT_S + GRACE_S < 0.050
    try:
        with pytest.raises(StoreGone, match="^it did not answer in time$"):
            await call
    finally:
        redis_server.resume()
    await wire.aclose("the test is over")


async def test_a_patient_call_before_does_not_lengthen_the_wait_of_a_later_one(
    redis_server: RedisServer,
) -> None:
    wire = await Wire.connect(parse_url(redis_server.url).connection())
    assert await wire.call("PING", timeout_s=60) == b"PONG"
    call = wire.call("PING")
    assert wire._timer is not None
    assert wire._timer.when() == wire._pending[0][0]
    assert await call == b"PONG"
    await wire.aclose("the test is over")


def test_a_deadline_that_is_due_at_once_does_not_trouble_the_next_call(redis_server: RedisServer) -> None:
    """On uvloop, which the gateway runs on, the handle of such a timer does not know when it is due."""

    async def two_calls() -> bytes:
        wire = await Wire.connect(parse_url(redis_server.url).connection(), PATIENT_S)
        try:
            impatient = wire.call("PING", timeout_s=0)
            impatient.add_done_callback(lambda call: call.cancelled() or call.exception())
            answer: bytes = await wire.call("PING", timeout_s=PATIENT_S)
        except StoreGone:  # the first one was not answered in time, and took the connection with it
            answer = b"PONG"
        finally:
            await wire.aclose("the test is over")
        return answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(two_calls()) == b"PONG"
