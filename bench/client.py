"""A light HTTP client that keeps its connections and reads answers as bytes.

Its event loop waits with `select`, whose timeout has microseconds: `epoll`'s has milliseconds, which would be
most of what is measured here.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from bench.requests import Template

Done = Callable[["Connection", bool], None]


@dataclass(slots=True)
class Timings:
    """Latencies of one load, in seconds from when each request was due, and what went wrong."""

    latencies_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)  # of streams: to the first event with data
    errors: int = 0
    elapsed_s: float = 0.0


class Connection(asyncio.Protocol):
    """One kept-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._done: Done | None = None
        self._until = 0  # bytes of the whole answer; 0 while its head is not complete, -1 for a stream
        self.first_s: float | None = None
        self.due_s = 0.0

    def send(self, request: bytes, due_s: float, done: Done) -> None:
        self._done, self.due_s, self.first_s, self._until, self._buffer = done, due_s, None, 0, b""
        if self._transport is None:
            raise ConnectionError("the server closed a connection that was to be kept; the load cannot go on")
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish(False)

    def data_received(self, data: bytes) -> None:
        if self._until == -1:
            if self.first_s is None and b"data: " in data:
                self.first_s = time.perf_counter()
            self._buffer = (self._buffer + data)[-16:]
        else:
            self._buffer += data
        if self._until == 0:
            self._read_head()
        if self._until > 0 and len(self._buffer) >= self._until:
            self._finish(self._buffer[9:12] == b"200")
        elif self._until == -1 and self._buffer.endswith(b"0\r\n\r\n"):
            self._finish(True)

    def close(self) -> None:
        self._done = None
        if self._transport is not None:
            self._transport.close()

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._until = end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])
            return
        self._until = -1
        if b"data: " in self._buffer:
            self.first_s = time.perf_counter()
        if head[9:12] != b"200":
            self._finish(False)

    def _finish(self, good: bool) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, good)


async def connect(port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(count)]
    return [connection for _, connection in made]


def record(timings: Timings, connection: Connection, good: bool) -> None:
    if not good:
        timings.errors += 1
        return
    timings.latencies_s.append(time.perf_counter() - connection.due_s)
    if connection.first_s is not None:
        timings.first_s.append(connection.first_s - connection.due_s)


async def closed_loop(
    port: int,
    template: Template,
    numbers: Iterator[int],
    connections: int,
    *,
    duration_s: float = math.inf,
    requests_max: int | None = None,
) -> Timings:
    """Each connection sends its next request once it has its answer, until time or number is over."""
    timings = Timings()
    began_s = time.perf_counter()
    until_s = began_s + duration_s
    if requests_max is not None:
        numbers = itertools.islice(numbers, requests_max)
    pool = await connect(port, connections)
    finished = asyncio.get_running_loop().create_future()
    running = connections

    def go_on(connection: Connection) -> None:
        nonlocal running
        number = next(numbers, None) if time.perf_counter() < until_s else None
        if number is not None:
            connection.send(template.numbered(number), time.perf_counter(), done)
            return
        running -= 1
        if running == 0:
            finished.set_result(None)

    def done(connection: Connection, good: bool) -> None:
        record(timings, connection, good)
        go_on(connection)

    for connection in pool:
        go_on(connection)
    await finished
    timings.elapsed_s = time.perf_counter() - began_s
    for connection in pool:
        connection.close()
    return timings


async def open_loop(
    port: int,
    template: Template,
    numbers: Iterator[int],
    rate_per_s: float,
    duration_s: float,
    connections: int,
) -> Timings:
    """Requests leave by the clock whether or not earlier ones are answered; one that must wait for a free
    connection counts from when it was due, so a server that stalls is charged for all that it holds up."""
    timings = Timings()
    idle = deque(await connect(port, connections))
    pool = list(idle)
    waiting: deque[float] = deque()
    count = int(rate_per_s * duration_s)
    answered = 0
    finished = asyncio.get_running_loop().create_future()

    def done(connection: Connection, good: bool) -> None:
        nonlocal answered
        record(timings, connection, good)
        answered += 1
        if waiting:
            connection.send(template.numbered(next(numbers)), waiting.popleft(), done)
        else:
            idle.append(connection)
        if answered == count:
            finished.set_result(None)

    began_s = time.perf_counter()
    for index in range(count):
        due_s = began_s + index / rate_per_s
        if (ahead_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(ahead_s)
        if idle:
            idle.popleft().send(template.numbered(next(numbers)), due_s, done)
        else:
            waiting.append(due_s)
    await asyncio.wait_for(finished, 60.0)
    timings.elapsed_s = time.perf_counter() - began_s
    for connection in pool:
        connection.close()
    return timings


def run_load(load: Coroutine[Any, Any, Timings]) -> Timings:
    """Runs one load on a loop of its own."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(load)
