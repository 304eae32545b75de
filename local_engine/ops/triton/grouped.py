"""The chosen experts of a prompt's rows: two products grouped by expert, and a sum.

Pairs of a row and one of its experts are put in order of the expert, and cut into tiles of BN pairs of one
expert each. How many tiles that makes only the device knows, so the grid is for the most that there can be.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from local_engine import reference
from local_engine.model import Layer
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.decode import decode_mxfp4, place, scale_factor
from local_engine.ops.triton.modes import modes
from local_engine.ops.triton.router import Chosen
from local_engine.ops.triton.swiglu import swiglu

GROUPED = (
    Config(512, {"R": 128, "BN": 32, "GT": 4}, warps=4, stages=3),
    Config(2048, {"R": 128, "BN": 64, "GT": 4}, warps=4, stages=3),
    Config(1 << 30, {"R": 128, "BN": 128, "GT": 4}, warps=8, stages=3),
)
"""R weight rows and BN pairs a program, GT groups of 32 columns a time."""

SUM = (Config(1 << 30, {"BH": 1024}, warps=4),)


@triton.jit
def product(
    x, blocks, scales, pair, PER_ROW: tl.constexpr, expert, row,
    G: tl.constexpr, ROWS: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr,
):  # fmt: skip
    """Sums f32 [R, BN] of an expert's rows `row` and rows pair // PER_ROW of x [.., 32 G] in `place` order.

    Pairs below 0 count as 0."""
    R: tl.constexpr = row.shape[0]
    BN: tl.constexpr = pair.shape[0]
    byte = tl.arange(0, 16 * GT)
    group = tl.arange(0, GT)
    at = expert.to(tl.int64) * ROWS + row
    packed_at = blocks + at[:, None] * (G * 16) + byte[None, :]
    scales_at = scales + at[:, None] * G + group[None, :]
    even_at = x + (pair // PER_ROW).to(tl.int64)[:, None] * (G * 32) + byte[None, :]
    live_rows, live = (row < ROWS)[:, None], (pair >= 0)[:, None]
    sums = tl.zeros([R, BN], tl.float32)
    scale = tl.load(scales_at, mask=live_rows & (group < G)[None, :], other=0)
    for first in range(0, G, GT):
        inside = (first * 16 + byte < G * 16)[None, :]
        packed = tl.load(packed_at + first * 16, mask=live_rows & inside, other=0)
        even_x = tl.load(even_at + first * 16, mask=live & inside, other=0.0)
        odd_x = tl.load(even_at + G * 16 + first * 16, mask=live & inside, other=0.0)
        factor = scale_factor(scale, COMPUTE)
        factor = tl.reshape(tl.broadcast_to(factor[:, :, None], [R, GT, 16]), [R, GT * 16])
        even, odd = decode_mxfp4(packed, COMPUTE, PACKED_BODY)
        sums = tl.dot(even * factor, tl.trans(even_x), sums, input_precision="ieee")
        sums = tl.dot(odd * factor, tl.trans(odd_x), sums, input_precision="ieee")
        inside = (first + GT + group < G)[None, :]
        scale = tl.load(scales_at + first + GT, mask=live_rows & inside, other=0)
    return sums


@triton.jit
def grouped_up(
    t, tile_expert, tile_pairs, blocks, scales, bias, a,
    G: tl.constexpr, ROWS: tl.constexpr, TOP: tl.constexpr, LIMIT: tl.constexpr, ALPHA: tl.constexpr,
    R: tl.constexpr, BN: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (n, tile): R rows of the first projection for the pairs of a tile, and swiglu.

    tile_expert i32 [tiles], below 0 for a tile that is not there, tile_pairs i32 [tiles, BN]; writes
    a [T * TOP, ROWS / 2] in `place` order.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()
    tile = tl.program_id(1)
    expert = tl.load(tile_expert + tile)
    if expert < 0:
        return
    pair = tl.load(tile_pairs + tile * BN + tl.arange(0, BN))
    row = tl.program_id(0) * R + tl.arange(0, R)
    sums = product(t, blocks, scales, pair, TOP, expert, row, G, ROWS, GT, COMPUTE, PACKED_BODY)
    added = tl.load(bias + expert * ROWS + row, mask=row < ROWS, other=0.0).to(tl.float32)
    values = swiglu(sums + added[:, None], LIMIT, ALPHA).to(COMPUTE)
    half = tl.program_id(0) * (R // 2) + tl.arange(0, R // 2)
    to = a + pair.to(tl.int64)[None, :] * (ROWS // 2) + place(half, ROWS // 2)[:, None]
    tl.store(to, values, mask=(half < ROWS // 2)[:, None] & (pair >= 0)[None, :])


@triton.jit
def grouped_down(
    a, tile_expert, tile_pairs, blocks, scales, bias, o,
    G: tl.constexpr, ROWS: tl.constexpr,
    R: tl.constexpr, BN: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (n, tile): R rows of the second projection for a tile's pairs. Writes o [T * TOP, ROWS]."""
    if PDL:
        tl.extra.cuda.gdc_wait()
    tile = tl.program_id(1)
    expert = tl.load(tile_expert + tile)
    if expert < 0:
        return
    pair = tl.load(tile_pairs + tile * BN + tl.arange(0, BN))
    row = tl.program_id(0) * R + tl.arange(0, R)
    sums = product(a, blocks, scales, pair, 1, expert, row, G, ROWS, GT, COMPUTE, PACKED_BODY)
    added = tl.load(bias + expert * ROWS + row, mask=row < ROWS, other=0.0).to(tl.float32)
    to = o + pair.to(tl.int64)[None, :] * ROWS + row[:, None]
    tl.store(to, (sums + added[:, None]).to(COMPUTE), mask=(row < ROWS)[:, None] & (pair >= 0)[None, :])


@triton.jit
def weighted(
    o, shares, x, out,
    ROWS: tl.constexpr, TOP: tl.constexpr, BH: tl.constexpr, COMPUTE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (row, n): out [T, ROWS] = x + o [T, TOP, ROWS] of a row's experts by their shares [T, TOP]."""
    if PDL:
        tl.extra.cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BH + tl.arange(0, BH)
    live = column < ROWS
    total = tl.zeros([BH], tl.float32)
    for n in tl.static_range(TOP):
        pair = token * TOP + n
        part = tl.load(o + pair * ROWS + column, mask=live, other=0.0).to(tl.float32)
        total += part * tl.load(shares + pair)
    residual = tl.load(x + token * ROWS + column, mask=live, other=0.0).to(tl.float32)
    tl.store(out + token * ROWS + column, (residual + total).to(COMPUTE), mask=live)


def tiles(ids: torch.Tensor, experts: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs in order of their expert, `size` of one expert a tile, for ids i32 [T, top].

    Returns the expert of each tile i32 [tiles], -1 for those that are not there, and its pairs i32
    [tiles, size], row * top + place, -1 where there is none. Waits for nothing.
    """
    pairs, device = ids.numel(), ids.device
    most = min(pairs, experts + pairs // size)
    flat = ids.flatten()
    by_expert, order = flat.sort(stable=True)
    every = torch.arange(experts + 1, device=device, dtype=torch.int32)
    starts = torch.searchsorted(by_expert, every)
    ends = ((starts.diff() + size - 1) // size).cumsum(0)
    tile = torch.arange(most, device=device)
    expert = torch.searchsorted(ends, tile, right=True)
    there = expert < experts
    expert = expert.clamp_(max=experts - 1)
    ahead = ends.index_select(0, expert) - tile  # how many of the expert's tiles there are from this one on
    nth = (ends.diff(prepend=ends.new_zeros(1))).index_select(0, expert) - ahead
    first = starts.index_select(0, expert) + nth * size
    at = first[:, None] + torch.arange(size, device=device)
    live = there[:, None] & (at < starts.index_select(0, expert + 1)[:, None])
    found = order.index_select(0, at.clamp_(max=pairs - 1).flatten()).view(at.shape)
    nobody = ids.new_full((), -1)
    return torch.where(there, expert, nobody).int(), torch.where(live, found, nobody).int()


def grouped_experts(sent: Chosen, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """The experts of any number of rows."""
    (rows, hidden), top = x.shape, sent.ids.shape[1]
    (count, wide, groups, _), inner = layer.mlp1.blocks.shape, layer.mlp2.blocks.shape[2]
    config = chosen(GROUPED, rows)
    expert, pairs = tiles(sent.ids, count, config.sizes["BN"])
    told = modes(x, config, weights=True)
    a = x.new_empty((rows * top, wide // 2))
    grouped_up[triton.cdiv(wide, config.sizes["R"]), expert.shape[0]](
        sent.t, expert, pairs, layer.mlp1.blocks, layer.mlp1.scales, layer.mlp1.bias, a,
        G=groups, ROWS=wide, TOP=top, LIMIT=limit, ALPHA=reference.SWIGLU_ALPHA, **told,
    )  # fmt: skip
    o = x.new_empty((rows * top, hidden))
    grouped_down[triton.cdiv(hidden, config.sizes["R"]), expert.shape[0]](
        a, expert, pairs, layer.mlp2.blocks, layer.mlp2.scales, layer.mlp2.bias, o,
        G=inner, ROWS=hidden, **told,
    )  # fmt: skip
    out = torch.empty_like(x)
    config = chosen(SUM, rows)
    weighted[rows, triton.cdiv(hidden, config.sizes["BH"])](
        o, sent.shares, x, out, ROWS=hidden, TOP=top, **modes(x, config)
    )
    return out
