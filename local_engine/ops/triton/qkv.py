"""Norm, projection to queries, keys and values, rotation, and the keys' and values' way into the pool.

A program owns pairs of rows, d and d + D/2 of one head, and so rotates what it has projected.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from local_engine.batch import LayerKV
from local_engine.model import Layer, Rope
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.linear import (
    await_last,
    normed_product,
    normed_tile,
    release_next,
    weights_of,
)
from local_engine.ops.triton.modes import modes

FEW = (Config(7, {"PAIRS": 2, "BLOCK": 1024}),)
"""Up to this many rows: without tensor cores."""

MANY = (
    Config(16, {"PAIRS": 16, "TOKENS": 16, "BLOCK": 128}, stages=4),
    Config(32, {"PAIRS": 16, "TOKENS": 32, "BLOCK": 128}, stages=4),
    Config(64, {"PAIRS": 32, "TOKENS": 64, "BLOCK": 128}, stages=4),
    Config(1 << 30, {"PAIRS": 64, "TOKENS": 128, "BLOCK": 64}, warps=8, stages=3),
)


def qkv(
    x: torch.Tensor, layer: Layer, rope: Rope, positions: torch.Tensor, kv: LayerKV, slots: torch.Tensor
) -> torch.Tensor:
    """See `Ops.qkv`."""
    (rows, width), (kv_heads, dim) = x.shape, kv.keys.shape[-2:]
    heads = layer.qkv_weight.shape[0] // dim - 2 * kv_heads
    q = torch.empty((rows, heads, dim), dtype=x.dtype, device=x.device)
    few = rows <= FEW[-1].rows
    config = chosen(FEW if few else MANY, rows)
    pairs = triton.cdiv((heads + 2 * kv_heads) * dim // 2, config.sizes["PAIRS"])
    kernel, grid = (
        (few_rows, (pairs,)) if few else (many_rows, (pairs, triton.cdiv(rows, config.sizes["TOKENS"])))
    )
    kernel[grid](
        x,
        layer.attn_norm,
        layer.qkv_weight,
        layer.qkv_bias,
        rope.cos,
        rope.sin,
        positions,
        slots,
        q,
        kv.keys,
        kv.values,
        rows,
        WIDTH=width,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        **modes(x, config),
    )
    return q


@triton.jit
def few_rows(
    x,
    scale,
    weight,
    bias,
    cos,
    sin,
    positions,
    slots,
    q,
    keys,
    values,
    count,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """PAIRS pairs of rows for each of `count` rows of x, one after the other."""
    release_next(PDL)
    rows, valid = paired_rows(tl.program_id(0), HEADS + 2 * KV_HEADS, DIM, PAIRS)
    tiles = weights_of(weight, rows, valid, WIDTH, BLOCK)
    added = tl.load(bias + rows, mask=valid, other=0.0).to(tl.float32)
    await_last(PDL)
    for token in range(count):
        y = normed_product(tiles, x + token * WIDTH, scale, WIDTH, BLOCK) + added
        tokens = token + tl.arange(0, 1)
        place_rotated(
            y[:, None], tokens, tokens < count, cos, sin, positions, slots, q, keys, values,
            HEADS, KV_HEADS, DIM, PAIRS, COMPUTE,
        )  # fmt: skip


@triton.jit
def many_rows(
    x,
    scale,
    weight,
    bias,
    cos,
    sin,
    positions,
    slots,
    q,
    keys,
    values,
    count,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAIRS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """PAIRS pairs of rows for TOKENS rows of x at once."""
    release_next(PDL)
    rows, valid = paired_rows(tl.program_id(0), HEADS + 2 * KV_HEADS, DIM, PAIRS)
    added = tl.load(bias + rows, mask=valid, other=0.0).to(tl.float32)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    await_last(PDL)
    y = normed_tile(weight, rows, valid, x, tokens, tokens < count, scale, WIDTH, BLOCK, COMPUTE)
    place_rotated(
        y + added[:, None], tokens, tokens < count, cos, sin, positions, slots, q, keys, values,
        HEADS, KV_HEADS, DIM, PAIRS, COMPUTE,
    )  # fmt: skip


@triton.jit
def paired_rows(program, HEADS: tl.constexpr, DIM: tl.constexpr, PAIRS: tl.constexpr):
    """A program's rows [2 PAIRS] of the projection, all first halves before all second ones; which exist."""
    n = tl.arange(0, 2 * PAIRS)
    pair = program * PAIRS + n % PAIRS
    row = pair // (DIM // 2) * DIM + n // PAIRS * (DIM // 2) + pair % (DIM // 2)
    return row, pair < HEADS * (DIM // 2)


@triton.jit
def place_rotated(
    y,
    tokens,
    present,
    cos,
    sin,
    positions,
    slots,
    q,
    keys,
    values,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAIRS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Rotates y [2 PAIRS, N], rows as in `paired_rows`, and stores it: queries by token, the rest by slot."""
    HALF: tl.constexpr = DIM // 2
    # Rounded like a projection's result before it is rotated.
    y = y.to(COMPUTE).to(tl.float32)
    first, second = tl.split(tl.permute(tl.reshape(y, [2, PAIRS, tokens.shape[0]]), (1, 2, 0)))
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    head, d = (pair // HALF)[:, None], (pair % HALF)[:, None]
    at = tl.load(positions + tokens, mask=present, other=0)[None, :] * HALF + d
    turned = present[None, :] & (head < HEADS + KV_HEADS)
    c = tl.load(cos + at, mask=turned, other=1.0).to(tl.float32)
    s = tl.load(sin + at, mask=turned, other=0.0).to(tl.float32)
    ahead = tl.where(turned, first * c - second * s, first).to(COMPUTE)
    behind = tl.where(turned, second * c + first * s, second).to(COMPUTE)

    place = tokens[None, :] * (HEADS * DIM) + head * DIM + d
    asks = present[None, :] & (head < HEADS)
    tl.store(q + place, ahead, mask=asks)
    tl.store(q + place + HALF, behind, mask=asks)
    slot = tl.load(slots + tokens, mask=present, other=0)[None, :] * (KV_HEADS * DIM)
    place = slot + (head - HEADS) * DIM + d
    is_key = present[None, :] & (head >= HEADS) & (head < HEADS + KV_HEADS)
    tl.store(keys + place, ahead, mask=is_key)
    tl.store(keys + place + HALF, behind, mask=is_key)
    place -= KV_HEADS * DIM
    is_value = present[None, :] & (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    tl.store(values + place, ahead, mask=is_value)
    tl.store(values + place + HALF, behind, mask=is_value)
