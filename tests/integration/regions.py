"""Emulated regions on an event loop in a thread of the test's process: ledgers to read, faults to give."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.testing.bedrock.app import Emulator, Receive, Scope, Send
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.ledger import Entry
from gateway.testing.bedrock.server import running_emulator
from tests.backends.support import SERVICE_MODEL

EEA = ("eu-central-1", "eu-north-1", "eu-south-1", "eu-west-1")
ABROAD = ("eu-west-2", "us-east-1", "us-east-2")
ALL = (*EEA, *ABROAD)


@dataclass(frozen=True, slots=True)
class WatchedEmulator(Emulator):
    """A region that also notices callers who hang up before they have their answer."""

    hangups: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watchers: list[asyncio.Task[None]] = []
        answered = False

        async def watched_receive() -> dict[str, Any]:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                watchers.append(asyncio.create_task(until_gone()))
            return message

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered:
                self.hangups.append(scope["path"])

        async def watched_send(message: dict[str, Any]) -> None:
            nonlocal answered
            answered = answered or (
                message["type"] == "http.response.body" and not message.get("more_body", False)
            )
            await send(message)

        try:
            # Named, for a slotted dataclass is another class than the one that `super()` would look for.
            await Emulator.__call__(self, scope, watched_receive, watched_send)
        finally:
            for watcher in watchers:
                watcher.cancel()


@dataclass(slots=True)
class Regions:
    """The running regions. `mark` begins a test: what was received before is not its doing."""

    emulators: dict[str, WatchedEmulator]
    urls: dict[str, str]
    marks: dict[str, int]
    loop: asyncio.AbstractEventLoop

    def mark(self) -> None:
        """Clears faults and quotas of the test before, and forgets what it sent."""
        for region, emulator in self.emulators.items():
            emulator.faults.clear()
            emulator.hangups.clear()
            self.marks[region] = len(emulator.ledger.entries)

    def give(self, regions: Iterable[str], *faults: Fault) -> None:
        for region in regions:
            self.emulators[region].faults.add(*faults)

    def entries(self, region: str) -> tuple[Entry, ...]:
        """Everything since the mark: requests, and connections over which none came."""
        return self.emulators[region].ledger.entries[self.marks[region] :]

    def received(self) -> dict[str, int]:
        """How many requests each region was sent since the mark, of those that were sent any."""
        counts = {
            region: sum(entry.kind == "request" for entry in self.entries(region))
            for region in self.emulators
        }
        return {region: count for region, count in counts.items() if count}

    def touched(self) -> set[str]:
        """The regions to which so much as a connection was opened since the mark."""
        return {region for region in self.emulators if self.entries(region)}

    def hangups(self) -> int:
        return sum(len(emulator.hangups) for emulator in self.emulators.values())


@contextmanager
def running_regions() -> Iterator[Regions]:
    loop = asyncio.new_event_loop()
    emulators = {region: WatchedEmulator(region, model=SERVICE_MODEL) for region in ALL}
    stack = AsyncExitStack()

    async def start() -> dict[str, str]:
        return {
            region: (await stack.enter_async_context(running_emulator(region, emulator=emulator))).url
            for region, emulator in emulators.items()
        }

    thread = threading.Thread(target=loop.run_forever, name="regions", daemon=True)
    thread.start()
    try:
        urls = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        yield Regions(emulators, urls, dict.fromkeys(ALL, 0), loop)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
