"""What `inspect` says about a checkpoint, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from local_engine.checkpoint import Checkpoint
from local_engine.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of weights, biases, norms and sinks; `active` is what one token is multiplied with.

    The released models give 20.9 B / 3.6 B and 116.8 B / 5.1 B, as in the gpt-oss model card.
    """

    total: int
    active: int


def count_parameters(config: ModelConfig) -> Parameters:
    """Counts from the shapes. As in the model card, the unembedding is active and the embedding is not."""
    c = config
    attention = c.hidden_size + c.qkv_rows * (c.hidden_size + 1) + c.num_attention_heads
    attention += c.hidden_size * (c.q_rows + 1)
    router = c.hidden_size + c.num_experts * (c.hidden_size + 1)
    expert = 2 * c.intermediate_size * (c.hidden_size + 1) + c.hidden_size * (c.intermediate_size + 1)
    table = c.vocab_size * c.hidden_size
    outside = c.hidden_size + c.num_hidden_layers * (attention + router)
    return Parameters(
        total=2 * table + outside + c.num_hidden_layers * c.num_experts * expert,
        active=table + outside + c.num_hidden_layers * c.experts_per_token * expert,
    )


def inspect(checkpoint: Checkpoint) -> dict[str, Any]:
    """Format, sizes, origin and configuration; JSON-ready."""
    origin = checkpoint.origin
    if origin.preset is None:
        weights = "from elsewhere"
    elif origin.preset == "demo":
        weights = "a tiny model trained on made-up conversations: it answers small talk and knows nothing"
    else:
        weights = "random: the right shape, no meaning"
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "weights": weights,
        "preset": origin.preset,
        "seed": origin.seed,
        "fingerprint": checkpoint.fingerprint,
        "released_shape": checkpoint.config.released_name,
        "parameters": asdict(count_parameters(checkpoint.config)),
        "tensor_bytes": checkpoint.nbytes,
        "max_context_tokens": checkpoint.config.max_context_tokens,
        "config": checkpoint.config.to_original(),
    }
