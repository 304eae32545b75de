"""The activation between an expert's two projections."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def swiglu(h, LIMIT: tl.constexpr, ALPHA: tl.constexpr):
    """[R, BN] with gate and linear rows in turn -> [R / 2, BN]. The gate has no lower clamp."""
    pairs = tl.reshape(h, [h.shape[0] // 2, 2, h.shape[1]])
    gate, linear = tl.split(tl.trans(pairs, 0, 2, 1))
    gate = tl.minimum(gate, LIMIT)
    linear = tl.minimum(tl.maximum(linear, -LIMIT), LIMIT)
    return gate * tl.sigmoid(ALPHA * gate) * (linear + 1)
