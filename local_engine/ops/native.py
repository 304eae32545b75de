"""The host's operations in C++: products with weights as they lie in the checkpoint, on all threads.

In bf16 few rows are rounded to bytes where weights are packed, as llama.cpp does; many rows, and everything in
fp32, are multiplied with the decoded weights. Threads share rows of weights and never sums, so a result does not
depend on their number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from local_engine import reference
from local_engine.ops import Ops, Routed, cpu
from local_engine.ops.attention import Attention

if TYPE_CHECKING:
    from torch import Tensor

    from local_engine.batch import LayerKV
    from local_engine.model import Layer, Model, Rope

POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
FLOATS, PACKED, EIGHT_BITS = range(3)
"""As `Kind` in cpu.cpp."""


class Library:
    """The kernels behind `compiled.load`, for tensors. `level` is the instruction set, 0 the portable one."""

    def __init__(self, kernels: ctypes.CDLL, level: int | None = None) -> None:
        self._linear = kernels.linear
        self._linear.argtypes = [INT] * 4 + [LONG] * 3 + [POINTER] * 6 + [INT]
        self._mixture = kernels.mixture
        self._mixture.argtypes = [INT] * 3 + [LONG] * 5 + [ctypes.c_float] + [POINTER] * 11
        for function in (self._linear, self._mixture):
            function.restype = None
        self.level = kernels.best_set() if level is None else level
        self.attention = Attention(kernels, self.level)

    def linear(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        bias: Tensor | None = None,
        add: Tensor | None = None,
        *,
        wide: bool = False,
    ) -> Tensor:
        """x [T, K] times matrices [n, K], or u8 [n, 34 K/32] (`int8`), one under the other with N rows in all,
        plus bias [N] and add [T, N]: [T, N], in fp32 if `wide`."""
        rows, k = x.shape
        sizes = [weight.shape[0] for weight in weights]
        out = torch.empty(rows, sum(sizes), dtype=torch.float32 if wide else x.dtype)
        self._linear(
            self.level,
            torch.get_num_threads(),
            8 * x.element_size(),
            EIGHT_BITS if weights[0].dtype == torch.uint8 else FLOATS,
            rows,
            k,
            len(sizes),
            (LONG * len(sizes))(*sizes),
            (POINTER * len(sizes))(*(weight.data_ptr() for weight in weights)),
            x.data_ptr(),
            bias.data_ptr() if bias is not None else None,
            add.data_ptr() if add is not None else None,
            out.data_ptr(),
            wide,
        )
        return out

    def mixture(self, routed: Routed, layer: Layer, limit: float, x: Tensor) -> Tensor:
        t, ids, shares = routed
        rows, hidden = t.shape
        up, down = layer.mlp1, layer.mlp2
        experts, inner = down.blocks.shape[0], down.blocks.shape[2] * 32
        y = torch.empty_like(x)
        self._mixture(
            self.level,
            torch.get_num_threads(),
            8 * x.element_size(),
            rows,
            ids.shape[1],
            experts,
            hidden,
            inner,
            limit,
            t.data_ptr(),
            ids.data_ptr(),
            shares.data_ptr(),
            up.blocks.data_ptr(),
            up.scales.data_ptr(),
            up.bias.data_ptr(),
            down.blocks.data_ptr(),
            down.scales.data_ptr(),
            down.bias.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
        )
        return y


def ops(library: Library) -> Ops:
    attention = library.attention

    def qkv(x: Tensor, layer: Layer, rope: Rope, positions: Tensor, kv: LayerKV, slots: Tensor) -> Tensor:
        t = reference.rms_norm(x, layer.attn_norm)
        projected = library.linear(t, layer.qkv_parts, layer.qkv_bias)
        return attention.rotate(projected, rope, positions, kv, slots)

    def out(heard: Tensor, layer: Layer, x: Tensor) -> Tensor:
        return library.linear(heard.flatten(-2), (layer.out_weight,), layer.out_bias, x)

    def route(x: Tensor, layer: Layer, top: int) -> Routed:
        t = reference.rms_norm(x, layer.mlp_norm)
        return Routed(t, *attention.choose(library.linear(t, (layer.gate_weight,), layer.gate_bias), top))

    def experts(routed: Routed, layer: Layer, limit: float, x: Tensor) -> Tensor:
        if not layer.mlp1.blocks.numel():
            return cpu.experts(routed, layer, limit, x)
        return library.mixture(routed, layer, limit, x)

    def head(x: Tensor, model: Model, rows: Tensor) -> Tensor:
        t = reference.rms_norm(x.index_select(0, rows), model.norm)
        return library.linear(t, (model.unembedding,), wide=True)

    return Ops(qkv, attention.attend, out, route, experts, head, cpu.OPS.sample)
