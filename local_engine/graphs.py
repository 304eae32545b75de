"""Decode steps recorded once and launched as a whole: from the input tokens to those that are drawn.

A step of a few hundred launches takes the host longer to launch than the device to run. So for some numbers
of rows it is recorded when the engine opens, over the buffers that every step reads, and replayed for each
plan in which every sequence computes one row and samples it; rows that a plan does not need compute
something that nobody reads. A recorded step draws plainly. What else a row asks for (a grammar, penalties,
filters, logprobs) is drawn again from the recorded step's logits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch

from local_engine.batch import Run
from local_engine.buffers import Buffers
from local_engine.model import KV, Model, forward
from local_engine.ops import Ops
from local_engine.sampling import Drawn
from local_engine.scheduler import Plan

WARM_UPS = 2
"""Runs before a recording: kernels are compiled and libraries make their handles in the first."""


class Output(NamedTuple):
    """What a step leaves behind until the next one is launched: logits f32 [rows, V], and tokens drawn
    plainly."""

    logits: torch.Tensor
    drawn: Drawn


class Capture(Protocol):
    """A device's way to record."""

    def record(self, step: Callable[[], Output]) -> tuple[Output, Callable[[], None]]:
        """Records what `step` launches. Returns where its output will be, and what launches it again."""


class CudaCapture:
    """CUDA graphs that share one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, step: Callable[[], Output]) -> tuple[Output, Callable[[], None]]:
        """See `Capture`."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = step()
        return output, graph.replay


@dataclass(frozen=True, slots=True)
class Recorded:
    """One number of rows."""

    rows: int
    output: Output
    launch: Callable[[], None]


class Graphs:
    """The recorded steps of one model over its buffers and pools."""

    def __init__(
        self, model: Model, kv: KV, ops: Ops, buffers: Buffers, capture: Capture, sizes: Sequence[int]
    ) -> None:
        """Records a step of each of `sizes`, the largest first: what it needs is enough for the others."""
        self._sizes = sorted(sizes)
        self._steps: dict[int, Recorded] = {}
        for rows in reversed(self._sizes):
            output, launch = capture.record(partial(_step, model, kv, ops, buffers, rows))
            self._steps[rows] = Recorded(rows, output, launch)

    def step_for(self, plan: Plan) -> Recorded | None:
        """The smallest recorded step that computes a plan, if one does."""
        if not plan.work or any(work.count != 1 or not work.samples for work in plan.work):
            return None
        at = bisect_left(self._sizes, len(plan.work))
        return self._steps[self._sizes[at]] if at < len(self._sizes) else None


def sizes_up_to(max_running: int) -> tuple[int, ...]:
    """The numbers of rows to record: each one up to 8, then such that no plan is filled up by a quarter."""
    found = [1]
    while found[-1] < max_running:
        step = 1 << max(0, found[-1].bit_length() - 3)
        found.append(min(max_running, found[-1] + step))
    return tuple(found)


@torch.inference_mode()
def compile_prompts(model: Model, kv: KV, ops: Ops, buffers: Buffers, step_tokens: int) -> None:
    """Runs steps of up to `step_tokens` rows of nobody's, so that no request waits for their kernels: one for
    each power of two, which is what launches are chosen by, and one of a row more."""
    for exponent in range(step_tokens.bit_length()):
        for rows in (1 << exponent, (1 << exponent) + 1):
            if rows <= step_tokens:
                batch = buffers.decoding(rows)
                prompt = replace(batch, rows=batch.rows[:1], runs=(Run(0, rows, 0, 0),))
                forward(model, prompt, kv, ops)


@torch.inference_mode()
def _step(model: Model, kv: KV, ops: Ops, buffers: Buffers, rows: int) -> Output:
    batch = buffers.decoding(rows)
    buffers.resolve(rows)
    logits = forward(model, batch, kv, ops)
    drawn = ops.sample(logits, batch.draw)
    buffers.previous[:rows].copy_(drawn.tokens)
    return Output(logits, drawn)
