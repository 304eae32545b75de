"""The last norm and the unembedding, of the rows whose logits are wanted."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from local_engine.model import Model
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.linear import (
    await_last,
    normed_product,
    normed_tile,
    release_next,
    weights_of,
)
from local_engine.ops.triton.modes import modes

FEW = (Config(7, {"ROWS": 4, "BLOCK": 1024}),)
"""Up to this many rows: without tensor cores."""

MANY = (
    Config(16, {"ROWS": 64, "TOKENS": 16, "BLOCK": 64}, stages=4),
    Config(32, {"ROWS": 64, "TOKENS": 32, "BLOCK": 64}, stages=4),
    Config(1 << 30, {"ROWS": 128, "TOKENS": 64, "BLOCK": 64}, warps=8, stages=4),
)


def head(x: torch.Tensor, model: Model, rows: torch.Tensor) -> torch.Tensor:
    """See `Ops.head`. No rows are a batch too: one that only writes keys and values."""
    count, (vocabulary, width) = rows.shape[0], model.unembedding.shape
    logits = torch.empty((count, vocabulary), dtype=torch.float32, device=x.device)
    if not count:
        return logits
    few = count <= FEW[-1].rows
    config = chosen(FEW if few else MANY, count)
    tiles = triton.cdiv(vocabulary, config.sizes["ROWS"])
    kernel, grid = (
        (few_rows, (tiles,)) if few else (many_rows, (tiles, triton.cdiv(count, config.sizes["TOKENS"])))
    )
    kernel[grid](
        x,
        model.norm,
        model.unembedding,
        rows,
        logits,
        count,
        vocabulary,
        WIDTH=width,
        **modes(x, config),
    )
    return logits


@triton.jit
def few_rows(
    x,
    scale,
    weight,
    wanted,
    logits,
    count,
    vocabulary,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """ROWS tokens' logits for each of `count` wanted rows of x, one after the other."""
    release_next(PDL)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tiles = weights_of(weight, rows, rows < vocabulary, WIDTH, BLOCK)
    await_last(PDL)
    for n in range(count):
        y = normed_product(tiles, x + tl.load(wanted + n) * WIDTH, scale, WIDTH, BLOCK)
        tl.store(logits + tl.cast(n, tl.int64) * vocabulary + rows, y, mask=rows < vocabulary)


@triton.jit
def many_rows(
    x,
    scale,
    weight,
    wanted,
    logits,
    count,
    vocabulary,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """ROWS tokens' logits for TOKENS wanted rows of x at once."""
    release_next(PDL)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    await_last(PDL)
    tokens = tl.load(wanted + n, mask=n < count, other=0)
    y = normed_tile(weight, rows, rows < vocabulary, x, tokens, n < count, scale, WIDTH, BLOCK, COMPUTE)
    place = n.to(tl.int64)[None, :] * vocabulary + rows[:, None]
    tl.store(logits + place, y, mask=(n < count)[None, :] & (rows < vocabulary)[:, None])
