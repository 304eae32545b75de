"""What the gateway costs with everything on, beside a bare forwarder in the same run.

    python -m bench.gateway [--json] [--rounds N] [--seconds N] [--litellm COMMAND]

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
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.litellm_proxy import running_litellm
from bench.measure import RATE_PER_S, Bench, Latency, Speed, Streamed
from bench.processes import NotStarted, Server
from bench.residency import decision_us
from bench.roundtrips import RoundTrips, count_round_trips
from bench.rows import Row, table
from bench.stack import Stack, running_stack
from bench.wrk import client_name

OPEN_ROUNDS = 5
NO_PEER = "not run; numbers of other runs or machines are not put beside these"
NO_LITELLM = f"{NO_PEER}. `--litellm COMMAND` runs it"
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
        """Answers of Douane that were not what was asked for, under every load."""
        answered: list[Speed | Latency | Streamed] = [*self.hits]
        for loads in (self.full_speed, self.one_connection, self.open_loop, self.streams, self.first_tokens):
            answered += loads["douane"]
        return sum(one.errors for one in answered)


def measure(stack: Stack, peers: list[Server], rounds: int, seconds: int) -> Measured:
    bench = Bench(stack, rounds, seconds)
    pair = [stack.bare, stack.douane]
    bench.warm_up([*pair, *peers])
    round_trips = count_round_trips(stack, bench.questions())
    return Measured(
        full_speed=bench.full_speed([*pair, *peers]),
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
    p99_ms = median(ours.p99_ms - bares.p99_ms for ours, bares in tails)
    cpu = median(one.cpu_us for one in douane) / median(one.cpu_us for one in bare)
    rate = median(one.per_s for one in douane) / median(one.per_s for one in bare)
    hits = median(one.per_s for one in found.hits)
    relayed = {name: median(one.cpu_us for one in runs) for name, runs in found.streams.items()}
    return [
        Row("CPU a request, everything on, to the bare forwarder's", cpu, "×", at_most=2.5),
        Row("requests a second at 16 connections, to the bare forwarder's", rate, "×", at_least=0.4),
        Row("round trips to Redis on a cache miss", found.round_trips.miss, "", at_most=2),
        Row("round trips to Redis on a cache hit", found.round_trips.hit, "", at_most=1),
        Row("p50 over the bare forwarder's, 1 connection", added_ms(found.one_connection), "ms", at_most=1),
        Row(f"p99 over the bare forwarder's, {RATE_PER_S:g}/s open loop", p99_ms, "ms", at_most=3),
        Row("errors", found.errors(), "", at_most=0),
        Row("cache hits a second from Redis", hits, "/s", at_least=2500, note=hits_note(hits, bare)),
        Row("streaming: CPU a chunk, to a bare relay's", relayed["douane"] / relayed["bare"], "×", at_most=2),
        Row(
            "streaming: p50 to first token, over a bare relay's",
            added_ms(found.first_tokens),
            "ms",
            at_most=1,
        ),
        Row("residency decision over 60 backends", found.decision_us, "µs", at_most=10),
        litellm_row(found),
        Row("requests a second, to Portkey's gateway", None, "×", at_least=1, note=NO_PEER),
    ]


def litellm_row(found: Measured) -> Row:
    """Douane with everything on, to LiteLLM's proxy with no more than a key."""
    what = "requests a second, to LiteLLM's proxy"
    runs = found.full_speed.get("litellm")
    if runs is None:
        return Row(what, None, "×", at_least=10, note=NO_LITELLM)
    theirs = median(one.per_s for one in runs)
    wrong = sum(one.errors for one in runs)
    ours = median(one.per_s for one in found.full_speed["douane"])
    return Row(what, ours / theirs, "×", at_least=10, note=f"it made {theirs:.0f}/s, {wrong} answers wrong")


def hits_note(hits_per_s: float, bare: list[Speed]) -> str:
    """A number of its own depends on the machine; beside the bare forwarder's it says more."""
    bare_per_s = median(one.per_s for one in bare)
    return f"{hits_per_s / bare_per_s:.2f} × the {bare_per_s:.0f}/s that the bare forwarder made in this run"


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def added_ms(latencies: dict[str, list[Latency]]) -> float:
    """How much later the median answer of Douane is than the bare forwarder's, in milliseconds."""
    pairs = zip(latencies["douane"], latencies["bare"], strict=True)
    return median(ours.p50_ms - bares.p50_ms for ours, bares in pairs)


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (default 3)")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of load in a round (default 4)")
    parser.add_argument("--litellm", metavar="COMMAND", help="also measure this `litellm` proxy command")
    options = parser.parse_args(arguments)
    before, began_s = machine(), time.monotonic()
    try:
        with ExitStack() as opened:
            directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="douane-bench-")))
            stack = opened.enter_context(running_stack(directory))
            peers = []
            if options.litellm:
                peers.append(
                    opened.enter_context(
                        running_litellm(options.litellm, directory, stack.upstream, stack.key)
                    )
                )
            found = measure(stack, peers, options.rounds, options.seconds)
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
