"""What the gateway costs with everything on, beside a bare forwarder in the same run.

    python -m bench.gateway [--json] [--rounds N] [--seconds N] [--peers]

Both stand in front of the same upstream, under the same server, one worker each, and are measured in turns.
`docs/performance.md` says how each number is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import RATE_PER_S, Bench, Latency, Speed, Streamed
from bench.processes import NotStarted
from bench.residency import decision_us
from bench.roundtrips import RoundTrips, count_round_trips
from bench.rows import Row, table
from bench.stack import Stack, running_stack
from bench.wrk import client_name

OPEN_ROUNDS = 5
PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "aiohttp", "hiredis", "pydantic")


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Everything of one run, by server name."""

    full_speed: dict[str, list[Speed]]
    hits: list[Speed]
    one_connection: dict[str, list[Latency]]
    open_loop: dict[str, list[Latency]]
    streams: dict[str, list[Streamed]]
    first_tokens: dict[str, list[Latency]]
    round_trips: RoundTrips
    decision_us: float
    rss_mib: dict[str, float]

    def errors(self) -> int:
        groups: list[list[Speed] | list[Latency] | list[Streamed]] = [self.hits]
        for measured in (
            self.full_speed,
            self.one_connection,
            self.open_loop,
            self.streams,
            self.first_tokens,
        ):
            groups.append(measured["douane"])  # type: ignore[attr-defined]
        return sum(one.errors for group in groups for one in group)


def measure(stack: Stack, rounds: int, seconds: int) -> Measured:
    bench = Bench(stack, rounds, seconds)
    pair = [stack.bare, stack.douane]
    bench.warm_up(pair)
    round_trips = count_round_trips(stack, bench.questions())
    return Measured(
        full_speed=bench.full_speed(pair),
        hits=bench.hits(stack.douane),
        one_connection=bench.one_connection([stack.upstream, *pair]),
        open_loop=bench.open_loop(pair, OPEN_ROUNDS),
        streams=bench.streams(pair),
        first_tokens=bench.first_tokens([stack.upstream, *pair]),
        round_trips=round_trips,
        decision_us=decision_us(stack.policies),
        rss_mib={server.name: round(server.rss_mib(), 1) for server in pair},
    )


def rows_of(found: Measured) -> list[Row]:
    bare, douane = found.full_speed["bare"], found.full_speed["douane"]
    tails = zip(found.open_loop["douane"], found.open_loop["bare"], strict=True)
    return [
        Row(
            "CPU a request, everything on, to the bare forwarder's",
            median(one.cpu_us for one in douane) / median(one.cpu_us for one in bare), "×", at_most=2.5,
        ),
        Row(
            "requests a second at 16 connections, to the bare forwarder's",
            median(one.per_s for one in douane) / median(one.per_s for one in bare), "×", at_least=0.4,
        ),
        Row("round trips to Redis on a cache miss", found.round_trips.miss, "", at_most=2),
        Row("round trips to Redis on a cache hit", found.round_trips.hit, "", at_most=1),
        Row("p50 added at 1 connection, over the bare forwarder", added(found.one_connection, "bare"), "ms", at_most=1),
        Row(
            f"p99 over the bare forwarder's at {RATE_PER_S:g} requests/s, open loop",
            median(ours.p99_ms - bares.p99_ms for ours, bares in tails), "ms", at_most=3,
        ),
        Row("errors", found.errors(), "", at_most=0),
        Row("cache hits a second from Redis", median(one.per_s for one in found.hits), "/s", at_least=2500),
        Row(
            "streaming: CPU a chunk, to a bare relay's",
            median(one.cpu_us for one in found.streams["douane"]) / median(one.cpu_us for one in found.streams["bare"]),
            "×", at_most=2,
        ),
        Row("streaming: p50 added to the first token, over a bare relay", added(found.first_tokens, "bare"), "ms", at_most=1),
        Row("residency decision over 60 backends", found.decision_us, "µs", at_most=10),
    ]  # fmt: skip


def median(values: Any) -> float:
    return statistics.median(values)


def added(latencies: dict[str, list[Latency]], before: str) -> float:
    """How much later the median answer of Douane is than that of `before`, in milliseconds."""
    pairs = zip(latencies["douane"], latencies[before], strict=True)
    return median(ours.p50_ms - theirs.p50_ms for ours, theirs in pairs)


def machine() -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--rounds", type=int, default=3, help="interleaved rounds of each measurement (default 3)"
    )
    parser.add_argument("--seconds", type=int, default=4, help="seconds of load in a round (default 4)")
    options = parser.parse_args(arguments)
    before, began_s = machine(), time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="douane-bench-") as directory,
            running_stack(Path(directory)) as stack,
        ):
            found = measure(stack, options.rounds, options.seconds)
    except NotStarted as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3
    rows = rows_of(found)
    if not options.json:
        print(table(rows))
        return 0
    told = {
        "bench": "gateway",
        "machine": before,
        "client": client_name(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "took_s": round(time.monotonic() - began_s),
        "rows": [row.told() for row in rows],
        "measured": dataclasses.asdict(found),
    }
    print(json.dumps(told, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
