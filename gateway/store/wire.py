"""One pipelined connection to Redis.

redis-py connects, logs in, packs commands and parses replies. What is added here is when: commands of one
turn of the event loop are written together, and replies are matched in order, where redis-py's own asyncio
client writes, waits and wakes up for each command by itself (`bench/store.py` measures both).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

Argument = str | bytes | int

TIMEOUT_S: Final = 0.040
GRACE_S: Final = 0.004  # for answers that have arrived while the event loop was busy with something else


class StoreGone(Exception):
    """No answer will come on this connection."""


class Wire:
    """A connection that is dropped as soon as one answer is late.

    INVARIANT: the nth answer belongs to the nth command. A late answer can therefore not be skipped: the
    connection that owes it ends, and with it everything still pending.
    """

    def __init__(self, connection: AbstractConnection, timeout_s: float = TIMEOUT_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._out: list[bytes] = []
        self._pending: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self.timeout_s = timeout_s
        self.lost: asyncio.Future[str] = self._loop.create_future()  # its result says why
        self._reading = self._loop.create_task(self._read(), name="store-wire")

    @classmethod
    async def connect(cls, connection: AbstractConnection, timeout_s: float = TIMEOUT_S) -> Wire:
        """Connects, logs in and selects the database. Raises redis-py's `RedisError`s."""
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("PING", check_health=False)
            await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return cls(connection, timeout_s)

    def call(self, *arguments: Argument, timeout_s: float | None = None) -> asyncio.Future[Any]:
        """The answer to come: bytes, int, None, a list of those, or a `ResponseError` as a value.

        The future raises `StoreGone` when the connection ends first. Cancelling it is harmless.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.lost.done():
            future.set_exception(StoreGone(self.lost.result()))
            return future
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.extend(self._connection.pack_command(*arguments))
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
        self._out.clear()
        self._closing = self._loop.create_task(self._close())
        while self._pending:
            _, future = self._pending.popleft()
            if not future.done():
                future.set_exception(StoreGone(reason))

    async def aclose(self, reason: str) -> None:
        """Ends it and returns once the socket is closed."""
        self.end(reason)
        if self._closing is not None:
            await self._closing

    async def _close(self) -> None:
        tasks = [self._reading, *self._writing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> None:
        connection, pending = self._connection, self._pending
        try:
            while True:
                try:
                    reply = await connection.read_response(
                        disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                    )
                except ResponseError as refused:
                    reply = refused
                _, future = pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (RedisError, OSError) as error:
            self.end(f"it broke off ({type(error).__name__})")
        except IndexError:
            self.end("it does not speak Redis's protocol")

    def _flush(self) -> None:
        if self._out and not self.lost.done():
            out, self._out = self._out, []
            task = self._loop.create_task(self._write(out))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write(self, out: list[bytes]) -> None:
        try:
            await self._connection.send_packed_command(out, check_health=False)
        except (RedisError, OSError) as error:
            self.end(f"it broke off ({type(error).__name__})")

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


def code_of(refused: ResponseError) -> str:
    """The error's code, for example `ERR`; redis-py keeps it as a class where it knows the code."""
    kind = type(refused)
    return str(refused).split(" ", 1)[0] if kind is ResponseError else kind.__name__.removesuffix("Error")
