"""The output projection of attention, with its bias and the residual; parts are put together on the way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from local_engine.model import Layer
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.heard import Heard, heard_of
from local_engine.ops.triton.linear import await_last, release_next
from local_engine.ops.triton.modes import modes

FEW = (Config(7, {"ROWS": 4}),)
"""Up to this many rows: without tensor cores."""

MANY = (
    Config(16, {"ROWS": 16, "TOKENS": 16, "GROUP": 4}, stages=4),
    Config(32, {"ROWS": 32, "TOKENS": 32, "GROUP": 2}, stages=4),
    Config(64, {"ROWS": 32, "TOKENS": 64, "GROUP": 2}, warps=8, stages=4),
    Config(1 << 30, {"ROWS": 128, "TOKENS": 128, "GROUP": 1}, warps=8, stages=4),
)
"""GROUP heads at a time."""


def out(heard: Heard, layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.out`."""
    parts, count, heads, dim = heard.values.shape
    width = x.shape[1]
    y = torch.empty_like(x)
    few = count <= FEW[-1].rows
    config = chosen(FEW if few else MANY, count)
    tiles = triton.cdiv(width, config.sizes["ROWS"])
    kernel, grid = (
        (few_rows, (tiles,)) if few else (many_rows, (tiles, triton.cdiv(count, config.sizes["TOKENS"])))
    )
    padded = {"HEADS_PADDED": triton.next_power_of_2(heads)} if few else {}
    kernel[grid](
        heard.values,
        heard.weights,
        layer.out_weight,
        layer.out_bias,
        x,
        y,
        count,
        WIDTH=width,
        HEADS=heads,
        DIM=dim,
        DIM_PADDED=max(16, triton.next_power_of_2(dim)),
        PARTS=parts,
        **padded,
        **modes(x, config),
    )
    return y


@triton.jit
def few_rows(
    values,
    weights,
    weight,
    bias,
    x,
    y,
    count,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """ROWS rows of the projection for each of `count` rows of x, one after the other."""
    release_next(PDL)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head, d = tl.arange(0, HEADS_PADDED), tl.arange(0, DIM_PADDED)
    column = head[:, None] * DIM + d[None, :]
    there = (rows < WIDTH)[:, None, None] & ((head < HEADS)[:, None] & (d < DIM)[None, :])[None]
    w = tl.load(weight + rows[:, None, None] * (HEADS * DIM) + column[None], mask=there, other=0.0)
    added = tl.load(bias + rows, mask=rows < WIDTH, other=0.0).to(tl.float32)
    await_last(PDL)
    for token in range(count):
        o = heard_of(
            values, weights, token * HEADS + head, head < HEADS, d, count * HEADS, DIM, PARTS, COMPUTE
        )
        products = w.to(tl.float32) * o.to(tl.float32)[None]
        total = tl.sum(tl.reshape(products, [ROWS, HEADS_PADDED * DIM_PADDED]), 1) + added
        place = token * WIDTH + rows
        before = tl.load(x + place, mask=rows < WIDTH, other=0.0).to(tl.float32)
        after = before + total.to(COMPUTE).to(tl.float32)
        tl.store(y + place, after.to(COMPUTE), mask=rows < WIDTH)


@triton.jit
def many_rows(
    values,
    weights,
    weight,
    bias,
    x,
    y,
    count,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """ROWS rows of the projection for TOKENS rows of x at once, GROUP heads at a time."""
    release_next(PDL)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    item, d = tl.arange(0, TOKENS * GROUP), tl.arange(0, DIM_PADDED)
    token, within = tl.program_id(1) * TOKENS + item // GROUP, item % GROUP
    k = tl.arange(0, GROUP * DIM_PADDED)
    await_last(PDL)
    products = tl.zeros([ROWS, TOKENS], tl.float32)
    for first in range(0, HEADS, GROUP):
        head, dim = first + k // DIM_PADDED, k % DIM_PADDED
        there = (rows < WIDTH)[:, None] & ((head < HEADS) & (dim < DIM))[None, :]
        column = head * DIM + dim
        w = tl.load(weight + rows[:, None] * (HEADS * DIM) + column[None, :], mask=there, other=0.0)
        valid = (token < count) & (first + within < HEADS)
        o = heard_of(
            values, weights, token * HEADS + first + within, valid, d, count * HEADS, DIM, PARTS, COMPUTE
        )  # fmt: skip
        products = tl.dot(
            w, tl.trans(tl.reshape(o, [TOKENS, GROUP * DIM_PADDED])), products, input_precision="ieee"
        )
    added = tl.load(bias + rows, mask=rows < WIDTH, other=0.0).to(tl.float32)
    total = (products + added[:, None]).to(COMPUTE).to(tl.float32)
    place = tokens.to(tl.int64)[None, :] * WIDTH + rows[:, None]
    there = (tokens < count)[None, :] & (rows < WIDTH)[:, None]
    before = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    tl.store(y + place, (before + total).to(COMPUTE), mask=there)
