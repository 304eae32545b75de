"""Whether a model fits into the memory that is there, and how many blocks of keys and values to make of the
rest.

All of it is pure: what there is comes from `machine.available`. On a CPU the weights that keep their stored
dtype are mapped, not copied: the kernel may drop and read them again, so what does not fit is slow, not
impossible. That is why only the rest is refused when it does not fit, and mapped weights are warned about.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_engine.config import ModelConfig
from local_engine.errors import SetupError
from local_engine.footprint import Needs, needs, size
from local_engine.kv import BLOCK_TOKENS
from local_engine.machine import Available, Device
from local_engine.model import kv_block_bytes
from local_engine.scheduler import STEP_TOKENS, blocks_needed

if TYPE_CHECKING:
    import torch

CONTEXT_TOKENS = 8192
"""What the default pool has room for in each running sequence; longer ones borrow from the others."""

LEAST_CONTEXT_TOKENS = 2048
"""A shorter context than this is not chosen unasked."""

UNKNOWN_BYTES = 8 << 30
"""Counted on for keys and values where the system does not say what it has."""

GRACE = 0.95
"""The share of the free memory that is counted on; other processes breathe too."""


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
    dense_int8: bool = False,
    eager: bool = False,
    ignore: bool = False,
) -> Fit:
    """Sizes the pool and checks everything against what is there, before anything is loaded.

    Without `max_context_tokens` the context is what the model was scaled for, halved until it fits; without
    `kv_bytes` the pool is `kv_blocks`' choice. `eager` as for `needs`. Raises `SetupError` with the numbers;
    `ignore` does not.
    """

    context = min(max_context_tokens or config.max_context_tokens, config.max_context_tokens)

    def needed(full_blocks: int, window_blocks: int) -> Needs:
        return needs(
            config,
            dtype,
            device,
            full_blocks=full_blocks,
            window_blocks=window_blocks,
            context_tokens=context,
            max_running=max_running,
            step_tokens=step_tokens,
            dense_experts=dense_experts,
            dense_int8=dense_int8,
            eager=eager,
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
