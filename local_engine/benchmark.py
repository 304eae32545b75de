"""Speed of an engine on this machine: decoding at several batch sizes, prompts, and the bytes that it moves.

Decoding is bound by memory: each step reads the dense weights, the experts that its tokens chose and the keys
and values of every sequence. So each rate stands beside the bytes a token moves and the bandwidth that this
makes, and beside the bandwidth of plain reading, measured in the same run. Prompts are random tokens, and
nothing stops an answer early; experts are counted as if chosen evenly.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from local_engine.config import ModelConfig
from local_engine.engine import Engine
from local_engine.footprint import needs
from local_engine.kv import BLOCK_TOKENS
from local_engine.machine import Device, describe
from local_engine.model import kv_block_bytes
from local_engine.sampling import SamplingParams
from local_engine.steps import Failed, Finished, Step, Token

READ_BYTES = 256 << 20
READS = 5


@dataclass(frozen=True, slots=True)
class Decoded:
    """Answers of one batch size, after their first tokens. A step gives each sequence one token."""

    batch: int
    tokens_per_s: float
    ms_per_step: float
    bytes_per_token: int
    gb_per_s: float
    of_bandwidth: float


@dataclass(frozen=True, slots=True)
class Prefilled:
    """One prompt, alone, until its first token."""

    prompt_tokens: int
    tokens_per_s: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A run, JSON-ready with `dataclasses.asdict`."""

    machine: dict[str, Any]
    read_gb_per_s: float
    prefill: Prefilled
    decode: tuple[Decoded, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def benchmark(
    engine: Engine,
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    *,
    batches: Sequence[int],
    prompt_tokens: int,
    answer_tokens: int,
    dense_experts: bool = False,
    dense_int8: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Benchmark:
    """Measures a started engine; the first, unmeasured answer warms it up. Raises `RequestError`."""
    prompts = random.Random(0)  # noqa: S311 - which tokens does not matter, that they differ does
    _run(engine, config, prompts, 1, prompt_tokens, 2, clock)
    before = read_gb_per_s(device, clock)
    alone = _run(engine, config, prompts, 1, prompt_tokens, 1, clock)
    runs = [(n, _run(engine, config, prompts, n, prompt_tokens, answer_tokens, clock)) for n in batches]
    # A shared machine's bandwidth drifts: the better of both ends is what it can do.
    bandwidth = max(before, read_gb_per_s(device, clock))
    decode = []
    for batch, times in runs:
        # All sequences decode together between the last first token and the first last one.
        begin, end = max(each[0] for each in times), min(each[-1] for each in times)
        tokens = sum(begin < at <= end for each in times for at in each)
        rate = tokens / max(end - begin, 1e-9)
        context = prompt_tokens + answer_tokens // 2
        moved = bytes_per_step(
            config, dtype, device, batch, context, dense_experts=dense_experts, dense_int8=dense_int8
        )
        gb_per_s = moved / batch * rate / 1e9
        decode.append(
            Decoded(
                batch=batch,
                tokens_per_s=round(rate, 2),
                ms_per_step=round(1e3 * batch / max(rate, 1e-9), 3),
                bytes_per_token=round(moved / batch),
                gb_per_s=round(gb_per_s, 3),
                of_bandwidth=round(gb_per_s / bandwidth, 3),
            )
        )
    first_s = alone[0][0]
    prefill = Prefilled(prompt_tokens, round(prompt_tokens / max(first_s, 1e-9), 2), round(first_s, 4))
    machine = describe(dtype, device) | {"dense": "int8" if dense_int8 else None}
    return Benchmark(machine, round(bandwidth, 2), prefill, tuple(decode))


def lines(found: Benchmark) -> Iterator[str]:
    """The same for a person."""
    yield ", ".join(f"{key} {value}" for key, value in found.machine.items())
    yield f"reading memory: {found.read_gb_per_s} GB/s"
    p = found.prefill
    yield f"prompt of {p.prompt_tokens}: {p.tokens_per_s} tokens/s, first token after {p.first_token_s} s"
    for d in found.decode:
        yield (
            f"answering {d.batch} at once: {d.tokens_per_s} tokens/s, {d.ms_per_step} ms a step, "
            f"{d.bytes_per_token / 1e6:.1f} MB a token, {d.gb_per_s} GB/s ({d.of_bandwidth:.0%} of reading)"
        )


def _run(
    engine: Engine,
    config: ModelConfig,
    prompts: random.Random,
    batch: int,
    prompt_tokens: int,
    answer_tokens: int,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Runs `batch` answers at once; for each, when its tokens came, in seconds since they were asked for."""
    steps: queue.SimpleQueue[tuple[int, float, Step]] = queue.SimpleQueue()
    params = SamplingParams(max_tokens=answer_tokens, temperature=0.0, stop_tokens=frozenset())
    began_s = clock()
    for n in range(batch):
        prompt = [prompts.randrange(config.vocab_size) for _ in range(prompt_tokens)]
        engine.submit(prompt, params, lambda step, n=n: steps.put((n, clock(), step)))  # type: ignore[misc]
    times: list[list[float]] = [[] for _ in range(batch)]
    running = batch
    while running:
        n, at_s, step = steps.get()
        match step:
            case Token():
                times[n].append(at_s - began_s)
            case Finished():
                running -= 1
            case Failed(error=error):
                raise error
    return times


def bytes_per_step(
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    batch: int,
    context_tokens: int,
    *,
    dense_experts: bool = False,
    dense_int8: bool = False,
) -> int:
    """Bytes a decoding step of `batch` sequences reads: weights once, the experts it touches, keys and
    values.

    Of `E` experts, `batch` tokens that choose `k` each touch E (1 - (1 - k/E)^batch) on average. A windowed
    layer reads its window only; of the embedding, only the tokens' rows are read.
    """
    held = needs(
        config,
        dtype,
        device,
        full_blocks=0,
        window_blocks=0,
        dense_experts=dense_experts,
        dense_int8=dense_int8,
    )
    experts = held.decoded_bytes or held.experts_bytes
    touched = 1 - (1 - config.experts_per_token / config.num_experts) ** batch
    embedding = (config.vocab_size - batch) * config.hidden_size * dtype.itemsize
    full, window = (count / BLOCK_TOKENS for count in kv_block_bytes(config, dtype))
    cached = full * context_tokens + window * min(context_tokens, config.sliding_window)
    return round(held.weights_bytes - embedding + experts * touched + batch * cached)


def read_gb_per_s(device: Device, clock: Callable[[], float] = time.monotonic) -> float:
    """The bandwidth of summing a large tensor, the best of a few."""
    data = torch.ones(READ_BYTES // 4, dtype=torch.float32, device=device)
    best_s = float("inf")
    for _ in range(READS):
        began_s = clock()
        data.sum().item()
        best_s = min(best_s, clock() - began_s)
    return READ_BYTES / max(best_s, 1e-9) / 1e9
