"""Every operation in plain torch, for any device: the oracle of each faster one.

Shapes follow from the batch's shapes alone and nothing waits for the device, so a step of these can be
captured. What that costs is memory: attention gathers all blocks that a row's table has room for.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import linear

from local_engine import reference
from local_engine.batch import Batch, Group, LayerKV
from local_engine.model import Layer, Model, Rope
from local_engine.ops import Ops, Routed
from local_engine.sampling import draw


def qkv(
    x: torch.Tensor, layer: Layer, rope: Rope, positions: torch.Tensor, kv: LayerKV, slots: torch.Tensor
) -> torch.Tensor:
    """See `Ops.qkv`."""
    heads, dim = kv.keys.shape[-2:]
    t = reference.rms_norm(x, layer.attn_norm)
    biases = torch.split(layer.qkv_bias, [part.shape[0] for part in layer.qkv_parts])
    projected = [linear(t, part, bias) for part, bias in zip(layer.qkv_parts, biases, strict=True)]
    rows = torch.cat(projected, dim=1).view(x.shape[0], -1, dim)
    q, k, v = torch.split(rows, [rows.shape[1] - 2 * heads, heads, heads], dim=1)
    cos, sin = rope.cos.index_select(0, positions), rope.sin.index_select(0, positions)
    kv.keys.view(-1, heads, dim).index_copy_(0, slots, reference.rotate(k, cos, sin))
    kv.values.view(-1, heads, dim).index_copy_(0, slots, v)
    return reference.rotate(q, cos, sin)


def attend(
    q: torch.Tensor, kv: LayerKV, group: Group, batch: Batch, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """See `Ops.attend`. Holds T copies of a whole table's keys and values."""
    block = kv.keys.shape[1]
    tables = group.tables.index_select(0, batch.sequence)
    start = group.base.index_select(0, batch.sequence) * block
    j = start[:, None] + torch.arange(tables.shape[1] * block, device=q.device)
    return attend_rows(q, kv, tables, hidden_keys(j, batch.positions, window), sinks)


def hidden_keys(j: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which of the keys at positions j [T, S] rows at `positions` [T] do not see: bool [T, S]."""
    i = positions[:, None]
    return j > i if window is None else (j > i) | (j <= i - window)


def attend_rows(
    q: torch.Tensor, kv: LayerKV, tables: torch.Tensor, hidden: torch.Tensor, sinks: torch.Tensor
) -> torch.Tensor:
    """Each row of q [T, N, D] over the blocks of its own table [T, n], except where `hidden` [T, S]."""
    (rows, _, dim), heads = q.shape, kv.keys.shape[2]
    gathered = (rows, -1, heads, dim)
    keys = kv.keys.index_select(0, tables.flatten()).view(gathered)
    # A share of zero does not silence a NaN, and a block may hold one that its last owner left there.
    values = kv.values.index_select(0, tables.flatten()).view(gathered)
    values = values.masked_fill_(hidden[:, :, None, None], 0)
    scores = torch.einsum("tkgd,tskd->tkgs", q.view(rows, heads, -1, dim), keys) * dim**-0.5
    scores = scores.masked_fill(hidden[:, None, None], -math.inf)
    column = sinks.view(1, heads, -1, 1).expand(rows, -1, -1, -1)
    shares = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
    return torch.einsum("tkgs,tskd->tkgd", shares, values).reshape(q.shape)


def out(o: torch.Tensor, layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.out`."""
    return x + linear(o.flatten(-2), layer.out_weight, layer.out_bias)


def route(x: torch.Tensor, layer: Layer, top: int) -> Routed:
    """See `Ops.route`."""
    t = reference.rms_norm(x, layer.mlp_norm)
    return Routed(t, *reference.route(t, layer.gate_weight, layer.gate_bias, top))


def experts(routed: Routed, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.experts`. Holds one row's chosen experts, decoded, at a time."""
    t, ids, weights = routed
    rows = []
    for row in range(t.shape[0]):
        chosen = ids[row]
        h = torch.matmul(layer.mlp1.weights(chosen), t[row]) + layer.mlp1.bias.index_select(0, chosen)
        a = reference.swiglu(h, limit)[:, :, None]
        o = torch.matmul(layer.mlp2.weights(chosen), a)[..., 0] + layer.mlp2.bias.index_select(0, chosen)
        rows.append(torch.matmul(weights[row], o))
    return x + torch.stack(rows)


def head(x: torch.Tensor, model: Model, rows: torch.Tensor) -> torch.Tensor:
    """See `Ops.head`."""
    return linear(reference.rms_norm(x.index_select(0, rows), model.norm), model.unembedding).float()


OPS = Ops(qkv=qkv, attend=attend, out=out, route=route, experts=experts, head=head, sample=draw)
