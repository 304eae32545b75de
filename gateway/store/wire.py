"""One pipelined connection to Redis.

redis-py connects, verifies, logs in and packs commands. What is added here is when: commands of one turn of
the event loop are written together, and replies are matched in order as they arrive, by hiredis, as redis-py
does it. Its own way of reading and writing (a task, a stream and a timeout for each command) takes a third
more CPU for the same commands (`docs/performance.md`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

Argument = str | bytes | int

TIMEOUT_S: Final = 0.040
GRACE_S: Final = 0.004  # for answers that have arrived while the event loop was busy with something else


class StoreGone(Exception):
    """No answer will come on this connection."""


class Wire(asyncio.Protocol):
    """A connection that is dropped as soon as one answer is late.

    INVARIANT: the nth answer belongs to the nth command. A late answer can therefore not be skipped: the
    connection that owes it ends, and with it everything still pending.

    `connection` is connected, and owes no answer: from here on it is read and written here alone.
    """

    def __init__(self, connection: AbstractConnection, timeout_s: float = TIMEOUT_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._out: list[bytes] = []
        self._pending: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0  # of the timer: uvloop's handle of one that is due at once cannot tell
        self._reader = hiredis.Reader(
            notEnoughData=NOTHING, protocolError=InvalidResponse, replyError=connection._parser.parse_error
        )
        self._closing: asyncio.Task[None] | None = None  # held, or the loop might forget it
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.timeout_s = timeout_s
        self.lost: asyncio.Future[str] = self._loop.create_future()  # its result says why
        self._transport = transport_of(connection)
        self._transport.set_protocol(self)

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
        if self._timer is None or deadline_s < self._due_s:  # one that waited for a patient call
            if self._timer is not None:
                self._timer.cancel()
            self._check_at(deadline_s)
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
        self._transport.abort()
        while self._pending:
            _, future = self._pending.popleft()
            if not future.done():
                future.set_exception(StoreGone(reason))

    async def aclose(self, reason: str) -> None:
        """Ends it and returns once the socket is closed."""
        self.end(reason)
        await self._closed

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not NOTHING:
                if isinstance(reply, RedisConnectionError):  # loading, or too many clients: it will not serve
                    self.end(f"it broke off ({type(reply).__name__})")
                    return
                _, future = pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (InvalidResponse, IndexError):
            self.end("it does not speak Redis's protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("it closed the connection" if exc is None else f"it broke off ({type(exc).__name__})")
        self._closing = self._loop.create_task(self._let_go())

    async def _let_go(self) -> None:
        await self._connection.disconnect(nowait=True)
        self._closed.set_result(None)

    def _flush(self) -> None:
        if self._out and not self.lost.done():
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()

    def _check_at(self, deadline_s: float) -> None:
        self._due_s = deadline_s
        self._timer = self._loop.call_at(deadline_s, self._check)

    def _check(self) -> None:
        """One timer for all: answers come in order, so the oldest is the first to be late."""
        self._timer = None
        if not self._pending:
            return
        deadline_s, oldest = self._pending[0]
        if deadline_s <= self._loop.time():
            self._due_s = self._loop.time() + GRACE_S
            self._timer = self._loop.call_at(self._due_s, self._expire, oldest)
        else:
            self._check_at(deadline_s)

    def _expire(self, suspect: asyncio.Future[Any]) -> None:
        self._timer = None
        if self._pending and self._pending[0][1] is suspect:
            self.end("it did not answer in time")
        else:
            self._check()


NOTHING: Final = object()


def transport_of(connection: AbstractConnection) -> asyncio.Transport:
    """What a connected connection of redis-py writes to; it has no public name there."""
    writer: asyncio.StreamWriter | None = connection._writer
    assert writer is not None, "the connection is connected"
    transport: asyncio.Transport = writer.transport  # type: ignore[assignment]
    return transport


def code_of(refused: ResponseError) -> str:
    """The error's code, for example `ERR`; redis-py keeps it as a class where it knows the code."""
    kind = type(refused)
    return str(refused).split(" ", 1)[0] if kind is ResponseError else kind.__name__.removesuffix("Error")
