"""Stages 3, 5 and 6 of the GPU bench: whole steps, launched by themselves and by the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from bench.drawn import drawn_model
from bench.gpu_rows import Row
from bench.gpu_setting import HostCapture, Setting, decoding, prompting
from bench.roofline import step_bytes
from local_engine.buffers import Buffers, Sizes
from local_engine.engine import Engine
from local_engine.graphs import CudaCapture, Graphs
from local_engine.kv import BLOCK_TOKENS, BlockTables
from local_engine.memory import window_blocks
from local_engine.model import Model, forward, new_kv
from local_engine.ops import cpu
from local_engine.ops.triton import OPS
from local_engine.runner import ModelRunner
from local_engine.sampling import SamplingParams
from local_engine.scheduler import Limits, Scheduler
from local_engine.steps import Failed, Finished, Step, Token

PATIENCE_S = 120.0
CAP_BYTES = 80e9
"""A card of 80 GB must do for 120b."""
LONGEST = 131_072


@dataclass
class Asked:
    """One request: its tokens, and when each came."""

    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    error: str | None = None

    def deliver(self, step: Step) -> None:
        """The engine's callback."""
        if isinstance(step, Token):
            self.tokens.append(step.id)
            self.times_s.append(time.perf_counter())
        elif isinstance(step, Finished | Failed):
            self.error = str(step.error) if isinstance(step, Failed) else None
            self.over.set()


def engine_of(
    setting: Setting, model: Model, *, running: int, context: int, graphs: bool, sizes: tuple[int, ...]
) -> Engine:
    """An engine with room for `running` sequences of `context` tokens; with `graphs`, steps of `sizes` rows
    are recorded."""
    config, rows = model.config, setting.size(2048, 32)
    limits = Limits(running, max(running, rows))
    full = running * (-(-context // BLOCK_TOKENS) + 1)
    window = window_blocks(config, full, running, context, limits.step_tokens)
    kv = new_kv(model, full + 1, window + 1)
    buffers = Buffers(Sizes(limits, context, config.sliding_window, config.vocab_size), setting.device)
    on_gpu = setting.device.type == "cuda"
    capture = CudaCapture() if on_gpu else HostCapture()
    recorded = Graphs(model, kv, OPS, buffers, capture, sizes) if graphs else None
    runner = ModelRunner(model, kv, OPS, buffers, overlaps=on_gpu, graphs=recorded)
    scheduler = Scheduler(BlockTables(full, window, config.sliding_window), limits)
    return Engine(runner, scheduler, max_context_tokens=context, max_waiting=running)


def run(engine: Engine, prompts: list[list[int]], answer: int) -> list[Asked]:
    """Answers of so many tokens to all prompts at once, drawn with a seed each. Raises `RuntimeError`."""
    asked = [Asked() for _ in prompts]
    for seed, (prompt, one) in enumerate(zip(prompts, asked, strict=True)):
        params = SamplingParams(answer, seed=seed, stop_tokens=frozenset())
        engine.submit(prompt, params, one.deliver, cache_salt=str(seed))
    engine.start()
    try:
        for one in asked:
            if not one.over.wait(PATIENCE_S):
                raise RuntimeError("the engine did not answer in time")
            if one.error is not None:
                raise RuntimeError(f"the engine failed: {one.error}")
    finally:
        engine.close()
    return asked


def prompts_of(model: Model, count: int, tokens: int) -> list[list[int]]:
    """Random prompts."""
    drawn: list[list[int]] = torch.randint(0, model.config.vocab_size, (count, tokens)).tolist()
    return drawn


def steady_rate(asked: list[Asked]) -> float:
    """Tokens a second of all together, from when the last had its first token to when the first was done."""
    begin, end = max(one.times_s[0] for one in asked), min(one.times_s[-1] for one in asked)
    return sum(begin < at <= end for one in asked for at in one.times_s) / (end - begin)


def decode_rows(
    setting: Setting, model: Model, rows: int, context: int, read: float | None, goals: tuple[float, ...] = ()
) -> Iterator[Row]:
    """A recorded step by itself: device time, and how that stands to plain reading of the same bytes."""
    step = decoding(setting, model, rows, context)
    # One for all: what is read does not depend on which of the rows' experts are which.
    experts = step.experts(OPS)
    launch = setting.recorded(lambda: step.step(OPS))
    seconds = setting.seconds(launch, setting.size(20, 1))
    moved = step_bytes(model.config, rows, context, experts)
    share = None if read is None else moved / seconds / read
    values: dict[str, float | str] = {
        "µs": seconds * 1e6,
        "tokens/s": rows / seconds,
        "GB/s": moved / seconds / 1e9,
        "experts a layer": experts,
        "of reading": "not measured" if share is None else share,
    }
    goal = max((one for one in goals if share is not None and share >= one), default=None)
    met = None if share is None or not goals else share >= goals[0]
    if goals:
        values["goal"] = " then ".join(f"{one:.0%}" for one in goals)
        values["reached"] = "none" if goal is None else f"{goal:.0%}"
    yield Row(f"a step of {rows}, context {context}", values, met=met)


def engine_rows(setting: Setting, model: Model, running: int, context: int, answer: int) -> Iterator[Row]:
    """The whole engine, from plan to delivered token."""
    longest = context + answer + BLOCK_TOKENS
    engine = engine_of(setting, model, running=running, context=longest, graphs=True, sizes=(running,))
    asked = run(engine, prompts_of(model, running, context), answer)
    yield Row(f"the engine, {running} at once, context {context}", {"tokens/s": steady_rate(asked)})


def graphs(setting: Setting, read: float | None) -> Iterator[Row]:
    """Stage 3: a recorded step says what launched kernels say, then batch 1 at full depth."""
    short = drawn_model(
        setting.model("20b", 4), setting.dtype, setting.device, positions=setting.size(4096, 256)
    )
    prompt, answer = setting.size(600, 3), setting.size(48, 3)
    for rows in (3,) if setting.tiny else (1, 3, 8):
        prompts = prompts_of(short, rows, prompt)
        told = [
            run(
                engine_of(
                    setting, short, running=rows, context=prompt + answer + 16, graphs=one, sizes=(rows,)
                ),
                prompts,
                answer,
            )
            for one in (True, False)
        ]
        same = [one.tokens for one in told[0]] == [one.tokens for one in told[1]]
        yield Row(
            f"4 layers, {rows} rows: recorded and launched", {"same tokens": str(same)}, failed=not same
        )
    tokens = setting.size(300, 9)
    step = prompting(setting, short, tokens, 0)
    every = replace(step.batch, rows=torch.arange(tokens, device=setting.device))
    ours, plain = (forward(short, every, step.kv, ops).log_softmax(-1) for ops in (OPS, cpu.OPS))
    apart = float((plain.exp() * (plain - ours)).sum(-1).mean())
    # What rounding alone does to a model of four random layers in bf16 is a few thousandths.
    yield Row("4 layers against plain torch", {"KL": apart}, failed=not apart <= 0.05)
    del short, step
    model = drawn_model(
        setting.model("20b"), setting.dtype, setting.device, positions=setting.size(4096, 256)
    )
    yield from decode_rows(setting, model, 1, setting.size(1024, 40), read, (0.5, 0.7))
    yield from engine_rows(setting, model, 1, setting.size(1024, 5), setting.size(256, 3))


def batches(setting: Setting, read: float | None) -> Iterator[Row]:
    """Stage 5: 20b at batches, at a long context, and its prompts."""
    model = drawn_model(
        setting.model("20b"), setting.dtype, setting.device, positions=setting.size(33_000, 512)
    )
    for rows, goals in ((8, (0.45,)), (64, (0.35, 0.5))):
        rows = setting.size(rows, rows // 8)
        yield from decode_rows(setting, model, rows, setting.size(1024, 40), read, goals)
        yield from engine_rows(setting, model, rows, setting.size(1024, 5), setting.size(128, 3))
    yield from decode_rows(setting, model, 1, setting.size(32_768, 200), read, (0.45,))
    tokens = setting.size(8192, 40)
    engine = engine_of(setting, model, running=2, context=tokens + 16, graphs=False, sizes=())
    first, second = Asked(), Asked()
    engine.start()
    try:
        # The first finds kernels to compile; only the second is timed.
        for number, one in enumerate((first, second)):
            prompt = prompts_of(model, 1, tokens)[0]
            began_s = time.perf_counter()
            engine.submit(prompt, SamplingParams(1), one.deliver, cache_salt=str(number))
            if not one.over.wait(PATIENCE_S) or one.error is not None:
                raise RuntimeError(f"a prompt of {tokens} was not answered: {one.error}")
    finally:
        engine.close()
    rate = tokens / (second.times_s[0] - began_s)
    yield Row(f"a prompt of {tokens}", {"tokens/s": rate, "goal": "20,000"}, met=rate >= 20_000)


def large(setting: Setting, read: float | None) -> Iterator[Row]:
    """Stage 6: 120b on a card of 80 GB, with one context of full length."""
    on_gpu = setting.device.type == "cuda"
    if on_gpu:
        total = torch.cuda.get_device_properties(setting.device).total_memory
        if total > CAP_BYTES:
            torch.cuda.set_per_process_memory_fraction(CAP_BYTES / total)
    longest = setting.size(LONGEST, 256)
    model = drawn_model(setting.model("120b"), setting.dtype, setting.device, positions=longest)
    yield Row("weights", {"GB": weights_bytes(model) / 1e9})
    yield from decode_rows(setting, model, 1, setting.size(1024, 40), read, (0.5, 0.7))
    yield from decode_rows(setting, model, 1, longest, read)
    for rows in (8, 64)[: setting.size(2, 1)]:
        goals = (0.45,) if rows == 8 else (0.35, 0.5)
        yield from decode_rows(setting, model, rows, setting.size(1024, 40), read, goals)
    engine = engine_of(setting, model, running=1, context=longest, graphs=True, sizes=(1,))
    answer = setting.size(64, 3)
    asked = run(engine, prompts_of(model, 1, setting.size(1024, 5)), answer)
    yield Row("the engine with room for one full context", {"tokens/s": steady_rate(asked)})
    if on_gpu:
        free, there = torch.cuda.mem_get_info(setting.device)
        peak = torch.cuda.max_memory_reserved(setting.device)
        values = {"GB reserved at most": peak / 1e9, "GB in use on the card": (there - free) / 1e9}
        yield Row("memory", values, failed=peak > CAP_BYTES)


def weights_bytes(model: Model) -> int:
    """Bytes of all tensors of a model's layers, embedding and unembedding."""
    total = model.embedding.nbytes + model.unembedding.nbytes
    for layer in model.layers:
        parts = [layer.qkv_weight, layer.out_weight, layer.gate_weight]
        parts += [part for one in (layer.mlp1, layer.mlp2) for part in (one.blocks, one.scales, one.bias)]
        total += sum(part.nbytes for part in parts)
    return total
