"""Time as a seam: real, or set by hand in tests."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, timezone-aware UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that only grow; for timeouts and durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns once so many seconds have passed."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class ManualClock:
    """A clock that stands still until `advance` is called."""

    start: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    elapsed_s: float = 0.0
    sleepers: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed_s)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def advance(self, seconds: float) -> None:
        self.elapsed_s += seconds
        for until_s, sleeper in self.sleepers:
            if until_s <= self.elapsed_s and not sleeper.done():
                sleeper.set_result(None)

    async def sleep(self, seconds: float) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.elapsed_s + seconds, sleeper))
        self.advance(0.0)  # none at all is over at once
        try:
            await sleeper
        finally:
            self.sleepers = [one for one in self.sleepers if one[1] is not sleeper]
