"""Fixtures of the store's tests: a real Redis a session, emptied for each test, and a clock set by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from tests.redis_server import RedisServer
from tests.store.requests import PATIENT_S, ManualNow, TestedStore

REDIS = pytest.param("redis", marks=pytest.mark.needs("redis-server"))


@pytest.fixture(scope="session")
def session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def redis_server(session_redis: RedisServer) -> RedisServer:
    """Shared by the session, empty at the start of each test; not to be killed."""
    with redis.Redis(port=session_redis.port) as client:
        client.flushall()
        client.script_flush()
    return session_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """This test's own, to be killed, paused or emptied."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.end()


@pytest.fixture
def now() -> ManualNow:
    return ManualNow()


@pytest.fixture(params=["memory", REDIS])
async def store(request: pytest.FixtureRequest, now: ManualNow, tmp_path: Path) -> AsyncIterator[TestedStore]:
    """Each implementation in turn, new to this machine."""
    opened = await open_store(request, now, tmp_path / "state")
    yield opened
    await opened.aclose()


@pytest.fixture(params=["memory", REDIS])
async def doubting_store(request: pytest.FixtureRequest, now: ManualNow) -> AsyncIterator[TestedStore]:
    """Each in turn, without a memory of this machine's: labels may have been lost before."""
    opened = await open_store(request, now, None)
    yield opened
    await opened.aclose()


async def open_store(request: pytest.FixtureRequest, now: ManualNow, state_dir: Path | None) -> TestedStore:
    if request.param == "memory":
        return await MemoryStore.open(state_dir=state_dir, now_ms=now)
    server = request.getfixturevalue("redis_server")
    return await RedisStore.open(server.url, state_dir=state_dir, now_ms=now, timeout_s=PATIENT_S)
