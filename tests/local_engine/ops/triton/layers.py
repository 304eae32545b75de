"""One layer's norm, router and experts, drawn at any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from local_engine import mxfp4
from local_engine.model import Experts, Layer


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: experts, chosen of them, hidden and intermediate width."""

    experts: int
    top: int
    hidden: int
    inner: int


def drawn_layer(shape: Shape, *, seed: int = 0, decoded: bool = False) -> Layer:
    """Weights whose sums are of the order of 10, so that both clamps of the swiglu at 7 are hit."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw)

    def experts(rows: int, columns: int) -> Experts:
        groups = columns // 32
        blocks = torch.randint(256, (shape.experts, rows, groups, 16), generator=draw, dtype=torch.uint8)
        scales = torch.randint(122, 126, (shape.experts, rows, groups), generator=draw, dtype=torch.uint8)
        bias = normal(shape.experts, rows)
        if not decoded:
            return Experts(blocks, scales, bias, None)
        nothing = torch.empty(0, dtype=torch.uint8)
        return Experts(nothing, nothing, bias, mxfp4.decode(blocks, scales, torch.float32))

    nothing = torch.empty(0)
    return Layer(
        attn_norm=nothing,
        qkv_parts=(nothing,),
        qkv_bias=nothing,
        sinks=nothing,
        out_weight=nothing,
        out_bias=nothing,
        mlp_norm=normal(shape.hidden).exp(),
        gate_weight=normal(shape.experts, shape.hidden),
        gate_bias=normal(shape.experts),
        mlp1=experts(2 * shape.inner, shape.hidden),
        mlp2=experts(shape.hidden, shape.inner),
    )
