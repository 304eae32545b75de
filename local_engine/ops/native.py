"""The host's operations in C++: weights are multiplied as they lie in the checkpoint, on torch's threads.

In bf16, few rows are rounded to bytes where weights are packed, as llama.cpp does; many rows, and everything
in fp32, are multiplied with decoded weights. Threads share rows of weights and never sums, so a result does
not depend on their number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from local_engine.ops import Ops, Routed, cpu
from local_engine.ops.attention import Attention

if TYPE_CHECKING:
    from torch import Tensor

    from local_engine.batch import LayerKV
    from local_engine.model import Layer, Model, Rope

POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
FLOATS, PACKED, EIGHT_BITS = range(3)
"""As `Kind` in cpu.cpp."""

PORTABLE, AVX2, AVX512 = range(3)
"""Instruction sets, as `best_set` in cpu.cpp has them."""


class Library:
    """The kernels behind `compiled.load`, for contiguous tensors of one dtype, fp32 or bf16.

    `level` is the instruction set, by default the best that the processor has.
    """

    def __init__(self, kernels: ctypes.CDLL, level: int | None = None) -> None:
        self._norm, self._linear, self._mixture = kernels.norm, kernels.linear, kernels.mixture
        self._norm.argtypes = [INT] * 3 + [LONG] * 2 + [POINTER] * 3
        self._linear.argtypes = [INT] * 4 + [LONG] * 3 + [POINTER] * 6 + [INT]
        self._mixture.argtypes = [INT] * 3 + [LONG] * 5 + [ctypes.c_float] + [POINTER] * 11
        for function in (self._norm, self._linear, self._mixture):
            function.restype = None
        self.level: int = kernels.best_set() if level is None else level
        self.attention = Attention(kernels, self.level)

    def norm(self, x: Tensor, scale: Tensor) -> Tensor:
        """`reference.rms_norm` of x [T, H] with scale f32 [H]."""
        rows, width = x.shape
        out = torch.empty_like(x)
        self._norm(
            self.level,
            torch.get_num_threads(),
            8 * x.element_size(),
            rows,
            width,
            x.data_ptr(),
            scale.data_ptr(),
            out.data_ptr(),
        )
        return out

    def linear(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        bias: Tensor | None = None,
        add: Tensor | None = None,
        *,
        wide: bool = False,
    ) -> Tensor:
        """x [T, K] times matrices [n, K] of x's dtype, or u8 [n, 34 G] as `int8` has them, one under the
        other with N rows in all, plus bias [N] and add [T, N]: [T, N], in fp32 if `wide`."""
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
            None if bias is None else bias.data_ptr(),
            None if add is None else add.data_ptr(),
            out.data_ptr(),
            wide,
        )
        return out

    def mixture(self, routed: Routed, layer: Layer, limit: float, x: Tensor) -> Tensor:
        """See `Ops.experts`, for packed experts."""
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
    """The operations of a model on the host, in fp32 or bf16, its dense matrices in that or as int8."""
    attention = library.attention

    def qkv(x: Tensor, layer: Layer, rope: Rope, positions: Tensor, kv: LayerKV, slots: Tensor) -> Tensor:
        t = library.norm(x, layer.attn_norm)
        projected = library.linear(t, layer.qkv_parts, layer.qkv_bias)
        return attention.rotate(projected, rope, positions, kv, slots)

    def out(heard: Tensor, layer: Layer, x: Tensor) -> Tensor:
        return library.linear(heard.flatten(-2), (layer.out_weight,), layer.out_bias, x)

    def route(x: Tensor, layer: Layer, top: int) -> Routed:
        t = library.norm(x, layer.mlp_norm)
        return Routed(t, *attention.choose(library.linear(t, (layer.gate_weight,), layer.gate_bias), top))

    def experts(routed: Routed, layer: Layer, limit: float, x: Tensor) -> Tensor:
        # Of a checkpoint that stores them decoded there is nothing to multiply packed.
        mixture = library.mixture if layer.mlp1.blocks.numel() else cpu.experts
        return mixture(routed, layer, limit, x)

    def head(x: Tensor, model: Model, rows: Tensor) -> Tensor:
        t = library.norm(x.index_select(0, rows), model.norm)
        return library.linear(t, (model.unembedding,), wide=True)

    return Ops(qkv, attention.attend, out, route, experts, head, cpu.OPS.sample)
