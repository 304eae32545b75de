"""The checkpoints that can be made here: shapes, and where their tensors come from.

The demo's were trained; those of the other presets are random. Every tensor of theirs is drawn from a
generator seeded by (seed, its original name), so both formats of one preset and seed hold the same values,
and no tensor depends on the order in which they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from local_engine.config import ModelConfig
from local_engine.demo.expand import DEMO_CONFIG, demo_tensor
from local_engine.tensors import TensorSpec

Draw = Callable[[TensorSpec, torch.Generator], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Preset:
    """A name, a shape, and the function that draws one tensor of it."""

    name: str
    config: ModelConfig
    draw: Draw

    def tensor(self, spec: TensorSpec, seed: int) -> torch.Tensor:
        """The tensor `spec` of this preset under `seed`, in its stored dtype."""
        digest = hashlib.blake2b(f"{seed}/{spec.name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return self.draw(spec, generator)

    def cut_to(self, layers: int) -> Preset:
        """The same widths with so many layers, and a name that says so."""
        return Preset(
            f"{self.name}-{layers}-layers", replace(self.config, num_hidden_layers=layers), self.draw
        )


def random_tensor(spec: TensorSpec, generator: torch.Generator, scales: tuple[int, int]) -> torch.Tensor:
    """Norms near one, sinks and biases of order one or less, matrices that keep a vector's size.

    Packed experts get uniform nibbles; `scales` is the half-open range of their E8M0 exponents.
    """
    if spec.dtype == "U8":
        low, high = scales if spec.name.endswith("scales") else (0, 256)
        return torch.randint(low, high, spec.shape, dtype=torch.uint8, generator=generator)
    if spec.name.endswith("norm.scale"):
        spread, centre = 0.1, 1.0
    elif spec.name.endswith("sinks"):
        spread, centre = 1.0, 0.0
    elif spec.name.endswith("weight") and spec.name != "embedding.weight":
        spread, centre = spec.shape[-1] ** -0.5, 0.0
    else:
        spread, centre = 0.5, 0.0
    values = torch.empty(spec.shape, dtype=torch.bfloat16)
    return values.normal_(centre, spread, generator=generator)


def _tiny(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    # These exponents make the experts loud enough to hit both clamps of the swiglu.
    return random_tensor(spec, generator, (121, 125))


def _big(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    # A uniform nibble has a standard deviation of about 2.6, so 2^-7 keeps a vector of 2880 at its size.
    return random_tensor(spec, generator, (119, 122))


TINY = ModelConfig(
    num_hidden_layers=4,
    num_experts=8,
    experts_per_token=4,
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
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

GPT_OSS_20B = replace(
    TINY,
    num_hidden_layers=24,
    num_experts=32,
    vocab_size=201088,
    hidden_size=2880,
    intermediate_size=2880,
    num_attention_heads=64,
    num_key_value_heads=8,
)

GPT_OSS_120B = replace(GPT_OSS_20B, num_hidden_layers=36, num_experts=128)

PRESETS = {
    preset.name: preset
    for preset in (
        Preset("demo", DEMO_CONFIG, demo_tensor),
        Preset("tiny", TINY, _tiny),
        Preset("20b-shape", GPT_OSS_20B, _big),
        Preset("120b-shape", GPT_OSS_120B, _big),
    )
}
