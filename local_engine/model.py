"""gpt-oss over a batch: weights where they are to be used, paged keys and values, and the forward pass.

The arithmetic is in `ops`; what it must come to is in `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from local_engine import int8, mxfp4, reference
from local_engine.batch import Batch, LayerKV
from local_engine.checkpoint import Checkpoint
from local_engine.config import ModelConfig
from local_engine.kv import BLOCK_TOKENS
from local_engine.ops import Ops

DECODED_EXPERTS_BYTES = 256 << 20
"""Experts no larger than this once decoded are decoded when the model is loaded."""

Progress = Callable[[str, int], None]
"""Told of each tensor once it is where it belongs: its name, and its bytes in the checkpoint."""


@dataclass(frozen=True, slots=True)
class Experts:
    """One projection of one layer's E experts, packed as in the checkpoint: blocks u8 [E, R, G, 16], scales
    u8 [E, R, G], bias [E, R]; `decoded` [E, R, 32 G] holds the same in the bias's dtype, if there is room.
    Of a checkpoint that stores them decoded, blocks and scales are empty and `decoded` is all there is.
    """

    blocks: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor
    decoded: torch.Tensor | None

    def weight(self, expert: int) -> torch.Tensor:
        """One expert's matrix [R, 32 G]."""
        if self.decoded is not None:
            return self.decoded[expert]
        return mxfp4.decode(self.blocks[expert], self.scales[expert], self.bias.dtype)

    def weights(self, ids: torch.Tensor) -> torch.Tensor:
        """The matrices [n, R, 32 G] of experts chosen on the device, ids i64 [n]."""
        if self.decoded is not None:
            return self.decoded.index_select(0, ids)
        blocks, scales = self.blocks.index_select(0, ids), self.scales.index_select(0, ids)
        return mxfp4.decode(blocks, scales, self.bias.dtype)


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, named as in the original checkpoint: norms fp32, all else in the model's dtype.
    The matrices of attention, without their biases, may be u8 instead, as `int8` has them.

    `qkv_parts` are one matrix, or those of queries, keys and values, which the Hugging Face form keeps apart:
    joining them where they are mapped would copy them.
    """

    attn_norm: torch.Tensor
    qkv_parts: tuple[torch.Tensor, ...]
    qkv_bias: torch.Tensor
    sinks: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor
    mlp_norm: torch.Tensor
    gate_weight: torch.Tensor
    gate_bias: torch.Tensor
    mlp1: Experts
    mlp2: Experts

    @property
    def qkv_weight(self) -> torch.Tensor:
        """All of `qkv_parts` in one matrix [rows, H]: a copy where there are several."""
        return self.qkv_parts[0] if len(self.qkv_parts) == 1 else torch.cat(self.qkv_parts)


@dataclass(frozen=True, slots=True)
class Rope:
    """cos and sin [positions, 1, D/2]: computed in fp32, rounded to the model's dtype like the original's."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True)
class Model:
    """All weights, on one device; the unembedding may be u8 instead of `dtype`, as `int8` has it. `rope` has
    a row for every position up to the longest allowed context."""

    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    embedding: torch.Tensor
    unembedding: torch.Tensor
    norm: torch.Tensor
    layers: tuple[Layer, ...]
    rope: Rope


@dataclass(frozen=True, slots=True)
class KV:
    """The pools of all layers; even layers share the numbering of the window group's blocks, odd layers that
    of the full group's."""

    layers: tuple[LayerKV, ...]

    def layer(self, n: int) -> LayerKV:
        """The pool of layer `n`."""
        return self.layers[n]


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    max_context_tokens: int,
    decoded_experts_bytes: int = DECODED_EXPERTS_BYTES,
    dense_int8: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Reads a checkpoint tensor by tensor, so that nothing is on the host twice.

    A tensor that is already in `dtype` on `device` stays a view of the mapped file. Experts stay packed; they
    are decoded beside that only if all of them together, decoded, fit in `decoded_experts_bytes`. With
    `dense_int8` the matrices of attention and the unembedding are rounded to int8, for `ops.native`.
    """
    config, device = checkpoint.config, torch.device(device)
    values = 3 * config.num_hidden_layers * config.num_experts * config.hidden_size * config.intermediate_size
    decode = values * dtype.itemsize <= decoded_experts_bytes

    def load(name: str, to: torch.dtype = dtype) -> torch.Tensor:
        stored = checkpoint.tensor(name)
        placed = stored.to(device=device, dtype=to)
        if progress is not None:
            progress(name, stored.nbytes)
        return placed

    def dense(name: str) -> torch.Tensor:
        if not dense_int8:
            return load(name)
        stored = checkpoint.tensor(name)
        rounded = int8.encode(stored)
        if progress is not None:
            progress(name, stored.nbytes)
        return rounded

    def apart(name: str) -> tuple[torch.Tensor, ...]:
        if dense_int8:
            return (dense(name),)
        parts = checkpoint.parts(name)
        if device.type != "cpu" or any(part.dtype != dtype for part in parts):
            return (load(name),)
        if progress is not None:
            progress(name, sum(part.nbytes for part in parts))
        return tuple(parts)

    def experts(name: str) -> Experts:
        if f"{name}_weight" in checkpoint.dense:
            _, n, _, matrix = name.split(".")
            stored = checkpoint.experts(int(n), matrix)
            assert isinstance(stored, torch.Tensor), "a dense checkpoint gives its experts as one tensor"
            if progress is not None:
                progress(f"{name}_weight", stored.nbytes)
            none = torch.empty(0, dtype=torch.uint8, device=device)
            return Experts(none, none, load(f"{name}_bias"), stored.to(device=device, dtype=dtype))
        blocks, scales = (load(f"{name}_weight.{part}", torch.uint8) for part in ("blocks", "scales"))
        decoded = mxfp4.decode(blocks, scales, dtype) if decode else None
        return Experts(blocks, scales, load(f"{name}_bias"), decoded)

    def layers() -> Iterator[Layer]:
        for at in (f"block.{n}." for n in range(config.num_hidden_layers)):
            yield Layer(
                attn_norm=load(at + "attn.norm.scale", torch.float32),
                qkv_parts=apart(at + "attn.qkv.weight"),
                qkv_bias=load(at + "attn.qkv.bias"),
                sinks=load(at + "attn.sinks"),
                out_weight=dense(at + "attn.out.weight"),
                out_bias=load(at + "attn.out.bias"),
                mlp_norm=load(at + "mlp.norm.scale", torch.float32),
                gate_weight=load(at + "mlp.gate.weight"),
                gate_bias=load(at + "mlp.gate.bias"),
                mlp1=experts(at + "mlp.mlp1"),
                mlp2=experts(at + "mlp.mlp2"),
            )

    return Model(
        config=config,
        dtype=dtype,
        device=device,
        embedding=load("embedding.weight"),
        layers=tuple(layers()),
        norm=load("norm.scale", torch.float32),
        unembedding=dense("unembedding.weight"),
        rope=rope_table(config, max_context_tokens, dtype, device),
    )


def new_kv(model: Model, full_blocks: int, window_blocks: int) -> KV:
    """Empty pools; both counts include the scratch block 0. On the host, memory that nobody has written yet
    is only promised."""
    config = model.config

    def pool(blocks: int) -> torch.Tensor:
        shape = (blocks, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
        if model.device.type != "cpu":
            return torch.zeros(shape, dtype=model.dtype, device=model.device)
        # Zeros of torch are written; numpy's come from the system, which gives a page on its first use.
        promised = np.zeros(math.prod(shape) * model.dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(promised).view(model.dtype).view(shape)

    counts = (
        full_blocks if config.window_of(n) is None else window_blocks for n in range(config.num_hidden_layers)
    )
    return KV(tuple(LayerKV(pool(blocks), pool(blocks)) for blocks in counts))


def kv_block_bytes(config: ModelConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of one block in all layers of its group: (full, window)."""
    one = 2 * BLOCK_TOKENS * config.kv_rows * dtype.itemsize
    full = sum(config.window_of(n) is None for n in range(config.num_hidden_layers))
    return full * one, (config.num_hidden_layers - full) * one


@torch.inference_mode()
def forward(model: Model, batch: Batch, kv: KV, ops: Ops) -> torch.Tensor:
    """One step of every row of the batch: writes its keys and values, and returns the logits f32 [R, V] of
    `batch.rows`."""
    config = model.config
    x = model.embedding.index_select(0, batch.tokens)
    for n, layer in enumerate(model.layers):
        window, pool = config.window_of(n), kv.layer(n)
        group = batch.full if window is None else batch.window
        q = ops.qkv(x, layer, model.rope, batch.positions, pool, group.slots)
        heard = ops.attend(q, pool, group, batch, layer.sinks, window)
        x = ops.out(heard, layer, x)
        routed = ops.route(x, layer, config.experts_per_token)
        x = ops.experts(routed, layer, config.swiglu_limit, x)
    return ops.head(x, model, batch.rows)


def rope_table(config: ModelConfig, positions: int, dtype: torch.dtype, device: torch.device) -> Rope:
    """The rotation of the first `positions` positions."""
    inv_freq, concentration = reference.yarn(config)
    angles = torch.arange(positions)[:, None, None].float() * inv_freq
    cos, sin = (
        (part * concentration).to(device=device, dtype=dtype) for part in (angles.cos(), angles.sin())
    )
    return Rope(cos, sin)
