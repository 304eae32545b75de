"""What attention hands to the output projection, and how the parts of one row are put together."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl


class Heard(NamedTuple):
    """Each row's weighted values, in parts that cover the keys: `values` [S, T, N, D], normalised within its
    part, in the model's dtype, and the weight of each part as a power of two, `weights` fp32 [S, T, N].

    A part without keys has the weight -inf. The sink is in the first part. One part alone is the result, and
    has no weight.
    """

    values: torch.Tensor
    weights: torch.Tensor | None


@triton.jit
def heard_of(
    values,
    weights,
    items,
    valid,
    d,
    count,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The sums over all parts for some `items` [A], token * N + head, out of `count`: [A, size of d]."""
    place = items.to(tl.int64)[:, None] * DIM + d[None, :]
    there = valid[:, None] & (d < DIM)[None, :]
    if PARTS == 1:
        result = tl.load(values + place, mask=there, other=0.0)
    else:
        best = tl.load(weights + items, mask=valid, other=0.0)
        for part in tl.static_range(1, PARTS):
            best = tl.maximum(best, tl.load(weights + part * count + items, mask=valid, other=0.0))
        heard = tl.zeros(there.shape, tl.float32)
        total = tl.zeros(items.shape, tl.float32)
        for part in tl.static_range(PARTS):
            share = tl.exp2(tl.load(weights + part * count + items, mask=valid, other=0.0) - best)
            # Parts without keys, of which a short context has many, are not read.
            read = there & (share != 0)[:, None]
            start = values + part * tl.cast(count, tl.int64) * DIM
            heard += tl.load(start + place, mask=read, other=0.0).to(tl.float32) * share[:, None]
            total += share
        result = (heard / total[:, None]).to(COMPUTE)
    return result
