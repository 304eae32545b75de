"""Closed-loop load at full speed: `wrk` (in C) where it is installed, else the bench's own client."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import requests
from bench.client import closed_loop, run_load
from bench.requests import MARK

# Each request of a run is a new question: a number of 12 digits, which starts where the last run ended.
SCRIPT = """
local number = {first}
local before, after = {before}, {after}
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
request = function()
  number = number + {step}
  return wrk.format(nil, nil, nil, before .. string.format("%012d", number) .. after)
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n@{{"requests":%d,"elapsed_us":%d,"errors":%d}}\\n', summary.requests,
    summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one closed-loop run did."""

    requests: int
    elapsed_s: float
    errors: int

    @property
    def per_s(self) -> float:
        return self.requests / self.elapsed_s


def client_name() -> str:
    return "wrk" if shutil.which("wrk") else "bench.client"


def full_speed(
    port: int, key: str, first: int, connections: int, duration_s: int, directory: Path, *, same: bool = False
) -> Load:
    """`connections` connections as fast as answers come: question `first` and those after it, or it alone."""
    if shutil.which("wrk") is None:
        numbers = itertools.repeat(first) if same else itertools.count(first)
        timings = run_load(
            closed_loop(port, requests.template(key), numbers, connections, duration_s=duration_s)
        )
        return Load(len(timings.latencies_s), timings.elapsed_s, timings.errors)
    before, after = requests.body().split(MARK)
    script = directory / "load.lua"
    script.write_text(
        SCRIPT.format(
            first=first, step=0 if same else 1, key=key, before=json.dumps(before), after=json.dumps(after)
        )
    )
    printed = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "-s", str(script),
         f"http://127.0.0.1:{port}/v1/chat/completions"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    told = json.loads(printed.rpartition("@")[2])
    return Load(told["requests"], told["elapsed_us"] / 1e6, told["errors"])
