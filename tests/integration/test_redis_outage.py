"""Redis killed, and Redis stopped: no request fails, and cache hits return by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.store.wire import GRACE_S, TIMEOUT_S
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import until
from tests.integration.redis_outage import (
    AWAY_AT_S,
    BACK_AT_S,
    END_AT_S,
    RATE_PER_S,
    REPEATED,
    Kind,
    part,
    steady_load,
)
from tests.integration.scripted_engine import ScriptedEngine
from tests.redis_server import RedisServer

pytestmark = pytest.mark.needs("redis-server")

NOTICED_S = 1.0  # a request under way when Redis goes or comes may still be told the one or the other


@pytest.mark.parametrize("kind", ["killed", "stopped"])
async def test_no_request_fails_and_hits_return(
    kind: Kind,
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    start: StartGateway,
    own_redis: RedisServer,
) -> None:
    gateway = start({**scripted_settings, "redis_url": own_redis.url})

    samples = await steady_load(gateway, own_redis, kind)

    assert len(samples) == RATE_PER_S * END_AT_S
    assert [one for one in samples if one.status != 200] == []
    before = [one.cache for one in part(samples, NOTICED_S, AWAY_AT_S) if one.again]
    away = [one.cache for one in part(samples, AWAY_AT_S + NOTICED_S, BACK_AT_S) if one.again]
    back = [one.cache for one in part(samples, BACK_AT_S, END_AT_S) if one.again]
    # Not each one: on a busy machine Redis may be late for some, which then do without it.
    assert "hit" in before
    assert "hit" not in away
    assert "hit" in back
    until(lambda: gateway.caller().ask(REPEATED).cache == "hit", "hits go on")
    until(lambda: gateway.metric("douane_store_up") == 1, "the metric says that the store is up")
    assert gateway.verified().intact
    assert gateway.verified().unfinished == ()


def test_no_call_to_the_store_can_take_longer_than_fifty_milliseconds() -> None:
    """The store drops a connection whose answer is late: nothing waits for it any longer."""
    assert TIMEOUT_S + GRACE_S <= 0.050
