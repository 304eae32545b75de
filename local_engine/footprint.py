"""What running a model takes in memory, term by term. Pure: nothing is loaded or asked of the system.

On a CPU the weights that keep their stored dtype are mapped, not copied, and what nobody has read or written
yet is not in memory: `Needs.peak_bytes` says what will be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_engine.config import ModelConfig
from local_engine.graphs import sizes_up_to
from local_engine.int8 import row_bytes
from local_engine.kv import BLOCK_TOKENS
from local_engine.machine import Device
from local_engine.model import DECODED_EXPERTS_BYTES, kv_block_bytes
from local_engine.ops import cpu
from local_engine.ops.attention import PARTS
from local_engine.scheduler import STEP_TOKENS
from local_engine.tensors import tensor_specs

if TYPE_CHECKING:
    import torch

CUDA_CONTEXT_BYTES = 512 << 20
"""What CUDA itself and its libraries take before anything is allocated."""

GRAPH_BYTES = 64 << 10
"""What the driver keeps of a recorded launch: an estimate, not measured."""

GRAPH_LAUNCHES = 8
"""Recorded launches a layer, with the few that are no layer's: counted on the generous side."""

PROCESS_BYTES = 450 << 20
"""The server without a model: Python, torch, the vocabulary. Measured with torch 2.13 for the CPU."""

FAULT_BYTES = 64 << 10
"""Around a page of a mapped file that is read for the first time, Linux maps this much."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes by purpose. `mapped_bytes` of the weights and experts are only page cache; `idle_bytes` of them
    are rows of the embedding that no token of the context looks up. The process takes `process_bytes` without
    a model.
    """

    device: Device
    dtype: str
    weights_bytes: int
    experts_bytes: int
    decoded_bytes: int
    kv_bytes: int
    workspace_bytes: int
    mapped_bytes: int
    idle_bytes: int = 0
    process_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Everything that the model adds, mapped or not: what must fit for full speed."""
        weights = self.weights_bytes + self.experts_bytes + self.decoded_bytes
        return weights + self.kv_bytes + self.workspace_bytes

    @property
    def committed_bytes(self) -> int:
        """What must fit for the process to live."""
        return self.total_bytes - self.mapped_bytes

    @property
    def peak_bytes(self) -> int:
        """The whole process at its largest: keys and values full, and every expert chosen at least once."""
        return self.process_bytes + self.total_bytes - self.idle_bytes

    def describe(self) -> str:
        """The sum with its terms, for a person."""
        terms = {
            f"weights ({self.dtype})": self.weights_bytes,
            "experts": self.experts_bytes,
            "decoded experts": self.decoded_bytes,
            "kv pool": self.kv_bytes,
            "workspace": self.workspace_bytes,
        }
        listed = " + ".join(f"{name} {size(value)}" for name, value in terms.items() if value)
        return f"{size(self.total_bytes)} ({listed})"


def needs(
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    *,
    full_blocks: int,
    window_blocks: int,
    context_tokens: int | None = None,
    max_running: int = 1,
    step_tokens: int = STEP_TOKENS,
    dense_experts: bool = False,
    dense_int8: bool = False,
    decoded_experts_bytes: int = DECODED_EXPERTS_BYTES,
    eager: bool = False,
) -> Needs:
    """What running a model takes. `dense_experts`: the checkpoint stores them decoded, in bf16.
    `dense_int8`: what `load_model` rounds with it. `eager`: plain torch operations, which copy the experts
    and the keys and values that they look at.

    The blocks are usable ones; the scratch block of each group is added here. `context_tokens` is the longest
    context, by default what the model was scaled for. An estimate for the workspace (activations of the
    largest step, logits and sampling state of every running sequence, the rope table), exact for the rest.
    """
    specs = list(tensor_specs(config))
    values = sum(math.prod(spec.shape) for spec in specs if spec.dtype == "BF16")
    packed = sum(spec.nbytes for spec in specs if spec.dtype == "U8")
    expert_values = 3 * config.num_hidden_layers * config.num_experts * _matrix(config)
    experts = expert_values * dtype.itemsize if dense_experts else packed
    decoded = 0 if dense_experts else expert_values * dtype.itemsize
    rounded, rounded_bytes = _rounded(config) if dense_int8 else (0, 0)
    stored = (values - rounded) * dtype.itemsize
    weights = stored + rounded_bytes
    as_stored = device == "cpu" and dtype.itemsize == 2
    mapped = stored if as_stored else 0
    mapped += experts if as_stored or (device == "cpu" and not dense_experts) else 0
    full, window = kv_block_bytes(config, dtype)
    context = config.max_context_tokens if context_tokens is None else context_tokens
    return Needs(
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=weights,
        experts_bytes=experts,
        decoded_bytes=decoded if decoded <= decoded_experts_bytes else 0,
        kv_bytes=(full_blocks + 1) * full + (window_blocks + 1) * window,
        workspace_bytes=_workspace_bytes(config, dtype, device, max_running, step_tokens, context, eager),
        mapped_bytes=mapped,
        idle_bytes=_idle_bytes(config, full_blocks * BLOCK_TOKENS) if as_stored else 0,
        process_bytes=PROCESS_BYTES if device == "cpu" else 0,
    )


def _rounded(config: ModelConfig) -> tuple[int, int]:
    """Weights that int8 stands in for, and its bytes: the matrices of attention, and the unembedding."""
    c = config
    matrices = [(c.qkv_rows, c.hidden_size), (c.hidden_size, c.q_rows)] * c.num_hidden_layers
    matrices.append((c.vocab_size, c.hidden_size))
    return sum(n * k for n, k in matrices), sum(n * row_bytes(k) for n, k in matrices)


def _matrix(config: ModelConfig) -> int:
    return config.hidden_size * config.intermediate_size


def _idle_bytes(config: ModelConfig, tokens: int) -> int:
    """Of a mapped embedding: what random `tokens` leave unread."""
    row = 2 * config.hidden_size
    table = row * config.vocab_size
    windows = table / FAULT_BYTES
    # A row that crosses a border brings two windows.
    hits = tokens * (1 + row / FAULT_BYTES)
    return int(table * math.exp(-hits / windows))


def _workspace_bytes(
    config: ModelConfig,
    dtype: torch.dtype,
    device: Device,
    max_running: int,
    step_tokens: int,
    context_tokens: int,
    eager: bool,
) -> int:
    c = config
    # Of a sequence: logits, two copies at work in sampling, counts of penalties, the mask.
    sampling = max_running * c.vocab_size * 4 * 4
    rope = context_tokens * c.head_dim * dtype.itemsize
    if device == "cpu" and not eager:
        # Of a step: the stream before and after and its norm, the projection, queries and what they heard,
        # and what the chosen experts make of it, once more as bytes.
        row = 3 * c.hidden_size + c.qkv_rows + 2 * c.q_rows + 2 * c.experts_per_token * c.intermediate_size
        partial = PARTS * max_running * c.num_attention_heads * (c.head_dim + 2) * 4
        return step_tokens * row * dtype.itemsize + partial + sampling + rope
    row = 2 * c.hidden_size + c.qkv_rows + c.q_rows
    row += c.experts_per_token * (3 * c.intermediate_size + 2 * c.hidden_size)
    activations = step_tokens * row * 4
    expert = 2 * 2 * _matrix(config) * dtype.itemsize
    if device == "cuda":
        return activations + sampling + rope + expert + CUDA_CONTEXT_BYTES + _graphs_bytes(c, max_running)
    gathered = 2 * max(cpu.GATHERED, context_tokens) * c.kv_rows * dtype.itemsize
    scores = 3 * c.num_attention_heads // c.num_key_value_heads * cpu.SCORES * dtype.itemsize
    return activations + sampling + rope + expert + gathered + scores


def _graphs_bytes(config: ModelConfig, max_running: int) -> int:
    """A recorded step keeps its logits and tokens; what it works with is one pool for all of them. Plain
    sampling works with fixed-point shares, their sums and gaps: 32 bytes a token beside sampling's own."""
    graphs = sizes_up_to(max_running)
    outputs = sum(graphs) * config.vocab_size * 4
    launches = len(graphs) * config.num_hidden_layers * GRAPH_LAUNCHES * GRAPH_BYTES
    return outputs + launches + max_running * config.vocab_size * 32


def size(count: int) -> str:
    """Bytes for a person."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"
