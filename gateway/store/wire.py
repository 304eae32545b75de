"""One pipelined connection to Redis.

Commands of one turn of the event loop are written together, and answers are matched in order. That is what
makes a call cheap: redis-py's asyncio client writes, waits and wakes up for each command on its own
(`bench/store.py` measures both). The protocol itself, packing and parsing, is hiredis's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast

import hiredis

Argument = str | bytes | int

TIMEOUT_S: Final = 0.040
GRACE_S: Final = 0.004  # for answers that have arrived while the event loop was busy with something else


class StoreGone(Exception):
    """No answer will come on this connection."""


class Wire(asyncio.Protocol):
    """A connection that is dropped as soon as one answer is late.

    INVARIANT: the nth answer belongs to the nth command. A late answer can therefore not be skipped: the
    connection that owes it ends, and with it everything still pending.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float = TIMEOUT_S) -> None:
        self._loop = loop
        self.timeout_s = timeout_s
        self._reader = hiredis.Reader(notEnoughData=NOTHING)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._pending: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()  # its result says why

    def call(self, *arguments: Argument, timeout_s: float | None = None) -> asyncio.Future[Any]:
        """The answer to come: bytes, int, None, a list of those, or a `hiredis.ReplyError` as a value.

        The future raises `StoreGone` when the connection ends first. Cancelling it is harmless.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.lost.done():
            future.set_exception(StoreGone(self.lost.result()))
            return future
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(arguments))  # type: ignore[arg-type] # its stub: one-tuples
        deadline_s = self._loop.time() + (self.timeout_s if timeout_s is None else timeout_s)
        self._pending.append((deadline_s, future))
        if self._timer is None or deadline_s < self._timer.when():  # one that waited for a patient call
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._check)
        return future

    def end(self, reason: str) -> None:
        """Drops the connection; everything pending raises `StoreGone`."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        while self._pending:
            _, future = self._pending.popleft()
            if not future.done():
                future.set_exception(StoreGone(reason))

    async def aclose(self, reason: str) -> None:
        """Ends it and returns once the socket is closed."""
        self.end(reason)
        if self._transport is not None:
            await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.lost.done():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not NOTHING:
                _, future = pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.HiredisError, IndexError):
            self.end("it does not speak Redis's protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self.end("it closed the connection" if exc is None else f"it broke off ({type(exc).__name__})")

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()

    def _check(self) -> None:
        """One timer for all: answers come in order, so the oldest is the first to be late."""
        self._timer = None
        if not self._pending:
            return
        deadline_s, oldest = self._pending[0]
        if deadline_s <= self._loop.time():
            self._timer = self._loop.call_later(GRACE_S, self._expire, oldest)
        else:
            self._timer = self._loop.call_at(deadline_s, self._check)

    def _expire(self, suspect: asyncio.Future[Any]) -> None:
        self._timer = None
        if self._pending and self._pending[0][1] is suspect:
            self.end("it did not answer in time")
        else:
            self._check()


NOTHING: Final = object()
