"""gpt-oss in plain torch: slow, obvious, exact. Everything faster is proved against this file.

Follows openai/gpt-oss `gpt_oss/torch/model.py` step by step, rounding places included, so that it agrees
with the released implementation in bf16 as well as in fp32. Shapes: T tokens, H hidden, D head dimension,
N query heads, K key/value heads, S cached tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from local_engine import mxfp4
from local_engine.checkpoint import Checkpoint
from local_engine.config import ModelConfig

RMS_EPS = 1e-5
SWIGLU_ALPHA = 1.702


class KVCache:
    """Rotated keys and values of one sequence: per layer two tensors [S, K, D] in the model's dtype.

    Grows by doubling. Windowed layers keep everything too: this is the reference, not the fast path.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        shape = (64, config.num_key_value_heads, config.head_dim)
        self._keys = [torch.zeros(shape, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self._values = [torch.zeros(shape, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self.length = 0

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes k, v [T, K, D] behind what is there and returns all of the layer's keys and values.

        Does not advance `length`: the model does, once all layers have written.
        """
        end = self.length + k.shape[0]
        for store, new in ((self._keys, k), (self._values, v)):
            while store[layer].shape[0] < end:
                store[layer] = torch.cat([store[layer], torch.zeros_like(store[layer])])
            store[layer][self.length : end] = new
        return self._keys[layer][:end], self._values[layer][:end]


@dataclass(frozen=True, slots=True)
class Experts:
    """One layer's experts, packed as in the checkpoint: blocks u8 [E, R, G, 16], scales u8 [E, R, G]."""

    blocks: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor
    dtype: torch.dtype
    decoded: torch.Tensor | None

    def weight(self, expert: int) -> torch.Tensor:
        """One expert's matrix [R, 32 G]."""
        if self.decoded is not None:
            return self.decoded[expert]
        return mxfp4.decode(self.blocks[expert], self.scales[expert], self.dtype)


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, named as in the original checkpoint."""

    attn_norm: torch.Tensor
    qkv_weight: torch.Tensor
    qkv_bias: torch.Tensor
    sinks: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor
    mlp_norm: torch.Tensor
    gate_weight: torch.Tensor
    gate_bias: torch.Tensor
    mlp1: Experts
    mlp2: Experts


class ReferenceModel:
    """The whole model over a checkpoint.

    `dtype` is float32 or bfloat16. Experts stay packed and are decoded each time they are used, unless all of
    them together, decoded, fit in `decoded_experts_bytes`.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, *, decoded_experts_bytes: int = 256 << 20
    ) -> None:
        self.config = checkpoint.config
        self.dtype = dtype
        config = self.config
        values = (
            3 * config.num_hidden_layers * config.num_experts * config.hidden_size * config.intermediate_size
        )
        decode_now = values * dtype.itemsize <= decoded_experts_bytes
        self.embedding = checkpoint.tensor("embedding.weight").to(dtype)
        self.unembedding = checkpoint.tensor("unembedding.weight").to(dtype)
        self.norm = checkpoint.tensor("norm.scale").float()
        self.layers = [
            _load_layer(checkpoint, f"block.{n}.", dtype, decode_now) for n in range(config.num_hidden_layers)
        ]
        self._inv_freq, self._concentration = yarn(config)

    def new_cache(self) -> KVCache:
        """An empty cache for one sequence."""
        return KVCache(self.config, self.dtype)

    @torch.inference_mode()
    def forward(self, tokens: list[int], cache: KVCache, *, last_only: bool = False) -> torch.Tensor:
        """Runs T tokens behind what the cache holds. Returns fp32 logits [T, V], or [1, V] for the last."""
        x = self.embedding[torch.tensor(tokens)]
        positions = torch.arange(cache.length, cache.length + len(tokens))
        cos, sin = self._rotation(positions)
        for n, layer in enumerate(self.layers):
            x = x + self._attention(layer, n, rms_norm(x, layer.attn_norm), cos, sin, cache)
            x = x + self._experts(layer, rms_norm(x, layer.mlp_norm))
        cache.length += len(tokens)
        x = rms_norm(x[-1:] if last_only else x, self.norm)
        return linear(x, self.unembedding).float()

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [T, 1, D/2]: computed in fp32, then rounded to the model's dtype like the original."""
        angles = positions[:, None, None].float() * self._inv_freq
        return (
            (angles.cos() * self._concentration).to(self.dtype),
            (angles.sin() * self._concentration).to(self.dtype),
        )

    def _attention(
        self,
        layer: Layer,
        n: int,
        t: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: KVCache,
    ) -> torch.Tensor:
        config = self.config
        rows = linear(t, layer.qkv_weight, layer.qkv_bias)
        q, k, v = torch.split(rows, [config.q_rows, config.kv_rows, config.kv_rows], dim=-1)
        q = rotate(q.reshape(-1, config.num_attention_heads, config.head_dim), cos, sin)
        k = rotate(k.reshape(-1, config.num_key_value_heads, config.head_dim), cos, sin)
        v = v.reshape(-1, config.num_key_value_heads, config.head_dim)
        keys, values = cache.extend(n, k, v)
        heard = attend(q, keys, values, layer.sinks, config.window_of(n))
        return linear(heard.flatten(-2), layer.out_weight, layer.out_bias)

    def _experts(self, layer: Layer, t: torch.Tensor) -> torch.Tensor:
        ids, weights = route(t, layer.gate_weight, layer.gate_bias, self.config.experts_per_token)
        total = torch.zeros_like(t)
        for expert in sorted(set(ids.flatten().tolist())):
            rows, slot = (ids == expert).nonzero(as_tuple=True)
            h = linear(t[rows], layer.mlp1.weight(expert), layer.mlp1.bias[expert])
            out = linear(
                swiglu(h, self.config.swiglu_limit), layer.mlp2.weight(expert), layer.mlp2.bias[expert]
            )
            total.index_add_(0, rows, out * weights[rows, slot, None])
        return total


def rms_norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalises and scales [..., H] in fp32, and only then rounds to x's dtype (unlike Llama)."""
    t = x.float()
    return (t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + RMS_EPS) * scale).to(x.dtype)


def yarn(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Inverse frequencies fp32 [D/2], factor on cos and sin. YaRN (arXiv 2309.00071), bounds unrounded."""
    half = config.head_dim // 2
    freq = config.rope_theta ** (torch.arange(half, dtype=torch.float32) / half)
    if config.rope_scaling_factor == 1:
        return 1 / freq, 1.0

    def bound(rotations: float) -> float:
        return (
            half
            * math.log(config.initial_context_length / (rotations * 2 * math.pi))
            / math.log(config.rope_theta)
        )

    low, high = bound(config.rope_ntk_beta), bound(config.rope_ntk_alpha)
    ramp = ((torch.arange(half, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    inv_freq = ramp / (config.rope_scaling_factor * freq) + (1 - ramp) / freq
    return inv_freq, 0.1 * math.log(config.rope_scaling_factor) + 1


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates [T, heads, D]; pair i is (i, i + D/2), not (2i, 2i + 1)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sinks: torch.Tensor, window: int | None
) -> torch.Tensor:
    """q [T, N, D] are the last T of the S positions of keys, values [S, K, D]; returns [T, N, D].

    Position i sees max(0, i - window + 1) .. i. The sink takes part in the softmax like a key of its own,
    unscaled and without a value.
    """
    length, start = keys.shape[0], keys.shape[0] - q.shape[0]
    first = 0 if window is None else max(0, start - window + 1)
    i = torch.arange(start, length, device=q.device)[:, None]
    j = torch.arange(first, length, device=q.device)[None, :]
    hidden = j > i
    if window is not None:
        hidden = hidden | (j <= i - window)
    group = q.shape[1] // keys.shape[1]
    heard = []
    # One key/value head and its query heads at a time: scores are the largest thing here.
    for head in range(keys.shape[1]):
        mine = slice(head * group, (head + 1) * group)
        scores = torch.einsum("tnd,sd->nts", q[:, mine], keys[first:, head]) * q.shape[-1] ** -0.5
        column = sinks[mine, None, None].expand(-1, q.shape[0], 1)
        shares = torch.softmax(torch.cat([scores.masked_fill(hidden, -math.inf), column], dim=-1), dim=-1)
        heard.append(torch.einsum("nts,sd->tnd", shares[..., :-1], values[first:, head]))
    return torch.cat(heard, dim=1)


def route(
    t: torch.Tensor, gate_weight: torch.Tensor, gate_bias: torch.Tensor, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Expert ids [T, top] and their weights [T, top]: softmax over the chosen logits only."""
    logits, ids = linear(t, gate_weight, gate_bias).topk(top, dim=-1)
    return ids, torch.softmax(logits, dim=-1)


def swiglu(h: torch.Tensor, limit: float) -> torch.Tensor:
    """[..., 2I] -> [..., I]. Gate and linear are interleaved; the gate has no lower clamp."""
    gate = h[..., 0::2].clamp(max=limit)
    linear = h[..., 1::2].clamp(min=-limit, max=limit)
    return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (linear + 1)


def _load_layer(checkpoint: Checkpoint, at: str, dtype: torch.dtype, decode_now: bool) -> Layer:
    def dense(name: str) -> torch.Tensor:
        return checkpoint.tensor(at + name).to(dtype)

    def experts(name: str) -> Experts:
        blocks = checkpoint.tensor(f"{at}mlp.{name}_weight.blocks")
        scales = checkpoint.tensor(f"{at}mlp.{name}_weight.scales")
        decoded = mxfp4.decode(blocks, scales, dtype) if decode_now else None
        return Experts(blocks, scales, dense(f"mlp.{name}_bias"), dtype, decoded)

    return Layer(
        attn_norm=checkpoint.tensor(at + "attn.norm.scale").float(),
        qkv_weight=dense("attn.qkv.weight"),
        qkv_bias=dense("attn.qkv.bias"),
        sinks=dense("attn.sinks"),
        out_weight=dense("attn.out.weight"),
        out_bias=dense("attn.out.bias"),
        mlp_norm=checkpoint.tensor(at + "mlp.norm.scale").float(),
        gate_weight=dense("mlp.gate.weight"),
        gate_bias=dense("mlp.gate.bias"),
        mlp1=experts("mlp1"),
        mlp2=experts("mlp2"),
    )
