"""What the GPU bench runs on and over: a device with a clock, shapes, and steps to launch.

The rehearsal takes the same way on the host, with tiny shapes, under triton's interpreter. Its numbers mean
nothing; it shows that the bench comes to its end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from local_engine.batch import Batch, Run
from local_engine.buffers import Buffers, Sizes
from local_engine.config import ModelConfig
from local_engine.graphs import Output
from local_engine.kv import BLOCK_TOKENS, first_seen
from local_engine.model import KV, Layer, Model, forward, new_kv
from local_engine.ops import Ops, ref
from local_engine.presets import GPT_OSS_20B, GPT_OSS_120B, TINY
from local_engine.scheduler import Limits

SAMPLES = 7
"""Timings of which the median counts."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The machine, or with `tiny` its rehearsal."""

    device: torch.device
    tiny: bool

    def model(self, name: str, layers: int | None = None) -> ModelConfig:
        """The shape of `20b` or `120b`; in the rehearsal of nothing larger than a test."""
        config = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B}[name]
        if self.tiny:
            config = replace(
                TINY,
                num_hidden_layers=2,
                num_experts=6 if name == "20b" else 8,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                intermediate_size=64,
                vocab_size=32,
            )
            layers = min(2, layers or 2)
        return config if layers is None else replace(config, num_hidden_layers=layers)

    def size(self, count: int, tiny: int) -> int:
        """A number of rows, positions or bytes: `count`, in the rehearsal `tiny`."""
        return tiny if self.tiny else count

    @property
    def dtype(self) -> torch.dtype:
        """What is measured in: bf16, which the interpreter cannot do."""
        return torch.float32 if self.tiny else torch.bfloat16

    def settle(self) -> None:
        """Waits for all that was launched."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, launch: Callable[[], object], times: int) -> float:
        """Device time of one launch: the median of `SAMPLES` runs of `times` launches each."""
        if self.device.type == "cpu":
            began = time.perf_counter()
            launch()
            return time.perf_counter() - began
        launch()
        self.settle()
        return statistics.median(self._run(launch, times) / times for _ in range(SAMPLES))

    def _run(self, launch: Callable[[], object], times: int) -> float:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        for _ in range(times):
            launch()
        last.record()
        last.synchronize()
        taken_ms: float = first.elapsed_time(last)
        return taken_ms / 1000

    def recorded(self, run: Callable[[], Any]) -> Callable[[], object]:
        """What launches all of `run` at once: a graph, where there are graphs."""
        if self.device.type == "cpu":
            return run
        for _ in range(2):
            run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay


class HostCapture:
    """Plays a recording: runs the step again and puts the results where they were."""

    def record(self, step: Callable[[], Output]) -> tuple[Output, Callable[[], None]]:
        """See `Capture`."""
        output = step()

        def launch() -> None:
            again = step()
            output.logits.copy_(again.logits)
            output.drawn.tokens.copy_(again.drawn.tokens)

        return output, launch


def filled_kv(model: Model, full_blocks: int, window_blocks: int) -> KV:
    """Pools with something in them: zeros would be multiplied as fast as anything, but hide mistakes."""
    kv = new_kv(model, full_blocks, window_blocks)
    for layer in kv.layers:
        layer.keys.normal_()
        layer.values.normal_()
    return kv


@dataclass(frozen=True, slots=True)
class Decode:
    """A step, ready to be launched."""

    model: Model
    batch: Batch
    kv: KV

    def step(self, ops: Ops) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and tokens."""
        logits = forward(self.model, self.batch, self.kv, ops)
        return logits, ops.sample(logits, self.batch.draw).tokens

    def experts(self, ops: Ops) -> float:
        """How many experts a layer of this step reads, on average."""
        counts: list[int] = []

        def routing(x: torch.Tensor, layer: Layer, top: int) -> Any:
            counts.append(ref.OPS.route(x, layer, top).ids.unique().numel())
            return ops.route(x, layer, top)

        forward(self.model, self.batch, self.kv, replace(ops, route=routing))
        return sum(counts) / len(counts)


def prompting(setting: Setting, model: Model, rows: int, before: int) -> Decode:
    """A step of one sequence's prompt, filled: `rows` positions behind `before` others, the last sampled."""
    config, device = model.config, setting.device
    blocks = -(-(before + rows) // BLOCK_TOKENS)
    base = first_seen(before, config.sliding_window)
    sizes = Sizes(Limits(1, rows), model.rope.cos.shape[0], config.sliding_window, config.vocab_size)
    batch = Buffers(sizes, device).decoding(rows)
    own = torch.arange(1, blocks + 1, device=device)
    places = torch.arange(before, before + rows, device=device)
    slots = own.index_select(0, places // BLOCK_TOKENS) * BLOCK_TOKENS + places % BLOCK_TOKENS
    batch.tokens.copy_(torch.randint(0, config.vocab_size, (rows,), device=device))
    batch.positions.copy_(places)
    batch.rows.fill_(rows - 1)
    batch.full.tables[0, :blocks] = own
    batch.window.tables[0, : blocks - base] = own[base:]
    batch.window.base[0] = base
    batch.full.slots.copy_(slots)
    batch.window.slots.copy_(slots)
    batch.draw.temperature.fill_(1.0)
    runs = (Run(0, rows, before, 0),)
    batch = replace(batch, runs=runs, window_base=(base,))
    return Decode(model, batch, filled_kv(model, blocks + 1, blocks + 1))


def decoding(setting: Setting, model: Model, rows: int, context: int) -> Decode:
    """A decode step, filled: `rows` sequences that each see `context` positions of their own."""
    config, device = model.config, setting.device
    blocks = -(-context // BLOCK_TOKENS)
    seen = min(blocks, config.sliding_window // BLOCK_TOKENS + 1)
    sizes = Sizes(Limits(rows, rows), model.rope.cos.shape[0], config.sliding_window, config.vocab_size)
    batch = Buffers(sizes, device).decoding(rows)
    kv = filled_kv(model, rows * blocks + 1, rows * seen + 1)
    last = context - 1
    every = torch.arange(rows, device=device)
    own = torch.arange(1, rows * blocks + 1, device=device).view(rows, blocks)
    tail = torch.arange(1, rows * seen + 1, device=device).view(rows, seen)
    batch.tokens.copy_(torch.randint(0, config.vocab_size, (rows,), device=device))
    batch.positions.fill_(last)
    batch.sequence.copy_(every)
    batch.rows.copy_(every)
    batch.full.tables[:rows, :blocks] = own
    batch.full.slots.copy_(own[:, -1] * BLOCK_TOKENS + last % BLOCK_TOKENS)
    batch.window.tables[:rows, :seen] = tail
    batch.window.base[:rows] = blocks - seen
    batch.window.slots.copy_(tail[:, -1] * BLOCK_TOKENS + last % BLOCK_TOKENS)
    batch.draw.uniform.fill_(0.5)
    batch.draw.temperature.fill_(1.0)
    return Decode(model, batch, kv)
