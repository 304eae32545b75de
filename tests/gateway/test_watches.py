"""What a gateway does from time to time goes on after a fault that nobody foresaw."""

from __future__ import annotations

import asyncio

import pytest

from gateway.clock import ManualClock
from gateway.opening import WATCH_AGAIN_S, kept_up


async def test_a_watch_that_fails_is_logged_and_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    clock, begun = ManualClock(), 0

    async def watch() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ZeroDivisionError

    watching = asyncio.create_task(kept_up(watch, clock))
    for _ in range(3):
        await asyncio.sleep(0)
        clock.advance(WATCH_AGAIN_S)
        await asyncio.sleep(0)
    await watching

    assert begun == 3
    assert caplog.messages == ["watch_failed", "watch_failed"]


async def test_a_watch_that_is_cancelled_ends() -> None:
    async def watch() -> None:
        await asyncio.sleep(3600)

    watching = asyncio.create_task(kept_up(watch, ManualClock()))
    await asyncio.sleep(0)
    watching.cancel()

    with pytest.raises(asyncio.CancelledError):
        await watching
