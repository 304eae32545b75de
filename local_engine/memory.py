"""How much memory a model needs, how much there is, and how many blocks of keys and values to make of the
rest.

All of it is pure: what there is comes from `machine.available`. On a CPU the weights that keep their stored
dtype are mapped, not copied: the kernel may drop and read them again, so what does not fit is slow, not
impossible. That is why only the rest is refused when it does not fit, and mapped weights are warned about.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_engine.config import ModelConfig
from local_engine.errors import SetupError
from local_engine.graphs import sizes_up_to
from local_engine.kv import BLOCK_TOKENS
from local_engine.machine import Available, Device
from local_engine.model import DECODED_EXPERTS_BYTES, kv_block_bytes
from local_engine.scheduler import STEP_TOKENS, blocks_needed
from local_engine.tensors import tensor_specs

if TYPE_CHECKING:
    import torch

CONTEXT_TOKENS = 8192
"""What the default pool has room for in each running sequence; longer ones borrow from the others."""

LEAST_CONTEXT_TOKENS = 2048
"""A shorter context than this is not chosen unasked."""

UNKNOWN_BYTES = 8 << 30
"""Counted on for keys and values where the system does not say what it has."""

CUDA_CONTEXT_BYTES = 512 << 20
"""What CUDA itself and its libraries take before anything is allocated."""

GRAPH_BYTES = 64 << 10
"""What the driver keeps of a recorded launch: an estimate, not measured."""

GRAPH_LAUNCHES = 8
"""Recorded launches a layer, with the few that are no layer's: counted on the generous side."""

GRACE = 0.95
"""The share of the free memory that is counted on; other processes breathe too."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes by purpose. `mapped_bytes` of the weights and experts are only page cache."""

    device: Device
    dtype: str
    weights_bytes: int
    experts_bytes: int
    decoded_bytes: int
    kv_bytes: int
    workspace_bytes: int
    mapped_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything, mapped or not: what must fit for full speed."""
        weights = self.weights_bytes + self.experts_bytes + self.decoded_bytes
        return weights + self.kv_bytes + self.workspace_bytes

    @property
    def committed_bytes(self) -> int:
        """What must fit for the process to live."""
        return self.total_bytes - self.mapped_bytes

    def describe(self) -> str:
        """The sum with its terms, for a person."""
        terms = {
            f"weights ({self.dtype})": self.weights_bytes,
            "experts": self.experts_bytes,
            "decoded experts": self.decoded_bytes,
            "kv pool": self.kv_bytes,
            "workspace": self.workspace_bytes,
        }
        listed = " + ".join(f"{name} {size(value)}" for name, value in terms.items() if value)
        return f"{size(self.total_bytes)} ({listed})"


def needs(
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    *,
    full_blocks: int,
    window_blocks: int,
    max_running: int = 1,
    step_tokens: int = STEP_TOKENS,
    dense_experts: bool = False,
    decoded_experts_bytes: int = DECODED_EXPERTS_BYTES,
) -> Needs:
    """What running a model takes. `dense_experts`: the checkpoint stores them decoded, in bf16.

    The blocks are usable ones; the scratch block of each group is added here. An estimate for the workspace
    (activations of the largest step, logits and sampling state of every running sequence, the rope table),
    exact for the rest.
    """
    specs = list(tensor_specs(config))
    values = sum(math.prod(spec.shape) for spec in specs if spec.dtype == "BF16")
    packed = sum(spec.nbytes for spec in specs if spec.dtype == "U8")
    expert_values = _expert_values(config)
    experts = expert_values * dtype.itemsize if dense_experts else packed
    decoded = 0 if dense_experts else expert_values * dtype.itemsize
    weights = values * dtype.itemsize
    mapped = 0
    if device == "cpu":
        stored_as_is = dtype.itemsize == 2
        # The Hugging Face form keeps q, k and v apart, and joining them copies.
        joined = config.num_hidden_layers * config.qkv_rows * (config.hidden_size + 1) * dtype.itemsize
        mapped += weights - joined if stored_as_is else 0
        mapped += experts if stored_as_is or not dense_experts else 0
    full, window = kv_block_bytes(config, dtype)
    return Needs(
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=weights,
        experts_bytes=experts,
        decoded_bytes=decoded if decoded <= decoded_experts_bytes else 0,
        kv_bytes=(full_blocks + 1) * full + (window_blocks + 1) * window,
        workspace_bytes=_workspace_bytes(config, dtype, device, max_running, step_tokens),
        mapped_bytes=mapped,
    )


def check(needed: Needs, there: Available | None, *, ignore: bool = False) -> str | None:
    """Compares; returns a warning when it will run, but slowly. None for `there` (unknown) passes.

    Raises `SetupError` with the numbers and what to do when it cannot run; `ignore` turns that into a
    warning.
    """
    if there is None or needed.total_bytes <= there.free_bytes * GRACE:
        return None
    numbers = (
        f"this needs {needed.describe()} of memory on `{needed.device}`, but {size(there.free_bytes)} of "
        f"{size(there.total_bytes)} are free"
    )
    if needed.committed_bytes <= there.free_bytes * GRACE:
        return (
            f"{numbers}: it runs, but {size(needed.mapped_bytes)} of weights are mapped from their files, "
            "and what does not fit is read from disk again for every token; free some memory or take the "
            "smaller model"
        )
    if ignore:
        return f"{numbers}: starting anyway, as `--ignore-memory` says"
    advice = ["lower `--max-context-tokens` or `--kv-gib`", "take the smaller model"]
    if needed.dtype == "float32":
        advice.append("use `--dtype bf16`")
    if needed.device == "cuda":
        advice.append("use `--device cpu`")
    raise SetupError(f"{numbers}: {', or '.join(advice)}; `--ignore-memory` tries all the same")


@dataclass(frozen=True, slots=True)
class Fit:
    """How a model will lie in memory: usable blocks of both groups, the longest context, and what to tell."""

    full_blocks: int
    window_blocks: int
    max_context_tokens: int
    needs: Needs
    notes: tuple[str, ...]

    @property
    def kv_tokens(self) -> int:
        """Positions that the full group holds."""
        return self.full_blocks * BLOCK_TOKENS


def fit(
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    there: Available | None,
    *,
    max_running: int,
    step_tokens: int = STEP_TOKENS,
    max_context_tokens: int | None = None,
    kv_bytes: int | None = None,
    dense_experts: bool = False,
    ignore: bool = False,
) -> Fit:
    """Sizes the pool and checks everything against what is there, before anything is loaded.

    Without `max_context_tokens` the context is what the model was scaled for, halved until it fits; without
    `kv_bytes` the pool is `kv_blocks`' choice. Raises `SetupError` with the numbers; `ignore` does not.
    """

    def needed(full_blocks: int, window_blocks: int) -> Needs:
        return needs(
            config,
            dtype,
            device,
            full_blocks=full_blocks,
            window_blocks=window_blocks,
            max_running=max_running,
            step_tokens=step_tokens,
            dense_experts=dense_experts,
        )

    def blocks(context: int) -> tuple[int, int]:
        if kv_bytes is not None:
            return kv_blocks_within(config, dtype, kv_bytes, max_running, context, step_tokens=step_tokens)
        room = UNKNOWN_BYTES if there is None else room_for_kv(needed(0, 0), there)
        try:
            return kv_blocks(config, dtype, room, max_running, context, step_tokens=step_tokens)
        except SetupError:
            if not ignore:
                raise
            return blocks_needed(context, step_tokens, config.sliding_window)

    # Weights that do not fit are the first thing to say; what is left for keys and values comes after.
    check(needed(0, 0), there, ignore=ignore)
    notes = []
    context = min(max_context_tokens or config.max_context_tokens, config.max_context_tokens)
    while True:
        try:
            full_blocks, window_blocks = blocks(context)
            break
        except SetupError:
            if max_context_tokens is not None or context <= LEAST_CONTEXT_TOKENS:
                raise
            context //= 2
    if max_context_tokens is None and context < config.max_context_tokens:
        notes.append(
            f"the context is {context} tokens of {config.max_context_tokens}: more keys and values do not "
            "fit in memory (`--max-context-tokens`, `--kv-gib`)"
        )
    whole = needed(full_blocks, window_blocks)
    warning = check(whole, there, ignore=ignore)
    notes += [] if warning is None else [warning]
    return Fit(full_blocks, window_blocks, context, whole, tuple(notes))


def room_for_kv(needed: Needs, there: Available) -> int:
    """Bytes that a pool may be made from: what everything else leaves of the free memory.

    Where mapped weights leave little, a quarter of what is not committed: the rest stays page cache for them.
    """
    free = int(there.free_bytes * GRACE)
    others = needed.total_bytes - needed.kv_bytes
    committed = needed.committed_bytes - needed.kv_bytes
    return max(free - others, (free - committed) // 4, 0)


def kv_blocks(
    config: ModelConfig,
    dtype: torch.dtype,
    available_bytes: int,
    max_running: int,
    max_context_tokens: int,
    *,
    step_tokens: int = STEP_TOKENS,
    share: float = 0.5,
) -> tuple[int, int]:
    """The default pool: usable blocks of the full and of the window group, without the scratch block of each.

    Room for `max_running` sequences of 8,192 tokens, and for one of `max_context_tokens`, but no more than
    `share` of `available_bytes` (`room_for_kv`). Raises `SetupError` when that does not hold one whole
    context: what a request may ask for must be possible.
    """
    each, least = (
        blocks_needed(tokens, step_tokens, config.sliding_window)[0]
        for tokens in (min(CONTEXT_TOKENS, max_context_tokens), max_context_tokens)
    )
    return _largest(
        config,
        dtype,
        int(available_bytes * share),
        max(max_running * each, least),
        max_running,
        max_context_tokens,
        step_tokens,
    )


def kv_blocks_within(
    config: ModelConfig,
    dtype: torch.dtype,
    kv_bytes: int,
    max_running: int,
    max_context_tokens: int,
    *,
    step_tokens: int = STEP_TOKENS,
) -> tuple[int, int]:
    """The largest pool of at most `kv_bytes` (`--kv-gib`), as `kv_blocks` returns it. Raises `SetupError`."""
    most = kv_bytes // max(1, kv_block_bytes(config, dtype)[0])
    return _largest(config, dtype, kv_bytes, most, max_running, max_context_tokens, step_tokens)


def window_blocks(
    config: ModelConfig, full_blocks: int, max_running: int, max_context_tokens: int, step_tokens: int
) -> int:
    """Blocks of the window group that go with `full_blocks`.

    Each running sequence keeps its window, one takes a prompt's chunk, and as much again stays cached; the
    more prompts the full group remembers, the more of their tails must be there for a prefix to hit.
    """
    _, least = blocks_needed(max_context_tokens, step_tokens, config.sliding_window)
    running = max_running * (config.sliding_window // BLOCK_TOKENS + 2)
    return max(least, min(full_blocks, 2 * running + least + full_blocks // 4))


def _largest(
    config: ModelConfig,
    dtype: torch.dtype,
    kv_bytes: int,
    most: int,
    max_running: int,
    max_context_tokens: int,
    step_tokens: int,
) -> tuple[int, int]:
    """At most `most` full blocks and their window blocks, in `kv_bytes`; bisected, for both grow together."""
    full, window = kv_block_bytes(config, dtype)

    def windows(blocks: int) -> int:
        return window_blocks(config, blocks, max_running, max_context_tokens, step_tokens)

    def taken(blocks: int) -> int:
        return (blocks + 1) * full + (windows(blocks) + 1) * window

    least, _ = blocks_needed(max_context_tokens, step_tokens, config.sliding_window)
    fits = bisect_right(range(most + 1), kv_bytes, key=taken) - 1
    if fits < least:
        shorter = (fits - 1) * BLOCK_TOKENS
        advice = f"lower `--max-context-tokens` to {shorter}" if shorter > 0 else "free some memory"
        raise SetupError(
            f"keys and values of {max_context_tokens} tokens need {size(taken(least))}, but "
            f"{size(kv_bytes)} are there for them: {advice}, or give more with `--kv-gib`"
        )
    return fits, windows(fits)


def _expert_values(config: ModelConfig) -> int:
    each = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * config.num_experts * each


def _workspace_bytes(
    config: ModelConfig, dtype: torch.dtype, device: Device, max_running: int, step_tokens: int
) -> int:
    c = config
    # Of a step: the stream and its norm, q, k and v, and what the chosen experts see and make.
    row = 2 * c.hidden_size + c.qkv_rows + c.q_rows
    row += c.experts_per_token * (3 * c.intermediate_size + 2 * c.hidden_size)
    activations = step_tokens * row * 4
    # Of a sequence: logits, two copies at work in sampling, counts of penalties, the mask.
    sampling = max_running * c.vocab_size * 4 * 4
    rope = c.max_context_tokens * c.head_dim * 4
    expert = 2 * c.intermediate_size * c.hidden_size * dtype.itemsize * 2
    there = activations + sampling + rope + expert
    if device == "cpu":
        return there
    # A recorded step keeps its logits and tokens; what it works with is one pool for all of them. Plain
    # sampling works with fixed-point shares, their sums and gaps: 32 bytes a token beside the above.
    graphs = sizes_up_to(max_running)
    outputs = sum(graphs) * c.vocab_size * 4
    launches = len(graphs) * c.num_hidden_layers * GRAPH_LAUNCHES * GRAPH_BYTES
    return there + CUDA_CONTEXT_BYTES + outputs + launches + max_running * c.vocab_size * 32


def size(count: int) -> str:
    """Bytes for a person."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"
