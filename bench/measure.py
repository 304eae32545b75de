"""The measurements, each interleaved between the servers that it compares, so that noise meets all alike."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from bench import requests
from bench.client import Timings, closed_loop, open_loop, run_load
from bench.processes import Server
from bench.stack import Stack
from bench.wrk import full_speed

CONNECTIONS: Final = 16
RATE_PER_S: Final = 300.0
OPEN_CONNECTIONS: Final = 64
STREAM_TOKENS: Final = 200  # one chunk each
SHORT_STREAM_TOKENS: Final = 4
Found = TypeVar("Found")
BLOCK: Final = 1_000_000  # questions that one load may ask, so that no two loads share one


@dataclass(frozen=True, slots=True)
class Speed:
    """A server at full speed: requests and CPU of its process, and of Redis, for each."""

    per_s: float
    cpu_us: float
    redis_cpu_us: float
    errors: int


@dataclass(frozen=True, slots=True)
class Streamed:
    """CPU for each chunk that a server relays."""

    cpu_us: float
    errors: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, and how many answers were wrong."""

    p50_ms: float
    p99_ms: float
    errors: int


class Bench:
    """One run over a stack. `numbers` hands out blocks of questions that nobody has asked yet."""

    def __init__(self, stack: Stack, rounds: int, seconds: int) -> None:
        self._stack = stack
        self._rounds = rounds
        self._seconds = seconds
        self._blocks = itertools.count(0, BLOCK)

    def questions(self) -> int:
        """The first of a block of new questions."""
        return next(self._blocks)

    def warm_up(self, servers: list[Server]) -> None:
        for server in servers:
            full_speed(server.port, self._stack.key, self.questions(), CONNECTIONS, 1, self._stack.directory)

    def full_speed(self, servers: list[Server]) -> dict[str, list[Speed]]:
        """Every server at `CONNECTIONS` connections, in turns, each request a new question."""
        return self._in_turns(servers, lambda server: self._speed(server, self.questions()))

    def hits(self, server: Server) -> list[Speed]:
        """The same question again and again: after the first one, all are answered from the cache."""
        first = self.questions()
        run_load(closed_loop(server.port, requests.template(self._stack.key), iter([first]), 1))
        return [self._speed(server, first, same=True) for _ in range(self._rounds)]

    def one_connection(self, servers: list[Server]) -> dict[str, list[Latency]]:
        """One request after the other, for the time that a request spends in each server."""
        template = requests.template(self._stack.key)

        def measure(server: Server) -> Latency:
            return latency(
                run_load(closed_loop(server.port, template, self._numbers(), 1, duration_s=self._seconds / 2))
            )

        return self._in_turns(servers, measure)

    def open_loop(self, servers: list[Server], rounds: int) -> dict[str, list[Latency]]:
        """`RATE_PER_S` requests by the clock, whether or not earlier ones are answered."""
        template = requests.template(self._stack.key)

        def measure(server: Server) -> Latency:
            return latency(
                run_load(
                    open_loop(
                        server.port, template, self._numbers(), RATE_PER_S, self._seconds, OPEN_CONNECTIONS
                    )
                )
            )

        return self._in_turns(servers, measure, rounds)

    def streams(self, servers: list[Server]) -> dict[str, list[Streamed]]:
        """`CONNECTIONS` streams at once, 100 chunks a second each: well below what any of them can do."""
        template = requests.template(self._stack.key, stream=True, answer_tokens=STREAM_TOKENS)

        def measure(server: Server) -> Streamed:
            before_s = server.cpu_s()
            done = run_load(
                closed_loop(server.port, template, self._numbers(), CONNECTIONS, requests_max=CONNECTIONS)
            )
            chunks = max(1, len(done.latencies_s)) * STREAM_TOKENS
            return Streamed((server.cpu_s() - before_s) / chunks * 1e6, done.errors)

        return self._in_turns(servers, measure)

    def first_tokens(self, servers: list[Server]) -> dict[str, list[Latency]]:
        """The time to the first event of a stream, on one connection."""
        template = requests.template(self._stack.key, stream=True, answer_tokens=SHORT_STREAM_TOKENS)

        def measure(server: Server) -> Latency:
            done = run_load(
                closed_loop(server.port, template, self._numbers(), 1, duration_s=self._seconds / 2)
            )
            return latency(Timings(done.first_s, errors=done.errors))

        return self._in_turns(servers, measure)

    def _speed(self, server: Server, first: int, *, same: bool = False) -> Speed:
        stack = self._stack
        before_s, redis_before_s = server.cpu_s(), stack.redis.cpu_s()
        load = full_speed(
            server.port, stack.key, first, CONNECTIONS, self._seconds, stack.directory, same=same
        )
        count = max(1, load.requests)
        return Speed(
            per_s=load.per_s,
            cpu_us=(server.cpu_s() - before_s) / count * 1e6,
            redis_cpu_us=(stack.redis.cpu_s() - redis_before_s) / count * 1e6,
            errors=load.errors,
        )

    def _numbers(self) -> Iterator[int]:
        return itertools.count(self.questions())

    def _in_turns(
        self, servers: list[Server], measure: Callable[[Server], Found], rounds: int | None = None
    ) -> dict[str, list[Found]]:
        found: dict[str, list[Found]] = {server.name: [] for server in servers}
        for _ in range(rounds or self._rounds):
            for server in servers:
                found[server.name].append(measure(server))
        return found


def latency(timings: Timings) -> Latency:
    ordered = sorted(timings.latencies_s) or [0.0]
    return Latency(
        p50_ms=statistics.median(ordered) * 1e3,
        p99_ms=ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
        errors=timings.errors,
    )
