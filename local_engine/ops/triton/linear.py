"""Products of a weight matrix and few or many rows, with the norm of the rows inside.

A norm is one factor for a whole row, so it is applied to the finished products: the sum of squares is
gathered on the way, and a row is read once. A row times the norm's scale is rounded where a tensor core takes
it, in place of the whole normalised row; in fp32 nothing is rounded.

Few rows: a program holds its part of the weights in registers and goes through the rows. Many rows: weight
rows are the M of `tl.dot`, and rows of the batch, of which there are at least 16 in a tile, are its N.
"""

from __future__ import annotations

import triton
import triton.language as tl

from local_engine.reference import RMS_EPS

EPS: tl.constexpr = tl.constexpr(RMS_EPS)


@triton.jit
def release_next(PDL: tl.constexpr):
    """Lets the next kernel start as soon as there is room: it waits for this one's results by itself."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def await_last(PDL: tl.constexpr):
    """Waits for the results of the last kernel. Every program does, so that the next one, which waits for
    this one only, also has those of the last."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def weights_of(weight, rows, valid, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The rows [M] of a matrix [.., WIDTH], as a tuple of tiles [M, BLOCK]; 0 where they are not `valid`."""
    tiles = ()
    for at in tl.static_range(0, WIDTH, BLOCK):
        k = at + tl.arange(0, BLOCK)
        there = valid[:, None] & (k < WIDTH)[None, :]
        w = tl.load(weight + rows[:, None] * WIDTH + k[None, :], mask=there, other=0.0)
        tiles += (w,)  # type: ignore[assignment]
    return tiles


@triton.jit
def normed_product(tiles, x, scale, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The tiles' rows [M] times the norm of the one row at `x`: fp32 [M]."""
    products = tl.zeros(tiles[0].shape, tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for n in tl.static_range(len(tiles)):
        k = n * BLOCK + tl.arange(0, BLOCK)
        t = tl.load(x + k, mask=k < WIDTH, other=0.0).to(tl.float32)
        scaled = t * tl.load(scale + k, mask=k < WIDTH, other=0.0)
        products += tiles[n].to(tl.float32) * scaled[None, :]
        squares += t * t
    return tl.sum(products, 1) * tl.rsqrt(tl.sum(squares, 0) / WIDTH + EPS)


@triton.jit
def normed_tile(
    weight,
    rows,
    valid,
    x,
    tokens,
    present,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The rows [M] of a matrix [.., WIDTH] times the norms of the rows `tokens` [N] of `x`: fp32 [M, N]."""
    products = tl.zeros([rows.shape[0], tokens.shape[0]], tl.float32)
    squares = tl.zeros([BLOCK, tokens.shape[0]], tl.float32)
    for at in range(0, WIDTH, BLOCK):
        k = at + tl.arange(0, BLOCK)
        inside = k < WIDTH
        w = tl.load(
            weight + rows[:, None] * WIDTH + k[None, :], mask=valid[:, None] & inside[None, :], other=0.0
        )
        t = tl.load(
            x + tokens[None, :] * WIDTH + k[:, None], mask=present[None, :] & inside[:, None], other=0.0
        ).to(tl.float32)
        scaled = (t * tl.load(scale + k, mask=inside, other=0.0)[:, None]).to(COMPUTE)
        products = tl.dot(w, scaled, products, input_precision="ieee")
        squares += t * t
    return products * tl.rsqrt(tl.sum(squares, 0) / WIDTH + EPS)[None, :]
