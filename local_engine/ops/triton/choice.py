"""Which experts a row goes to, as kernels work it out.

Up to a few rows the router only scores, and each kernel that needs the choice makes it for itself: a choice
among all experts needs all scores, and no program may wait for another of its launch. Ids are in ascending
order, so that a row's experts are summed in an order that nothing else decides.
"""

from __future__ import annotations

import triton
import triton.language as tl

NOBODY: tl.constexpr = tl.constexpr(1 << 30)
"""An id that no expert has."""


@triton.jit
def picked(scores, inside, TOP: tl.constexpr, BE: tl.constexpr, COMPUTE: tl.constexpr):
    """The TOP experts of each row by its scores f32 [BT, BE], -inf where not `inside`: ids i32 [BT, BE] and
    shares f32 [BT, BE].

    Column e is expert e, or nobody with a share of 0. Of equal scores the lowest id wins; NaN is never
    chosen, so that a row of those goes to nobody. Shares are the softmax over the chosen, rounded to COMPUTE
    like the reference's.
    """
    expert = tl.arange(0, BE)
    left = scores
    chosen = inside & (expert < 0)[None, :]
    for _ in tl.static_range(TOP):
        best = tl.max(left, 1)
        first = tl.min(tl.where(left == best[:, None], expert[None, :], BE), 1)
        mine = expert[None, :] == first[:, None]
        chosen = chosen | (inside & mine)
        left = tl.where(mine, float("-inf"), left)
    highest = tl.max(tl.where(chosen, scores, -1e38), 1)
    weight = tl.exp(tl.where(chosen, scores, float("-inf")) - highest[:, None])
    total = tl.sum(weight, 1)
    shares = weight / tl.where(total > 0, total, 1.0)[:, None]
    return tl.where(chosen, expert[None, :], NOBODY), shares.to(COMPUTE).to(tl.float32)


@triton.jit
def choice(
    logits,
    ids,
    shares,
    row,
    T,
    E: tl.constexpr,
    TOP: tl.constexpr,
    BE: tl.constexpr,
    SCORED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Rows' experts and shares, [BT, BE] as `picked` has them, or [BT, TOP or a little more] as stored."""
    if SCORED:
        expert = tl.arange(0, BE)
        inside = (row < T)[:, None] & (expert < E)[None, :]
        scores = tl.load(logits + row[:, None] * E + expert[None, :], mask=inside, other=float("-inf"))
        experts, weights = picked(scores, inside, TOP, BE, COMPUTE)
    else:
        WIDE: tl.constexpr = triton.next_power_of_2(TOP)
        n = tl.arange(0, WIDE)
        inside = (row < T)[:, None] & (n < TOP)[None, :]
        at = row[:, None] * TOP + n[None, :]
        experts = tl.load(ids + at, mask=inside, other=NOBODY)
        weights = tl.load(shares + at, mask=inside, other=0.0)
    return experts, weights


@triton.jit
def touched(experts, slot, BE: tl.constexpr):
    """The expert at place `slot` among those of `experts` [BT, BE], ascending, and how many those are. Nobody
    is behind the last. Only for choices with a column for every expert."""
    expert = tl.arange(0, BE)
    used = (tl.min(experts, 0) != NOBODY).to(tl.int32)
    found = (used > 0) & (tl.cumsum(used, 0) - 1 == slot)
    return tl.min(tl.where(found, expert, NOBODY), 0), tl.sum(used, 0)


@triton.jit
def members(experts, shares, expert):
    """Which rows [BT] chose an expert, its place among each row's own, its shares. Nobody chose nobody."""
    mine = (experts == expert) & (expert != NOBODY)
    place = tl.sum((experts < expert).to(tl.int32), 1)
    return tl.sum(mine.to(tl.int32), 1) > 0, place, tl.sum(tl.where(mine, shares, 0.0), 1)
