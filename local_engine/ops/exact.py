"""fp32 on the host, bit for bit the same for a token at a position whatever else the batch holds.

A matrix product may order its sums by the number of rows, and a vectorised loop treats its tail otherwise. So
every operation here is the host's, applied to one row at a time, in memory of its own so that not even the
alignment of a row depends on its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from local_engine.batch import Batch, Group, LayerKV, Run
from local_engine.model import Layer, Model
from local_engine.ops import Ops, Routed, cpu


def by_row(op: Callable[..., Any], *per_row: int) -> Callable[..., Any]:
    """`op` applied to one row after the other of its arguments number `per_row`; the others it gets whole.

    Results are put together again: tensors along their first dimension, tuples part by part.
    """

    def each(*given: Any) -> Any:
        results = []
        for row in range(given[per_row[0]].shape[0]):
            mine = list(given)
            for n in per_row:
                mine[n] = given[n][row : row + 1].clone()
            results.append(op(*mine))
        if isinstance(results[0], tuple):
            return tuple(torch.cat(parts) for parts in zip(*results, strict=True))
        return torch.cat(results)

    return each


def attend(
    q: torch.Tensor, kv: LayerKV, group: Group, batch: Batch, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """See `Ops.attend`. Every row is a run of its own."""
    heard = torch.empty_like(q)
    for run in batch.runs:
        for n in range(run.rows):
            mine = slice(run.row + n, run.row + n + 1)
            alone = replace(batch, runs=(Run(0, 1, run.position + n, run.sequence),))
            heard[mine] = cpu.attend(q[mine].clone(), kv, group, alone, sinks, window)
    return heard


def head(x: torch.Tensor, model: Model, rows: torch.Tensor) -> torch.Tensor:
    """See `Ops.head`. No rows are a batch too: one that only writes keys and values."""
    if not rows.shape[0]:
        return x.new_empty((0, model.unembedding.shape[0]))
    logits: torch.Tensor = _head(x.index_select(0, rows), model)
    return logits


def route(x: torch.Tensor, layer: Layer, top: int) -> Routed:
    """See `Ops.route`."""
    return Routed(*_route(x, layer, top))


def experts(routed: Routed, layer: Layer, limit: float, x: torch.Tensor) -> torch.Tensor:
    """See `Ops.experts`."""
    added: torch.Tensor = _experts(*routed, layer, limit, x)
    return added


_route = by_row(cpu.OPS.route, 0)
_experts = by_row(
    lambda t, ids, weights, layer, limit, x: cpu.OPS.experts(Routed(t, ids, weights), layer, limit, x),
    0,
    1,
    2,
    5,
)
_head = by_row(lambda x, model: cpu.OPS.head(x, model, torch.zeros(1, dtype=torch.int64)), 0)

OPS = Ops(
    qkv=by_row(cpu.OPS.qkv, 0, 3, 5),
    attend=attend,
    out=by_row(cpu.OPS.out, 0, 2),
    route=route,
    experts=experts,
    head=head,
    sample=cpu.OPS.sample,
)
