"""Which tensors a model has, and what each checkpoint format calls them, as data.

The names used everywhere in this package are those of the original checkpoint. The Hugging Face form renames
them and keeps q, k and v apart; the packed MXFP4 bytes are the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from local_engine.config import MXFP4_GROUP, Format, ModelConfig

HF_GLOBAL = {
    "embedding.weight": "model.embed_tokens.weight",
    "unembedding.weight": "lm_head.weight",
    "norm.scale": "model.norm.weight",
}

HF_BLOCK = {
    "attn.norm.scale": "input_layernorm.weight",
    "attn.sinks": "self_attn.sinks",
    "attn.out.weight": "self_attn.o_proj.weight",
    "attn.out.bias": "self_attn.o_proj.bias",
    "mlp.norm.scale": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.router.weight",
    "mlp.gate.bias": "mlp.router.bias",
    "mlp.mlp1_weight.blocks": "mlp.experts.gate_up_proj_blocks",
    "mlp.mlp1_weight.scales": "mlp.experts.gate_up_proj_scales",
    "mlp.mlp1_bias": "mlp.experts.gate_up_proj_bias",
    "mlp.mlp2_weight.blocks": "mlp.experts.down_proj_blocks",
    "mlp.mlp2_weight.scales": "mlp.experts.down_proj_scales",
    "mlp.mlp2_bias": "mlp.experts.down_proj_bias",
}

HF_QKV = {
    "attn.qkv.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "attn.qkv.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
}

HF_DENSE = {
    "mlp.mlp1_weight": "mlp.experts.gate_up_proj",
    "mlp.mlp2_weight": "mlp.experts.down_proj",
}
"""Experts that a fine-tuning tool stored decoded: [E, columns, rows], the other way round than packed
ones.
"""

DTYPE_BYTES = {"BF16": 2, "U8": 1, "F16": 2, "F32": 4}
DENSE_DTYPES = ("BF16", "F16", "F32")
"""What stands in for `BF16` when a tool stored a tensor in another float."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and safetensors dtype of one tensor: `BF16` or `U8` as released, `F16` or `F32` as
    found.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size on disk in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def tensor_specs(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor of the model, in original names, in file order."""
    c = config
    yield TensorSpec("embedding.weight", (c.vocab_size, c.hidden_size), "BF16")
    for n in range(c.num_hidden_layers):
        for name, (shape, dtype) in _block(c).items():
            yield TensorSpec(f"block.{n}.{name}", shape, dtype)
    yield TensorSpec("norm.scale", (c.hidden_size,), "BF16")
    yield TensorSpec("unembedding.weight", (c.vocab_size, c.hidden_size), "BF16")


def stored_as(spec: TensorSpec, config: ModelConfig, form: Format) -> list[TensorSpec]:
    """The tensor or tensors that hold `spec` in a form; several are its rows in order."""
    if form == "original":
        return [spec]
    if spec.name in HF_GLOBAL:
        return [TensorSpec(HF_GLOBAL[spec.name], spec.shape, spec.dtype)]
    _, n, name = spec.name.split(".", 2)
    at = f"model.layers.{n}."
    if name in HF_QKV:
        rows = (config.q_rows, config.kv_rows, config.kv_rows)
        return [
            TensorSpec(at + part, (count, *spec.shape[1:]), spec.dtype)
            for part, count in zip(HF_QKV[name], rows, strict=True)
        ]
    return [TensorSpec(at + HF_BLOCK[name], spec.shape, spec.dtype)]


def dense_experts(config: ModelConfig) -> Iterator[tuple[str, TensorSpec]]:
    """The decoded experts of every layer, which only the Hugging Face form has: original stem, and spec."""
    c = config
    shapes = {
        "mlp.mlp1_weight": (c.num_experts, c.hidden_size, 2 * c.intermediate_size),
        "mlp.mlp2_weight": (c.num_experts, c.intermediate_size, c.hidden_size),
    }
    for n in range(c.num_hidden_layers):
        for stem, shape in shapes.items():
            yield f"block.{n}.{stem}", TensorSpec(f"model.layers.{n}.{HF_DENSE[stem]}", shape, "BF16")


def _block(c: ModelConfig) -> Mapping[str, tuple[tuple[int, ...], str]]:
    experts, hidden, inner = c.num_experts, c.hidden_size, c.intermediate_size
    return {
        "attn.norm.scale": ((hidden,), "BF16"),
        "attn.qkv.weight": ((c.qkv_rows, hidden), "BF16"),
        "attn.qkv.bias": ((c.qkv_rows,), "BF16"),
        "attn.sinks": ((c.num_attention_heads,), "BF16"),
        "attn.out.weight": ((hidden, c.q_rows), "BF16"),
        "attn.out.bias": ((hidden,), "BF16"),
        "mlp.norm.scale": ((hidden,), "BF16"),
        "mlp.gate.weight": ((experts, hidden), "BF16"),
        "mlp.gate.bias": ((experts,), "BF16"),
        "mlp.mlp1_weight.blocks": ((experts, 2 * inner, hidden // MXFP4_GROUP, 16), "U8"),
        "mlp.mlp1_weight.scales": ((experts, 2 * inner, hidden // MXFP4_GROUP), "U8"),
        "mlp.mlp1_bias": ((experts, 2 * inner), "BF16"),
        "mlp.mlp2_weight.blocks": ((experts, hidden, inner // MXFP4_GROUP, 16), "U8"),
        "mlp.mlp2_weight.scales": ((experts, hidden, inner // MXFP4_GROUP), "U8"),
        "mlp.mlp2_bias": ((experts, hidden), "BF16"),
    }
