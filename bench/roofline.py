"""Bytes that a step must read: every weight that it touches once, and the keys and values that it sees.

Of the experts only those are counted that some row chose. What a step writes, and what stays in a cache
between two kernels, is left out: it is a hundredth of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from local_engine.config import ModelConfig

BF16 = 2
MXFP4_BYTES = 17 / 32
"""Of one weight: half a byte, and a 32nd of its scale's."""


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """What one layer reads, by operation; attention's keys and values are of a layer without a window."""

    qkv: float
    attend: float
    attend_window: float
    out: float
    route: float
    experts: float


def touched(config: ModelConfig, rows: int) -> float:
    """How many experts of a layer rows touch on average, if each chooses evenly and alone."""
    missed = 1 - config.experts_per_token / config.num_experts
    return config.num_experts * (1 - missed**rows)


def layer_bytes(config: ModelConfig, rows: int, context: int, experts: float | None = None) -> LayerBytes:
    """Bytes by operation, for rows of as many sequences that see `context` positions each; `experts` touched,
    or `touched` of them."""
    c = config
    expert = 3 * c.hidden_size * c.intermediate_size * MXFP4_BYTES
    expert += (2 * c.intermediate_size + c.hidden_size) * BF16
    seen = 2 * c.kv_rows * BF16 * rows
    return LayerBytes(
        qkv=c.qkv_rows * (c.hidden_size + 1) * BF16,
        attend=seen * context,
        attend_window=seen * min(context, c.sliding_window),
        out=c.hidden_size * (c.q_rows + 1) * BF16,
        route=c.num_experts * (c.hidden_size + 1) * BF16,
        experts=expert * (touched(c, rows) if experts is None else experts),
    )


def head_bytes(config: ModelConfig) -> float:
    """Bytes of the unembedding."""
    return config.vocab_size * config.hidden_size * BF16


def step_bytes(config: ModelConfig, rows: int, context: int, experts: float | None = None) -> float:
    """Bytes of a whole decode step; `experts` touched in each layer, on average."""
    one = layer_bytes(config, rows, context, experts)
    alike = one.qkv + one.out + one.route + one.experts
    full = sum(config.window_of(n) is None for n in range(config.num_hidden_layers))
    windows = config.num_hidden_layers - full
    keys = full * one.attend + windows * one.attend_window
    return config.num_hidden_layers * alike + keys + head_bytes(config)
