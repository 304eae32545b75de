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
from local_engine.errors import SetupError
from local_engine.model import Layer
from local_engine.ops import Routed, Sent, cpu, ref
from local_engine.ops.triton.choice import choice, members, touched
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.decode import decode_mxfp4, place, scale_factor
from local_engine.ops.triton.grouped import grouped_experts
from local_engine.ops.triton.modes import modes
from local_engine.ops.triton.router import Chosen, Scored
from local_engine.ops.triton.swiglu import swiglu

DECODE_ROWS = 64
"""More rows than this are a prompt's: their experts are worked through by `grouped`."""

UP = (
    Config(8, {"R": 64, "BN": 8, "P": 4, "GT": 4}, warps=4, stages=3, registers=168),
    Config(16, {"R": 32, "BN": 16, "P": 4, "GT": 4}, warps=4, stages=3, registers=144),
    Config(64, {"R": 32, "BN": 16, "P": 4, "GT": 4}, warps=4, stages=3),
)
"""R weight rows of one expert a program, for BN rows of the batch at once, in P parts of GT groups of 32
columns a time: one warp a part."""

DOWN = (
    Config(8, {"R": 16, "BN": 8, "Q": 4, "S": 2, "GT": 8}, warps=8, stages=3, registers=128),
    Config(16, {"R": 16, "BN": 16, "Q": 4, "S": 2, "GT": 4}, warps=8, stages=3, registers=128),
    Config(64, {"R": 16, "BN": 16, "Q": 4, "S": 1, "GT": 4}, warps=4, stages=3, registers=168),
)
"""R output rows a program, Q experts at a time, each in S parts as above. BN is as in `UP`."""


@triton.jit
def within(row, ROWS: tl.constexpr, R: tl.constexpr):
    """Which rows of a tile of R there are: known before any is looked at where R divides ROWS."""
    return tl.full([R], 1, tl.int1) if ROWS % R == 0 else row < ROWS


@triton.jit
def columns(chose, place, share, first, BN: tl.constexpr):
    """Of the rows that chose an expert, those from number `first` on: row, place and share [BN], and which of
    the BN there are. Takes what `members` gives, [BT]; where BT is BN, every row has its column."""
    BT: tl.constexpr = chose.shape[0]
    row = tl.arange(0, BT)
    if BT == BN:
        rows, places, weights, live = row, place, share, chose
    else:
        n = first + tl.arange(0, BN)
        rank = tl.cumsum(chose.to(tl.int32), 0) - 1
        found = chose[None, :] & (rank[None, :] == n[:, None])
        rows = tl.sum(tl.where(found, row[None, :], 0), 1)
        places = tl.sum(tl.where(found, place[None, :], 0), 1)
        weights = tl.sum(tl.where(found, share[None, :], 0.0), 1)
        live = tl.sum(found.to(tl.int32), 1) > 0
    return rows, places, weights, live


@triton.jit
def product(
    blocks, scales, x, row, live_row, operand, live, start,
    R: tl.constexpr, G: tl.constexpr, STEP: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr,
):  # fmt: skip
    """Sums f32 [P, R, BN] of weights and operands, each part p over its own groups of 32 columns: GT from
    start[p] on, and again each STEP groups further, up to G.

    R weight rows from row [P] on of blocks u8 [.., G, 16], rows operand [P, BN] of x [.., 32 G] in `place`
    order; what is not live, [P, R] and [P, BN], is not read and counts as 0. Offsets fit i32: `few_experts`
    sees to that.
    """
    P: tl.constexpr = row.shape[0]
    byte = start[:, None] * 16 + tl.arange(0, 16 * GT)[None, :]
    group = start[:, None] + tl.arange(0, GT)[None, :]
    r = tl.arange(0, R)
    packed_at = (row[:, None] * (G * 16) + byte)[:, None, :] + (r * (G * 16))[None, :, None]
    scales_at = (row[:, None] * G + group)[:, None, :] + (r * G)[None, :, None]
    even_at = (operand * (G * 32))[:, :, None] + byte[:, None, :]
    live_row, live = live_row[:, :, None], live[:, :, None]
    sums = tl.zeros([P, R, operand.shape[1]], tl.float32)
    # Scales are too narrow for the copies that run ahead of the loop: those of a step are asked for two steps
    # before, and made factors one step before, where each thread has few of them.
    near = live_row & (group < G)[:, None, :]
    factor = scale_factor(tl.load(scales + scales_at, mask=near, other=0), COMPUTE)
    coming = live_row & (group < G - STEP)[:, None, :]
    scale = tl.load(scales + STEP + scales_at, mask=coming, other=0)
    for first in range(0, G, STEP):
        inside = (byte < (G - first) * 16)[:, None, :]
        packed = tl.load(blocks + first * 16 + packed_at, mask=live_row & inside, other=0)
        even_x = tl.load(x + first * 16 + even_at, mask=live & inside, other=0.0)
        odd_x = tl.load(x + (G + first) * 16 + even_at, mask=live & inside, other=0.0)
        by = tl.reshape(tl.broadcast_to(factor[:, :, :, None], [P, R, GT, 16]), [P, R, GT * 16])
        even, odd = decode_mxfp4(packed, COMPUTE, PACKED_BODY)
        sums = tl.dot(even * by, tl.trans(even_x, 0, 2, 1), sums, input_precision="ieee")
        sums = tl.dot(odd * by, tl.trans(odd_x, 0, 2, 1), sums, input_precision="ieee")
        factor = scale_factor(scale, COMPUTE)
        coming = live_row & (group < G - first - 2 * STEP)[:, None, :]
        scale = tl.load(scales + first + 2 * STEP + scales_at, mask=coming, other=0)
    return sums


@triton.jit
def finish(total, x, out, token, row, T, ROWS: tl.constexpr, live_row, COMPUTE: tl.constexpr):
    """Adds the residual x [T, ROWS] to what the experts say of some rows, [R, BN], and writes the sum."""
    at = token[None, :] * ROWS + row[:, None]
    live = live_row[:, None] & (token < T)[None, :]
    residual = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
    tl.store(out + at, (residual + total).to(COMPUTE), mask=live)


@triton.jit
def up(
    t, logits, ids, shares, blocks, scales, bias, a, slots, pairs, weights, T,
    E: tl.constexpr, G: tl.constexpr, ROWS: tl.constexpr, TOP: tl.constexpr,
    LIMIT: tl.constexpr, ALPHA: tl.constexpr, SCORED: tl.constexpr, BT: tl.constexpr,
    R: tl.constexpr, BN: tl.constexpr, P: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (tile, slot): R rows of one expert's first projection, for all rows that chose it, and swiglu.

    t [T, 32 G] in `place` order, blocks u8 [E, ROWS, G, 16]; writes a [T, TOP, ROWS / 2] in `place` order, at
    the place of the expert among its row's own. A slot is a place among the experts touched, where rows were
    only scored, else an expert. The first tile writes down for `down` what its slot is: slots i32 [.., 3] the
    expert, how many rows chose it, and how many slots there are; per column its pair, row * TOP + place or
    -1, i32 [.., BT], and its weight f32 [.., BT].
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    BE: tl.constexpr = triton.next_power_of_2(E)
    tile, nth_slot = tl.program_id(0), tl.program_id(1)
    experts, share_of = choice(logits, ids, shares, tl.arange(0, BT), T, E, TOP, BE, SCORED, COMPUTE)
    if SCORED:
        expert, filled = touched(experts, nth_slot, BE)
    else:
        expert, filled = nth_slot, E
    chose, place_of, share = members(experts, share_of, expert)
    count = tl.sum(chose.to(tl.int32))
    if tile == 0:
        tl.store(slots + nth_slot * 3, expert)
        tl.store(slots + nth_slot * 3 + 1, count)
        tl.store(slots + nth_slot * 3 + 2, filled)
    if count == 0:
        return
    row = tile * R + tl.arange(0, R)
    part = tl.arange(0, P)
    live_row = within(row, ROWS, R)
    added = tl.load(bias + expert * ROWS + row, mask=live_row, other=0.0).to(tl.float32)
    half = tile * (R // 2) + tl.arange(0, R // 2)
    for first in range(0, 1 if BT == BN else count, BN):
        token, nth, weight, live = columns(chose, place_of, share, first, BN)
        pair = token * TOP + nth
        if tile == 0:
            at = nth_slot * BT + first + tl.arange(0, BN)
            tl.store(pairs + at, tl.where(live, pair, -1))
            tl.store(weights + at, weight)
        none = part[:, None] * 0
        sums = product(
            blocks, scales, t, expert * ROWS + tile * R + part * 0, live_row[None, :] & (none == 0),
            token[None, :] + none, live[None, :] & (none == 0), part * GT,
            R, G, P * GT, GT, COMPUTE, PACKED_BODY,
        )  # fmt: skip
        h = tl.sum(sums, 0) + added[:, None]
        tl.store(
            a + (pair * (ROWS // 2))[None, :] + place(half, ROWS // 2)[:, None],
            swiglu(h, LIMIT, ALPHA).to(COMPUTE),
            mask=within(half, ROWS // 2, R // 2)[:, None] & live[None, :],
        )


@triton.jit
def down(
    a, blocks, scales, bias, slots, pairs, weights, x, out, parts, T, SLOTS,
    G: tl.constexpr, ROWS: tl.constexpr, TOP: tl.constexpr, ONCE: tl.constexpr, BT: tl.constexpr,
    R: tl.constexpr, BN: tl.constexpr, Q: tl.constexpr, S: tl.constexpr, GT: tl.constexpr,
    COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program n: R rows of the second projection of every expert touched, their weighted sum, the residual.

    a [T, TOP, 32 G] in `place` order, x and out [T, ROWS]; slots, pairs and weights are `up`'s. Where not
    every row has a column of its own, `parts` f32 [T, TOP, ROWS] holds the weighted outputs until all
    experts of a row are there; each program reads only what it wrote itself.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0) * R + tl.arange(0, R)
    live_row = within(row, ROWS, R)
    part, n = tl.arange(0, Q * S), tl.arange(0, BN)
    start = (part % S) * GT
    total = tl.zeros([R, BN], tl.float32)
    filled = SLOTS if ONCE else tl.load(slots + 2)
    for base in range(0, Q if ONCE else filled, Q):
        slot = base + part // S
        there = slot < filled
        expert = tl.load(slots + slot * 3, mask=there, other=0)
        count = tl.load(slots + slot * 3 + 1, mask=there, other=0)
        first_part = (count > 0) & (start == 0)
        added = tl.load(
            bias + expert[:, None] * ROWS + row[None, :],
            mask=first_part[:, None] & live_row[None, :],
            other=0.0,
        ).to(tl.float32)
        for first in range(0, 1 if BT == BN else tl.max(count), BN):
            at = slot[:, None] * BT + first + n[None, :]
            wanted = (first < count)[:, None]
            pair = tl.load(pairs + at, mask=wanted, other=-1)
            weight = tl.load(weights + at, mask=wanted, other=0.0)
            sums = product(
                blocks, scales, a, expert * ROWS + tl.program_id(0) * R, wanted & live_row[None, :],
                pair, pair >= 0, start, R, G, S * GT, GT, COMPUTE, PACKED_BODY,
            )  # fmt: skip
            sums = (sums + added[:, :, None]) * weight[:, None, :]
            if BT == BN:
                total += tl.sum(sums, 0)
            else:
                o = tl.sum(tl.reshape(sums, [Q, S, R, BN]), 1)
                to = tl.max(tl.reshape(pair, [Q, S, BN]), 1)[:, None, :]
                live = (to >= 0) & live_row[None, :, None]
                tl.store(parts + to * ROWS + row[None, :, None], o, mask=live)
    if BT == BN:
        finish(total, x, out, n, row, T, ROWS, live_row, COMPUTE)
    else:
        tl.debug_barrier()
        for first in range(0, T, BN):
            token = first + n
            live = live_row[:, None] & (token < T)[None, :]
            total = tl.zeros([R, BN], tl.float32)
            for k in tl.static_range(TOP):
                at = (token * TOP + k)[None, :] * ROWS + row[:, None]
                total += tl.load(parts + at, mask=live, other=0.0)
            finish(total, x, out, token, row, T, ROWS, live_row, COMPUTE)


def experts(sent: Sent, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.experts`. Experts that are stored decoded are left to plain torch."""
    if isinstance(sent, Routed):
        fallback = ref.OPS if x.shape[0] <= DECODE_ROWS else cpu.OPS
        return fallback.experts(sent, layer, limit, x)
    if x.shape[0] > DECODE_ROWS:
        return grouped_experts(sent, layer, limit, x)
    return few_experts(sent, layer, limit, x)


def few_experts(sent: Scored | Chosen, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """The experts of up to 64 rows. Raises `SetupError` for a layer of 2 GB or more of packed weights."""
    (rows, hidden), (count, wide, groups, _) = x.shape, layer.mlp1.blocks.shape
    if max(layer.mlp1.blocks.numel(), layer.mlp2.blocks.numel()) >= 1 << 31:
        raise SetupError(
            f"{count} experts of {wide} x {hidden} are more than the GPU's kernels can address in one layer;"
            " run this checkpoint with `--device cpu`"
        )
    if isinstance(sent, Scored):
        top, picks = sent.top, (sent.logits, sent.logits, sent.logits)
        slots = min(count, rows * top)
    else:
        top, picks = sent.ids.shape[1], (sent.shares, sent.ids, sent.shares)
        slots = count
    config = chosen(UP, rows)
    padded = max(config.sizes["BN"], triton.next_power_of_2(rows))
    a = x.new_empty((rows, top, wide // 2))
    plan = (
        x.new_empty((slots, 3), dtype=torch.int32),
        x.new_empty((slots, padded), dtype=torch.int32),
        x.new_empty((slots, padded), dtype=torch.float32),
    )
    up[triton.cdiv(wide, config.sizes["R"]), slots](
        sent.t, *picks, layer.mlp1.blocks, layer.mlp1.scales, layer.mlp1.bias, a, *plan, rows,
        E=count, G=groups, ROWS=wide, LIMIT=limit, ALPHA=reference.SWIGLU_ALPHA,
        TOP=top, BT=padded, SCORED=isinstance(sent, Scored), **modes(x, config, weights=True),
    )  # fmt: skip
    config = chosen(DOWN, rows)
    out = torch.empty_like(x)
    parts = x.new_empty((rows, top, hidden) if padded != config.sizes["BN"] else (1,), dtype=torch.float32)
    down[(triton.cdiv(hidden, config.sizes["R"]),)](
        a, layer.mlp2.blocks, layer.mlp2.scales, layer.mlp2.bias, *plan, x, out, parts, rows, slots,
        G=layer.mlp2.blocks.shape[2], ROWS=hidden,
        TOP=top, BT=padded, ONCE=isinstance(sent, Scored) and slots <= config.sizes["Q"],
        **modes(x, config, weights=True),
    )  # fmt: skip
    return out
