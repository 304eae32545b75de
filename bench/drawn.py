"""Models that no file holds: random weights of a shape, drawn where they are to be used, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import torch

from local_engine.config import ModelConfig
from local_engine.model import Experts, Layer, Model, rope_table


class Drawing:
    """Draws tensors one after the other from one generator on the device."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self._dtype = dtype
        self._device = device
        self._generator = torch.Generator(device=device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Normally distributed values of a standard deviation."""
        drawn = torch.empty(shape, dtype=dtype or self._dtype, device=self._device)
        return drawn.normal_(0.0, scale, generator=self._generator)

    def bytes(self, *shape: int, low: int = 0, high: int = 256) -> torch.Tensor:
        """Bytes from `low` to `high` - 1."""
        drawn = torch.empty(shape, dtype=torch.uint8, device=self._device)
        return drawn.random_(low, high, generator=self._generator)

    def experts(self, count: int, rows: int, columns: int) -> Experts:
        """Packed matrices [count, rows, columns] that keep a vector's size."""
        # A uniform nibble has a standard deviation of about 2.6, and the scales 2^-8 to 2^-6 bring it to that
        # of a matrix which keeps the length of a vector of 2880.
        blocks = self.bytes(count, rows, columns // 32, 16)
        scales = self.bytes(count, rows, columns // 32, low=119, high=122)
        return Experts(blocks, scales, self.normal(count, rows, scale=0.1), None)

    def layer(self, c: ModelConfig) -> Layer:
        """One layer."""
        h = c.hidden_size
        return Layer(
            attn_norm=1 + self.normal(h, scale=0.1, dtype=torch.float32),
            qkv_parts=(self.normal(c.qkv_rows, h, scale=h**-0.5),),
            qkv_bias=self.normal(c.qkv_rows, scale=0.1),
            sinks=self.normal(c.num_attention_heads),
            out_weight=self.normal(h, c.q_rows, scale=c.q_rows**-0.5),
            out_bias=self.normal(h, scale=0.1),
            mlp_norm=1 + self.normal(h, scale=0.1, dtype=torch.float32),
            gate_weight=self.normal(c.num_experts, h, scale=2 * h**-0.5),
            gate_bias=self.normal(c.num_experts, scale=0.1),
            mlp1=self.experts(c.num_experts, 2 * c.intermediate_size, h),
            mlp2=self.experts(c.num_experts, h, c.intermediate_size),
        )


def drawn_model(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, *, positions: int, seed: int = 0
) -> Model:
    """A model whose rotations reach `positions` positions."""
    draw = Drawing(dtype, device, seed)
    return Model(
        config=config,
        dtype=dtype,
        device=device,
        embedding=draw.normal(config.vocab_size, config.hidden_size),
        unembedding=draw.normal(config.vocab_size, config.hidden_size, scale=config.hidden_size**-0.5),
        norm=1 + draw.normal(config.hidden_size, scale=0.1, dtype=torch.float32),
        layers=tuple(draw.layer(config) for _ in range(config.num_hidden_layers)),
        rope=rope_table(config, positions, dtype, device),
    )


def in_fp32(layer: Layer) -> Layer:
    """The same weights in fp32; experts stay packed, and are decoded to fp32 where they are used."""
    names = ("qkv_bias", "sinks", "out_weight", "out_bias", "gate_weight", "gate_bias")
    exact = {name: getattr(layer, name).float() for name in names}
    return replace(
        layer,
        **exact,
        qkv_parts=tuple(part.float() for part in layer.qkv_parts),
        mlp1=replace(layer.mlp1, bias=layer.mlp1.bias.float()),
        mlp2=replace(layer.mlp2, bias=layer.mlp2.bias.float()),
    )
