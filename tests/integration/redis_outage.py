"""A steady load while Redis is killed or stopped, and comes back: what callers see before, meanwhile, after.

`python -m tests.integration.redis_outage` prints the latencies of both kinds of outage as JSON; the test of
the same name asserts what may never happen.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from tests.integration.bundle import DEMO, bundle_with_keys
from tests.integration.caller import CHAT
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.scripted_engine import SECRET, running_scripted_engine
from tests.redis_server import RedisServer

Kind = Literal["killed", "stopped"]

RATE_PER_S = 50
REPEATED = "the same all along"
AWAY_AT_S, BACK_AT_S, END_AT_S = 4.0, 12.0, 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was due, how long it took, what came. `again` is a question asked all along."""

    at_s: float
    took_s: float
    status: int
    cache: str
    again: bool


async def steady_load(gateway: GatewayProcess, redis: RedisServer, kind: Kind) -> list[Sample]:
    """Asks at a fixed rate, whatever the answers do, while Redis goes and comes back."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    # Every second request repeats one question; the others are new.
    async with aiohttp.ClientSession(trust_env=False, headers={"authorization": f"Bearer {DEMO}"}) as http:
        outage = asyncio.create_task(go_and_come_back(redis, kind, started_s))
        asking = []
        for number in range(int(RATE_PER_S * END_AT_S)):
            due_s = number / RATE_PER_S
            await asyncio.sleep(max(0.0, started_s + due_s - loop.time()))
            asking.append(asyncio.create_task(ask(http, gateway.url, number, due_s)))
        samples = await asyncio.gather(*asking)
        await outage
    return samples


async def go_and_come_back(redis: RedisServer, kind: Kind, started_s: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(started_s + AWAY_AT_S - loop.time())
    await asyncio.to_thread(redis.kill if kind == "killed" else redis.pause)
    await asyncio.sleep(started_s + BACK_AT_S - loop.time())
    await asyncio.to_thread(redis.start if kind == "killed" else redis.resume)


async def ask(http: aiohttp.ClientSession, url: str, number: int, due_s: float) -> Sample:
    again = number % 2 == 0
    text = REPEATED if again else f"new {number}"
    body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": text}]}
    started_s = time.perf_counter()
    try:
        async with http.post(f"{url}{CHAT}", json=body) as response:
            await response.read()
            status, cache = response.status, response.headers.get("x-douane-cache", "")
    except aiohttp.ClientError:
        status, cache = 0, ""
    return Sample(due_s, time.perf_counter() - started_s, status, cache, again)


def part(samples: Sequence[Sample], from_s: float, to_s: float) -> list[Sample]:
    return [one for one in samples if from_s <= one.at_s < to_s]


def describe(samples: Sequence[Sample]) -> dict[str, Any]:
    """Counts and latencies; the added ones are for requests that asked the engine, hits aside."""
    took_ms = sorted(one.took_s * 1000 for one in samples if one.cache != "hit")
    cuts = statistics.quantiles(took_ms, n=100)
    return {
        "requests": len(samples),
        "failed": sum(one.status != 200 for one in samples),
        "hits": sum(one.cache == "hit" for one in samples),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(took_ms[-1], 2),
    }


def main() -> None:
    """Measures both kinds of outage on this machine."""
    report = {}
    for kind in ("killed", "stopped"):
        with tempfile.TemporaryDirectory() as name, running_scripted_engine() as script:
            folder = Path(name)
            (folder / "redis").mkdir()
            redis = RedisServer(folder / "redis")
            redis.start()
            settings = {
                "policies": str(bundle_with_keys(folder / "bundle")),
                "bedrock": "off",
                "redis_url": redis.url,
                "engine_url": script.url,
                "engine_secret": SECRET,
            }
            try:
                with running_gateway(folder / "gateway", settings) as gateway:
                    samples = asyncio.run(steady_load(gateway, redis, kind))
            finally:
                redis.end()
        before, away = part(samples, 1, AWAY_AT_S), part(samples, AWAY_AT_S, BACK_AT_S)
        described = {
            "before": describe(before),
            "away": describe(away),
            "back": describe(part(samples, BACK_AT_S, END_AT_S)),
        }
        added = {
            f"added_{name}": round(described["away"][name] - described["before"][name], 2)
            for name in ("p50_ms", "p99_ms", "max_ms")
        }
        report[kind] = {**described, **added}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
