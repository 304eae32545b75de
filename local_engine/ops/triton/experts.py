"""The chosen experts of a decode step: two launches, for up to 64 rows.

Weight rows are M of `tl.dot` and the rows that chose an expert are N, even at one row: the tensor cores cost
nothing, and what bounds the kernels is how many instructions it takes to decode. A tile of weights goes from
device memory to shared memory, 16 bytes at a time and some tiles ahead, and from there straight to where the
tensor cores want it. The K columns are cut into parts, each for one warp: a batch dimension of the product.

Only the experts that somebody chose are read, each once for every BN rows that chose it. Sums over parts, and
over a row's experts in ascending order, have a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from local_engine import reference
from local_engine.model import Layer
from local_engine.ops import Routed, Sent, cpu, ref
from local_engine.ops.triton.choice import NOBODY, choice, members, touched
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.decode import decode_mxfp4, place, scale_factor
from local_engine.ops.triton.grouped import grouped_experts
from local_engine.ops.triton.modes import modes
from local_engine.ops.triton.router import Chosen, Scored
from local_engine.ops.triton.swiglu import swiglu

DECODE_ROWS = 64
"""More rows than this are a prompt's: their experts are worked through by `grouped`."""

UP = (
    Config(8, {"R": 64, "BN": 8, "P": 4, "GT": 4}, warps=4, stages=4),
    Config(16, {"R": 64, "BN": 16, "P": 4, "GT": 4}, warps=4, stages=3),
    Config(32, {"R": 64, "BN": 16, "P": 4, "GT": 4}, warps=4, stages=3),
    Config(64, {"R": 64, "BN": 32, "P": 4, "GT": 4}, warps=4, stages=3),
)
"""R weight rows of one expert a program, in P parts of GT groups of 32 columns a time."""

DOWN = (
    Config(8, {"R": 16, "BN": 8, "Q": 4, "S": 2, "GT": 4}, warps=8, stages=4),
    Config(16, {"R": 16, "BN": 16, "Q": 4, "S": 2, "GT": 4}, warps=8, stages=3),
    Config(32, {"R": 16, "BN": 16, "Q": 4, "S": 2, "GT": 4}, warps=8, stages=3),
    Config(64, {"R": 16, "BN": 32, "Q": 4, "S": 2, "GT": 4}, warps=8, stages=3),
)
"""R output rows a program, Q experts at a time, each in S parts of GT groups of 32 columns a time."""


@triton.jit
def within(row, ROWS: tl.constexpr, R: tl.constexpr):
    """Which rows of a tile of R there are: known before any is looked at where R divides ROWS."""
    if ROWS % R == 0:
        live = tl.full([R], 1, tl.int1)
    else:
        live = row < ROWS
    return live


@triton.jit
def columns(chose, place, share, first, BN: tl.constexpr):
    """Of the rows that chose each expert, those from number `first` on: row, place and share [Q, BN], and
    which of the BN there are. Takes what `members` gives, [Q, BT]; where BT is BN, every row has its column.
    """
    BT: tl.constexpr = chose.shape[1]
    row = tl.arange(0, BT)
    if BT == BN:
        rows, places, weights, live = row[None, :] + tl.zeros_like(place), place, share, chose
    else:
        n = first + tl.arange(0, BN)
        rank = tl.cumsum(chose.to(tl.int32), 1) - 1
        found = chose[:, None, :] & (rank[:, None, :] == n[None, :, None])
        rows = tl.sum(tl.where(found, row[None, None, :], 0), 2)
        places = tl.sum(tl.where(found, place[:, None, :], 0), 2)
        weights = tl.sum(tl.where(found, share[:, None, :], 0.0), 2)
        live = tl.sum(found.to(tl.int32), 2) > 0
    return rows, places, weights, live


@triton.jit
def product(
    blocks, scales, x, live_rows, live, start,
    G: tl.constexpr, STEP: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr,
):  # fmt: skip
    """Sums f32 [P, R, BN] of weights and operands, each part p over its own groups of 32 columns: GT from
    start[p] on, and again each STEP groups further, up to G.

    Pointers to group 0: blocks [P, R], scales [P, R], x [P, BN] in `place` order. What is not live, weights
    by live_rows [P, R] and operands by live [P, BN], is not read and counts as 0.
    """
    byte = tl.arange(0, 16 * GT)
    group = tl.arange(0, GT)
    P: tl.constexpr = live.shape[0]
    R: tl.constexpr = live_rows.shape[1]
    BN: tl.constexpr = live.shape[1]
    packed_at = blocks[:, :, None] + (start[:, None] * 16 + byte[None, :])[:, None, :]
    scales_at = scales[:, :, None] + (start[:, None] + group[None, :])[:, None, :]
    even_at = x[:, :, None] + (start[:, None] * 16 + byte[None, :])[:, None, :]
    sums = tl.zeros([P, R, BN], tl.float32)
    # The scales of a step are on their way while the one before is worked on: they are too narrow for the
    # copies that run ahead of the loop.
    inside = (start[:, None] + group[None, :] < G)[:, None, :]
    scale = tl.load(scales_at, mask=live_rows[:, :, None] & inside, other=0)
    for first in range(0, G, STEP):
        inside = (first * 16 + start[:, None] * 16 + byte[None, :] < G * 16)[:, None, :]
        packed = tl.load(packed_at + first * 16, mask=live_rows[:, :, None] & inside, other=0)
        even_x = tl.load(even_at + first * 16, mask=live[:, :, None] & inside, other=0.0)
        odd_x = tl.load(even_at + G * 16 + first * 16, mask=live[:, :, None] & inside, other=0.0)
        factor = scale_factor(scale, COMPUTE)
        factor = tl.reshape(tl.broadcast_to(factor[:, :, :, None], [P, R, GT, 16]), [P, R, GT * 16])
        even, odd = decode_mxfp4(packed, COMPUTE, PACKED_BODY)
        sums = tl.dot(even * factor, tl.trans(even_x, 0, 2, 1), sums, input_precision="ieee")
        sums = tl.dot(odd * factor, tl.trans(odd_x, 0, 2, 1), sums, input_precision="ieee")
        inside = (first + STEP + start[:, None] + group[None, :] < G)[:, None, :]
        scale = tl.load(scales_at + first + STEP, mask=live_rows[:, :, None] & inside, other=0)
    return sums


@triton.jit
def up(
    t, logits, ids, shares, blocks, scales, bias, a, T,
    E: tl.constexpr, G: tl.constexpr, ROWS: tl.constexpr, TOP: tl.constexpr,
    LIMIT: tl.constexpr, ALPHA: tl.constexpr, SCORED: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
    R: tl.constexpr, BN: tl.constexpr, P: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (tile, slot): R rows of one expert's first projection, for all rows that chose it, and swiglu.

    t [T, 32 G] in `place` order, blocks u8 [E, ROWS, G, 16]; writes a [T, TOP, ROWS / 2] in `place` order, at
    the place of the expert among its row's own. A slot is a place among the experts touched, where rows were
    only scored, else an expert.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    experts, weights = choice(logits, ids, shares, tl.arange(0, BT), T, E, TOP, BE, SCORED, COMPUTE)
    slot = tl.program_id(1) + tl.zeros([1], tl.int32)
    expert = touched(experts, slot, BE) if SCORED else slot
    chose, place_of, share = members(experts, weights, expert)
    count = tl.sum(chose.to(tl.int32))
    if count == 0:
        return
    one = tl.max(expert, 0)
    r = tl.arange(0, R)
    row = tl.program_id(0) * R + r
    part = tl.arange(0, P)
    live_rows = within(row, ROWS, R)[None, :] & (part >= 0)[:, None]
    matrix = blocks + one.to(tl.int64) * (ROWS * G * 16) + row[None, :] * (G * 16) + part[:, None] * 0
    factors = scales + one.to(tl.int64) * (ROWS * G) + row[None, :] * G + part[:, None] * 0
    added = tl.load(bias + one * ROWS + row, mask=row < ROWS, other=0.0).to(tl.float32)
    half = tl.program_id(0) * (R // 2) + tl.arange(0, R // 2)
    for first in range(0, count, BN):
        token, nth, _, live = columns(chose, place_of, share, first, BN)
        operand = t + token * (G * 32) + part[:, None] * 0
        valid = live & (part >= 0)[:, None]
        sums = product(
            matrix, factors, operand, live_rows, valid, part * GT, G, P * GT, GT, COMPUTE, PACKED_BODY
        )
        h = tl.sum(sums, 0) + added[:, None]
        to = a + (token * TOP + nth) * (ROWS // 2)
        tl.store(
            to + place(half, ROWS // 2)[:, None],
            swiglu(h, LIMIT, ALPHA).to(COMPUTE),
            mask=(half < ROWS // 2)[:, None] & live,
        )


@triton.jit
def down(
    a, logits, ids, shares, blocks, scales, bias, x, out, parts, T,
    E: tl.constexpr, G: tl.constexpr, ROWS: tl.constexpr, TOP: tl.constexpr,
    SCORED: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
    R: tl.constexpr, BN: tl.constexpr, Q: tl.constexpr, S: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program n: R rows of the second projection of every expert touched, their weighted sum, the residual.

    a [T, TOP, 32 G] in `place` order, x and out [T, ROWS]; `parts` f32 [T, TOP, ROWS] holds the weighted
    outputs until all experts of a row are there, and each program reads only what it wrote itself.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    experts, weights = choice(logits, ids, shares, tl.arange(0, BT), T, E, TOP, BE, SCORED, COMPUTE)
    row = tl.program_id(0) * R + tl.arange(0, R)
    part = tl.arange(0, Q * S)
    slot = part // S
    start = (part % S) * GT
    live_out = within(row, ROWS, R)
    total = tl.zeros([R, BN], tl.float32)
    slots = E
    if SCORED:
        slots = tl.sum((tl.min(experts, 0) != NOBODY).to(tl.int32))
    for base in range(0, slots, Q):
        if SCORED:
            expert = touched(experts, base + slot, BE)
        else:
            expert = tl.where(base + slot < E, base + slot, NOBODY)
        chose, place_of, share = members(experts, weights, expert)
        there = expert != NOBODY
        live_rows = there[:, None] & live_out[None, :]
        at = tl.where(there, expert, 0).to(tl.int64)[:, None] * ROWS + row[None, :]
        added = tl.load(bias + at, mask=live_rows & (start == 0)[:, None], other=0.0).to(tl.float32)
        for first in range(0, tl.max(tl.sum(chose.to(tl.int32), 1)), BN):
            token, nth, weight, live = columns(chose, place_of, share, first, BN)
            pair = token * TOP + nth
            sums = product(
                blocks + at * (G * 16), scales + at * G, a + pair * (G * 32), live_rows, live, start,
                G, S * GT, GT, COMPUTE, PACKED_BODY,
            )  # fmt: skip
            sums = (sums + added[:, :, None]) * weight[:, None, :]
            if BT == BN:
                total += tl.sum(sums, 0)
            else:
                o = tl.sum(tl.reshape(sums, [Q, S, R, BN]), 1)
                mine = tl.max(tl.reshape(live.to(tl.int32), [Q, S, BN]), 1) > 0
                to = parts + tl.max(tl.reshape(pair, [Q, S, BN]), 1)[:, None, :] * ROWS + row[None, :, None]
                tl.store(to, o, mask=mine[:, None, :] & live_out[None, :, None])
    token = tl.arange(0, BT)
    live_out = live_out[:, None] & (token < T)[None, :]
    if BT != BN:
        tl.debug_barrier()
        total = tl.zeros([R, BT], tl.float32)
        for n in tl.static_range(TOP):
            total += tl.load(parts + (token * TOP + n)[None, :] * ROWS + row[:, None], mask=live_out, other=0.0)
    at = token.to(tl.int64)[None, :] * ROWS + row[:, None]
    residual = tl.load(x + at, mask=live_out, other=0.0).to(tl.float32)
    tl.store(out + at, (residual + total).to(COMPUTE), mask=live_out)


def experts(sent: Sent, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.experts`. Experts that are stored decoded are left to plain torch."""
    if isinstance(sent, Routed):
        fallback = ref.OPS if x.shape[0] <= DECODE_ROWS else cpu.OPS
        return fallback.experts(sent, layer, limit, x)
    if x.shape[0] > DECODE_ROWS:
        return grouped_experts(sent, layer, limit, x)
    return few_experts(sent, layer, limit, x)


def few_experts(sent: Scored | Chosen, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """The experts of up to 64 rows."""
    (rows, hidden), top = x.shape, sent.top if isinstance(sent, Scored) else sent.ids.shape[1]
    (count, wide, groups, _), inner = layer.mlp1.blocks.shape, layer.mlp2.blocks.shape[2]
    if isinstance(sent, Scored):
        picks, slots = (sent.logits, sent.logits, sent.logits), min(count, rows * top)
    else:
        picks, slots = (sent.shares, sent.ids, sent.shares), count
    a = x.new_empty((rows, top, wide // 2))
    config = chosen(UP, rows)
    shared = {
        "E": count,
        "TOP": top,
        "SCORED": isinstance(sent, Scored),
        "BE": triton.next_power_of_2(count),
        **modes(x, weights=True),
    }
    up[triton.cdiv(wide, config.sizes["R"]), slots](
        sent.t, *picks, layer.mlp1.blocks, layer.mlp1.scales, layer.mlp1.bias, a, rows,
        G=groups, ROWS=wide, LIMIT=limit, ALPHA=reference.SWIGLU_ALPHA, BT=_padded(rows, config),
        **shared, **config.options,
    )  # fmt: skip
    config = chosen(DOWN, rows)
    out = torch.empty_like(x)
    padded = _padded(rows, config)
    parts = x.new_empty((rows, top, hidden) if padded != config.sizes["BN"] else (1,), dtype=torch.float32)
    down[(triton.cdiv(hidden, config.sizes["R"]),)](
        a, *picks, layer.mlp2.blocks, layer.mlp2.scales, layer.mlp2.bias, x, out, parts, rows,
        G=inner, ROWS=hidden, BT=padded, **shared, **config.options,
    )  # fmt: skip
    return out


def _padded(rows: int, config: Config) -> int:
    """How many rows a kernel counts with: each has a column of its own, if there are enough."""
    return max(config.sizes["BN"], triton.next_power_of_2(rows))
