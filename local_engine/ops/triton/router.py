"""Norm and router: one launch, after which rows wait normed for their experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from local_engine import reference
from local_engine.model import Layer
from local_engine.ops import Sent, ref
from local_engine.ops.triton.choice import NOBODY, picked
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.decode import place
from local_engine.ops.triton.modes import modes

SCORED_ROWS = 16
"""Up to this many rows are only scored, each expert by a program of its own; more share programs, which then
have all scores of their rows and choose. One program alone takes several times as long to read the router."""

SCORE = (Config(SCORED_ROWS, {"BE": 1}, warps=8),)

ROUTE = (Config(1 << 30, {"BM": 16, "BK": 128}, warps=8, stages=3),)


class Scored(NamedTuple):
    """Normed rows t [T, H] in `place` order, the router's logits f32 [T, E], how many experts a row has."""

    t: torch.Tensor
    logits: torch.Tensor
    top: int


class Chosen(NamedTuple):
    """Normed rows t [T, H] in `place` order, ids i32 [T, top] ascending, and shares f32 [T, top]."""

    t: torch.Tensor
    ids: torch.Tensor
    shares: torch.Tensor


@triton.jit
def score(
    x, norm, gate, bias, t, logits,
    E: tl.constexpr, H: tl.constexpr, EPS: tl.constexpr, BE: tl.constexpr,
    COMPUTE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (n, row): the logits of BE experts for one row, whose norm each program works out for itself.

    x [T, H], norm f32 [H], gate [E, H], bias [E]; writes t [T, H] once per row, and logits f32 [T, E].
    """
    first, row = tl.program_id(0), tl.program_id(1)
    expert = first * BE + tl.arange(0, BE)
    column = tl.arange(0, triton.next_power_of_2(H))
    inside = column < H
    weights = tl.load(
        gate + expert[:, None] * H + column[None, :], mask=(expert < E)[:, None] & inside[None, :], other=0.0
    ).to(tl.float32)
    scale = tl.load(norm + column, mask=inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    values = tl.load(x + row.to(tl.int64) * H + column, mask=inside, other=0.0).to(tl.float32)
    normed = (values * tl.rsqrt(tl.sum(values * values, 0) / H + EPS) * scale).to(COMPUTE)
    found = tl.sum(weights * normed.to(tl.float32)[None, :], 1)
    found += tl.load(bias + expert, mask=expert < E, other=0.0).to(tl.float32)
    tl.store(logits + row * E + expert, found.to(COMPUTE).to(tl.float32), mask=expert < E)
    if first == 0:
        tl.store(t + row.to(tl.int64) * H + place(column, H), normed, mask=inside)


@triton.jit
def route_rows(
    x, norm, gate, bias, t, ids, shares, T,
    E: tl.constexpr, H: tl.constexpr, TOP: tl.constexpr, EPS: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, COMPUTE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program takes BM rows: norm, logits, choice. Writes t, ids i32 [T, TOP] and shares f32 [T, TOP]."""
    BE: tl.constexpr = triton.next_power_of_2(E) if E > 16 else 16
    expert = tl.arange(0, BE)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    live = (row < T)[:, None]
    at = x + row.to(tl.int64)[:, None] * H
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    squares = tl.zeros([BM, BK], tl.float32)
    for start in range(0, H, BK):
        column = start + tl.arange(0, BK)
        values = tl.load(at + column[None, :], mask=live & (column < H)[None, :], other=0.0).to(tl.float32)
        squares += values * values
    size = tl.rsqrt(tl.sum(squares, 1) / H + EPS)
    found = tl.zeros([BM, BE], tl.float32)
    for start in range(0, H, BK):
        column = start + tl.arange(0, BK)
        inside = column < H
        values = tl.load(at + column[None, :], mask=live & inside[None, :], other=0.0).to(tl.float32)
        scale = tl.load(norm + column, mask=inside, other=0.0)
        normed = (values * size[:, None] * scale[None, :]).to(COMPUTE)
        weights = tl.load(
            gate + expert[:, None] * H + column[None, :],
            mask=(expert < E)[:, None] & inside[None, :],
            other=0.0,
        )
        found = tl.dot(normed, tl.trans(weights), found, input_precision="ieee")
        to = t + row.to(tl.int64)[:, None] * H + place(column, H)[None, :]
        tl.store(to, normed, mask=live & inside[None, :])
    found += tl.load(bias + expert, mask=expert < E, other=0.0).to(tl.float32)[None, :]
    inside = live & (expert < E)[None, :]
    scores = tl.where(inside, found.to(COMPUTE).to(tl.float32), float("-inf"))
    experts, weight = picked(scores, inside, TOP, BE, COMPUTE)
    for n in tl.static_range(TOP):
        lowest = tl.min(experts, 1)
        mine = experts == lowest[:, None]
        tl.store(ids + row * TOP + n, lowest, mask=row < T)
        tl.store(shares + row * TOP + n, tl.sum(tl.where(mine, weight, 0.0), 1), mask=row < T)
        experts = tl.where(mine, NOBODY, experts)


def route(x: torch.Tensor, layer: Layer, top: int) -> Sent:
    """See `Ops.route`. Rows for experts that are stored decoded are routed as plain torch wants them."""
    if not layer.mlp1.blocks.numel():
        return ref.OPS.route(x, layer, top)
    (rows, hidden), count = x.shape, layer.gate_weight.shape[0]
    t = torch.empty_like(x)
    given = (x, layer.mlp_norm, layer.gate_weight, layer.gate_bias, t)
    sizes = {"E": count, "H": hidden, "EPS": reference.RMS_EPS}
    if rows <= SCORED_ROWS:
        config = chosen(SCORE, rows)
        logits = torch.empty(rows, count, dtype=torch.float32, device=x.device)
        score[triton.cdiv(count, config.sizes["BE"]), rows](*given, logits, **sizes, **modes(x, config))
        return Scored(t, logits, top)
    config = chosen(ROUTE, rows)
    ids = torch.empty(rows, top, dtype=torch.int32, device=x.device)
    shares = torch.empty(rows, top, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(rows, config.sizes["BM"]),)
    route_rows[grid](*given, ids, shares, rows, TOP=top, **sizes, **modes(x, config))
    return Chosen(t, ids, shares)
