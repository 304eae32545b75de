"""The host's work for a token: a step of the engine, and the whole server, with no model behind them.

    python -m bench.engine --null-ops [--json] [--steps N] [--streams N] [--tokens N]

No model runs: operations give random tokens at once (`bench/null.py`), so all that is measured is what the
host does. A step is timed in one process, the others silent. The server has one core to itself; its client,
which only counts, has another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import uvloop

from bench.gateway import machine
from bench.null import RUNNING, null_engine
from bench.processes import TICK_S, NotStarted, Server, free_port, python, running
from bench.rows import Row, table
from bench.streams import PATIENCE_S, counted, load
from local_engine.engine import Engine
from local_engine.sampling import SamplingParams
from local_engine.scheduler import Plan
from local_engine.vocabulary import Vocabulary, load_vocabulary

NOTE: Final = "no model ran: operations returned random tokens at once"
GOALS_US: Final = {1: 150, 64: 600}
"""The longest that half of the steps may take, by batch size."""
GOAL_TOKENS_PER_S: Final = 10_000
CONTEXTS: Final = (1_000, 30_000)
STEPS_MS: Final = (0.0, 5.0)
"""What a step takes the device: nothing, so that tokens wait for each other and leave several in a chunk; and
so long that 64 streams make at most 12,800 tokens a second, each to be sent alone."""
STEPS: Final = 3000
TOKENS: Final = 1000
UNMEASURED_STEPS: Final = 50
ROOM_TOKENS: Final = 8192
"""For what the first sequence says until the last one has read its prompt."""
WARM_UP_TOKENS: Final = 50


@dataclass(frozen=True, slots=True)
class Stepped:
    """How long decoding steps of `batch` sequences at a context took, in microseconds."""

    batch: int
    context_tokens: int
    overlap: bool
    steps: int
    median_us: float
    p95_us: float


@dataclass(frozen=True, slots=True)
class Served:
    """Streams through the server over steps of `step_ms`. `tokens` are those of the usage that it told,
    `chunks` the events that carried any; CPU is that of the server's process, by thread, for each token."""

    step_ms: float
    streams: int
    tokens: int
    chunks: int
    tokens_per_s: float
    chunks_per_token: float
    cpu_us: float
    event_loop_us: float
    engine_us: float
    client_busy: float


class TimedEngine(Engine):
    """Notes how long each step takes that decodes for `batch` sequences and does nothing else, until there
    are `steps` of them behind the first `UNMEASURED_STEPS`."""

    batch = 0
    steps = 0

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.took_s: list[float] = []
        self.enough = threading.Event()

    def step(self) -> Plan:
        """One step."""
        began_s = time.perf_counter()
        plan = super().step()
        took_s = time.perf_counter() - began_s
        if len(plan.work) == self.batch and not plan.fresh and all(work.count == 1 for work in plan.work):
            self.took_s.append(took_s)
        if len(self.took_s) >= UNMEASURED_STEPS + self.steps:
            self.enough.set()
        return plan


def step_time(vocabulary: Vocabulary, batch: int, context_tokens: int, overlap: bool, steps: int) -> Stepped:
    """Times `steps` decoding steps of `batch` sequences behind prompts of `context_tokens`.

    The first sequences answer while the prompts of the last ones are still computed, so their contexts are
    somewhat longer. Raises `RuntimeError` when the steps do not come.
    """
    longest = context_tokens + ROOM_TOKENS + steps
    engine = null_engine(TimedEngine, vocabulary, context_tokens=longest, overlap=overlap)
    engine.batch, engine.steps = batch, steps
    params = SamplingParams(longest - context_tokens, seed=1, stop_tokens=frozenset())
    for number in range(batch):
        engine.submit(prompt(number, context_tokens), params, lambda step: None)
    engine.start()
    enough = engine.enough.wait(PATIENCE_S)
    engine.close()
    if not enough:
        raise RuntimeError(f"{steps} steps of {batch} sequences did not come within {PATIENCE_S:g} s")
    took_us = [1e6 * took for took in engine.took_s[UNMEASURED_STEPS : UNMEASURED_STEPS + steps]]
    return Stepped(batch, context_tokens, overlap, len(took_us), median(took_us), percentile(took_us, 0.95))


def prompt(number: int, tokens: int) -> list[int]:
    """A prompt of which no block is another's."""
    return [1 + number, *range(2, tokens + 1)]


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 1)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return round(ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)], 1)


def threads_cpu_s(server: Server) -> dict[int, float]:
    """User and system time so far of each thread of a process, by id."""
    found = {}
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def serving(step_ms: float, streams: int, tokens: int, core: int) -> Served:
    """Starts a server over steps of `step_ms` on `core`, and measures it. Raises `NotStarted`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="douane-bench-") as directory:
        command = python("-m", "bench.null", str(port), str(core), str(step_ms))
        with running("null engine", command, port, Path(directory, "log"), path="/health") as server:
            return measured(server, step_ms, streams, tokens)


def measured(server: Server, step_ms: float, streams: int, tokens: int) -> Served:
    """`streams` answers of `tokens` at once, after a short round to warm the server up."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(server.port, streams, min(tokens, WARM_UP_TOKENS), 0))
        before, mine_s = threads_cpu_s(server), time.process_time()
        answers, took_s = runner.run(load(server.port, streams, tokens, streams))
        after, mine_s = threads_cpu_s(server), time.process_time() - mine_s
    spent = {thread: after[thread] - before.get(thread, 0.0) for thread in after}
    return told(step_ms, answers, took_s, spent, server.pid, mine_s)


def told(
    step_ms: float,
    answers: Sequence[bytes],
    took_s: float,
    cpu_s: dict[int, float],
    main_thread: int,
    client_s: float,
) -> Served:
    """What a load makes of these answers and times. The busiest thread beside the main one, which runs the
    event loop, is the engine's."""
    counts = [counted(answer) for answer in answers]
    tokens, chunks = sum(one[0] for one in counts), sum(one[1] for one in counts)
    loop_s = cpu_s[main_thread]
    engine_s = max((spent for thread, spent in cpu_s.items() if thread != main_thread), default=0.0)
    return Served(
        step_ms=step_ms,
        streams=len(answers),
        tokens=tokens,
        chunks=chunks,
        tokens_per_s=round(tokens / took_s, 1),
        chunks_per_token=round(chunks / tokens, 3),
        cpu_us=round(1e6 * sum(cpu_s.values()) / tokens, 1),
        event_loop_us=round(1e6 * loop_s / tokens, 1),
        engine_us=round(1e6 * engine_s / tokens, 1),
        client_busy=round(client_s / took_s, 3),
    )


@contextmanager
def kept_to(core: int) -> Iterator[None]:
    """This process on one core and torch on one thread while the block lasts."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def rows_of(steps: Sequence[Stepped], servers: Sequence[Served]) -> list[Row]:
    """Each goal beside what was measured."""
    stepped = [
        Row(
            f"engine.step at batch {one.batch}, context {one.context_tokens:,}, overlap "
            f"{'on' if one.overlap else 'off'}: median",
            one.median_us,
            "µs",
            at_most=GOALS_US[one.batch],
            note=f"p95 {one.p95_us} µs of {one.steps} steps",
        )
        for one in steps
    ]
    streamed = [
        Row(
            f"the server on one core, {one.streams} streams, "
            + (f"a step each {one.step_ms:g} ms" if one.step_ms else "steps at once"),
            one.tokens_per_s,
            "tokens/s",
            at_least=GOAL_TOKENS_PER_S,
            note=(
                f"{one.cpu_us} µs of CPU a token: engine {one.engine_us}, event loop {one.event_loop_us}; "
                f"{one.chunks_per_token} chunks a token; the client busy {one.client_busy:.0%}"
            ),
        )
        for one in servers
    ]
    return [*stepped, *streamed]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.engine --null-ops", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each kind (default {STEPS})")
    parser.add_argument("--streams", type=int, default=RUNNING, help=f"streams at once (default {RUNNING})")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"tokens of each (default {TOKENS})")
    options = parser.parse_args(arguments)
    before = machine()
    cores = sorted(os.sched_getaffinity(0))
    try:
        with kept_to(cores[-1]):
            vocabulary = load_vocabulary()
            stepped = [
                step_time(vocabulary, batch, context, overlap, options.steps)
                for batch in GOALS_US
                for context in CONTEXTS
                for overlap in (True, False)
            ]
            servers = [
                serving(step_ms, options.streams, options.tokens, core=cores[0]) for step_ms in STEPS_MS
            ]
    except NotStarted as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3
    rows = rows_of(stepped, servers)
    if options.json:
        print(
            json.dumps(
                {
                    "bench": "host",
                    "note": NOTE,
                    "machine": before,
                    "rows": [row.told() for row in rows],
                    "steps": [asdict(one) for one in stepped],
                    "servers": [asdict(one) for one in servers],
                },
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        print(NOTE)
        print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
