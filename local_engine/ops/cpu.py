"""Eager operations, free to look at the batch and at values: the host's, and a device's without its own.

Projections take all rows at once. Attention goes sequence by sequence over a prompt's rows and takes single
rows, the decode steps, together. Each expert takes its rows at once, and only chosen experts are decoded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import torch
from torch.nn.functional import linear

from local_engine import reference
from local_engine.batch import Batch, Group, LayerKV, Run
from local_engine.kv import first_seen
from local_engine.model import Layer
from local_engine.ops import Routed, ref

SCORES = 1 << 20
"""Most scores of one query head held at a time, unless sixteen rows have more."""

GATHERED = 1 << 16
"""Most positions whose keys and values single rows gather at a time, unless one row sees more: rows that
share a long prompt would otherwise each copy all of it."""


def attend(
    q: torch.Tensor, kv: LayerKV, group: Group, batch: Batch, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """See `Ops.attend`."""
    heard = torch.empty_like(q)
    base = batch.window_base if group is batch.window else (0,) * len(batch.window_base)
    alike: dict[int, list[Run]] = defaultdict(list)
    for run in batch.runs:
        if run.rows == 1:
            # Rows of one bucket gather as many blocks as its longest, which is less than twice their own.
            alike[_span(run, kv, window)[1].bit_length()].append(run)
        else:
            mine = slice(run.row, run.row + run.rows)
            heard[mine] = _prompt(q[mine], kv, group, run, base[run.sequence], sinks, window)
    for length, bucket in alike.items():
        together = max(1, GATHERED // (kv.keys.shape[1] << length))
        for at in range(0, len(bucket), together):
            runs = bucket[at : at + together]
            rows = torch.tensor([run.row for run in runs], device=q.device)
            heard.index_copy_(0, rows, _decode(q.index_select(0, rows), kv, group, runs, base, sinks, window))
    return heard


def experts(routed: Routed, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.experts`."""
    t, ids, weights = routed
    top = ids.shape[1]
    places = ids.flatten().argsort(stable=True)
    counts = torch.bincount(ids.flatten()).tolist()
    arranged = t.index_select(0, places // top)
    done = torch.empty_like(arranged)
    start = 0
    for expert, count in enumerate(counts):
        if count:
            mine = slice(start, start + count)
            h = linear(arranged[mine], layer.mlp1.weight(expert), layer.mlp1.bias[expert])
            a = reference.swiglu(h, limit)
            done[mine] = linear(a, layer.mlp2.weight(expert), layer.mlp2.bias[expert])
            start += count
    back = torch.empty_like(done).index_copy_(0, places, done).view(-1, top, t.shape[1])
    return x + torch.bmm(weights[:, None], back)[:, 0]


def _span(run: Run, kv: LayerKV, window: int | None) -> tuple[int, int]:
    """First logical block that a run sees, and how many blocks it sees."""
    block = kv.keys.shape[1]
    first = 0 if window is None else first_seen(run.position, window)
    return first, (run.position + run.rows - 1) // block + 1 - first


def _prompt(
    q: torch.Tensor, kv: LayerKV, group: Group, run: Run, base: int, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """The rows q [T, N, D] of one run, some at a time."""
    first, count = _span(run, kv, window)
    blocks = group.tables[run.sequence, first - base : first - base + count]
    keys, values = (part.index_select(0, blocks).flatten(0, 1) for part in (kv.keys, kv.values))
    start = run.position - first * kv.keys.shape[1]
    step = window or max(16, SCORES // keys.shape[0])
    return torch.cat(
        [
            reference.attend(
                q[at : at + step],
                keys[: start + min(at + step, run.rows)],
                values[: start + min(at + step, run.rows)],
                sinks,
                window,
            )
            for at in range(0, run.rows, step)
        ]
    )


def _decode(
    q: torch.Tensor,
    kv: LayerKV,
    group: Group,
    runs: list[Run],
    base: tuple[int, ...],
    sinks: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    """The rows q [T, N, D] of runs of one row each, over as many blocks as the longest of them sees."""
    (rows, heads, dim), (_, block, kv_heads, _) = q.shape, kv.keys.shape
    spans = [_span(run, kv, window) for run in runs]
    width = max(count for _, count in spans)
    host = [
        (run.sequence, first - base[run.sequence], first * block, run.position)
        for run, (first, _) in zip(runs, spans, strict=True)
    ]
    sequence, column, start, positions = torch.tensor(host, device=q.device).unbind(1)
    # A shorter row's surplus columns hold any block: all of it is behind the row's position.
    columns = (column[:, None] + torch.arange(width, device=q.device)).clamp_(max=group.tables.shape[1] - 1)
    tables = group.tables[sequence[:, None], columns].flatten()
    keys, values = (
        part.index_select(0, tables).view(rows, -1, kv_heads, dim) for part in (kv.keys, kv.values)
    )
    for row, (_, _, first, last) in enumerate(host):
        # A share of zero does not silence a NaN, and a block may hold one that its last owner left there.
        values[row, last + 1 - first :].zero_()
    places = start[:, None] + torch.arange(keys.shape[1], device=q.device)
    hidden = ref.hidden_keys(places, positions, window)

    scores = q.new_empty(rows, heads, keys.shape[1] + 1)
    scores[..., -1] = sinks
    own = [slice(n * heads // kv_heads, (n + 1) * heads // kv_heads) for n in range(kv_heads)]
    # A key/value head at a time: all at once, keys and values would be copied into another order first.
    for n, mine in enumerate(own):
        scores[:, mine, :-1] = torch.bmm(q[:, mine], keys[:, :, n].transpose(1, 2))
    scores[..., :-1].mul_(dim**-0.5).masked_fill_(hidden[:, None], -math.inf)
    shares = torch.softmax(scores, dim=-1)[..., :-1]
    return torch.cat([torch.bmm(shares[:, mine], values[:, :, n]) for n, mine in enumerate(own)], dim=1)


OPS = replace(ref.OPS, attend=attend, experts=experts)
