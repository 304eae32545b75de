"""Bytes that a decoded token reads, by where they are: what a rate has to be held against.

Weights once, of the experts those that a token chose, of the embedding one row, keys and values of what the
token sees. A value takes two bytes in bf16; in int8 32 values and their factor take 34, which is also ggml's
Q8_0. The router, norms, biases and sinks stay as they are stored: together they are a thousandth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from local_engine.config import ModelConfig
from local_engine.tensors import TensorSpec, tensor_specs

Dense = Literal["bf16", "int8"]
QUANTIZED = ("attn.qkv.weight", "attn.out.weight", "unembedding.weight")
GROUP, GROUP_BYTES = 32, 34
KV_BYTES = 2


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one token at batch 1: of each stage over all layers, and of the head."""

    qkv: int
    attend: int
    out: int
    route: int
    experts: int
    head: int

    @property
    def total(self) -> int:
        return self.qkv + self.attend + self.out + self.route + self.experts + self.head


def traffic(config: ModelConfig, dense: Dense, context_tokens: int) -> Traffic:
    """Of a token behind `context_tokens`."""
    found = dict.fromkeys(("qkv", "attend", "out", "route", "experts", "head"), 0)
    for spec in tensor_specs(config):
        found[stage_of(spec.name)] += _read(config, spec, dense)
    for layer in range(config.num_hidden_layers):
        seen = min(context_tokens, config.window_of(layer) or context_tokens)
        found["attend"] += 2 * seen * config.kv_rows * KV_BYTES
    return Traffic(**found)


def stage_of(name: str) -> str:
    """Which operation reads a tensor."""
    if not name.startswith("block."):
        return "qkv" if name == "embedding.weight" else "head"
    match name.split(".")[2:]:
        case ["attn", "norm" | "qkv", *_]:
            return "qkv"
        case ["attn", "sinks"]:
            return "attend"
        case ["attn", "out", _]:
            return "out"
        case ["mlp", "norm" | "gate", *_]:
            return "route"
    return "experts"


def _read(config: ModelConfig, spec: TensorSpec, dense: Dense) -> int:
    if spec.name == "embedding.weight":
        return spec.nbytes // config.vocab_size
    if ".mlp.mlp" in spec.name:
        return spec.nbytes * config.experts_per_token // config.num_experts
    if spec.name.endswith(QUANTIZED) and dense == "int8":
        rows, columns = spec.shape
        return rows * columns // GROUP * GROUP_BYTES
    return spec.nbytes
