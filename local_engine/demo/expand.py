"""From the stored demo, `demo.safetensors`, to the tensors of a regular checkpoint.

Stored are the vocabulary rows that the corpus uses with their ids, and one row more, which every other token
gets. The rest is as in any checkpoint: bf16, experts as MXFP4.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open

from local_engine.config import ModelConfig
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.tensors import TensorSpec

STORED = Path(__file__).with_name("demo.safetensors")
IDS = "vocabulary.ids"
"""The ids, ascending, of the tokens that have a row of their own, in the order of the rows."""

DEMO_CONFIG = ModelConfig(
    num_hidden_layers=4,
    num_experts=8,
    experts_per_token=4,
    vocab_size=VOCABULARY_SIZE,
    hidden_size=64,
    intermediate_size=64,
    swiglu_limit=7.0,
    head_dim=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=128,
    initial_context_length=4096,
    rope_theta=150000.0,
    rope_scaling_factor=32.0,
    rope_ntk_alpha=1.0,
    rope_ntk_beta=32.0,
)


def demo_tensor(spec: TensorSpec, _generator: torch.Generator) -> torch.Tensor:
    """One tensor of the demo's checkpoint; nothing in it is drawn at random."""
    return expanded(spec, stored_tensors())


def expanded(spec: TensorSpec, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor `spec` from stored ones: as it is, or with a row for every token of the vocabulary."""
    if spec.name not in ("embedding.weight", "unembedding.weight"):
        return stored[spec.name]
    rows, ids = stored[spec.name], stored[IDS]
    whole = rows[-1].repeat(spec.shape[0], 1)
    whole[ids.long()] = rows[:-1]
    return whole


@lru_cache(maxsize=1)
def stored_tensors(path: Path = STORED) -> Mapping[str, torch.Tensor]:
    """All stored tensors: under the checkpoint's original names, and `IDS`."""
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def stored_metadata(path: Path = STORED) -> dict[str, str]:
    """How it was trained: seed, steps, final loss, version of the corpus."""
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata())
