"""How often one request waits for Redis, counted on the wire by a proxy between the gateway and Redis."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import requests
from bench.client import closed_loop, run_load
from bench.processes import free_port
from bench.stack import Stack, running_douane

REQUESTS = 50


class CountingProxy:
    """Forwards to Redis on loopback. A round trip is one burst of commands that is followed by an answer."""

    def __init__(self, port: int, redis_port: int) -> None:
        self.port = port
        self._redis_port = redis_port
        self._asking = False
        self.round_trips = 0

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        async with server:
            ready.set()
            await stop.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        await asyncio.gather(
            self._pass_on(reader, redis_writer, asks=True), self._pass_on(redis_reader, writer, asks=False)
        )

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asks: bool
    ) -> None:
        while data := await source.read(65536):
            if asks and not self._asking:
                self.round_trips += 1
            self._asking = asks
            target.write(data)
        target.close()


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Round trips to Redis for one request, on average."""

    miss: float
    hit: float


@contextmanager
def running_proxy(redis_port: int) -> Iterator[CountingProxy]:
    proxy = CountingProxy(free_port(), redis_port)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(ready, stop),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def count_round_trips(stack: Stack, first: int) -> RoundTrips:
    """One request after the other through a gateway of its own, so that bursts of two requests never join."""
    with (
        running_proxy(stack.redis.port) as proxy,
        running_douane("counted", stack.directory, stack.policies, stack.upstream, proxy.port, 1) as douane,
    ):
        template = requests.template(stack.key)

        def count(numbers: Iterator[int]) -> float:
            before = proxy.round_trips
            timings = run_load(closed_loop(douane.port, template, numbers, 1, requests_max=REQUESTS))
            if timings.errors:
                raise RuntimeError(
                    f"{timings.errors} of {REQUESTS} requests failed; see {stack.directory}/counted.log"
                )
            return (proxy.round_trips - before) / REQUESTS

        count(itertools.repeat(first))  # the first request of a tenant makes its key, and tells the store
        miss = count(itertools.count(first + 1))
        hit = count(itertools.repeat(first))
    return RoundTrips(miss, hit)
