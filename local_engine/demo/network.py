"""The demo's model while it is trained: the same arithmetic as `reference`, batched and differentiable.

It has only the vocabulary rows that the corpus uses, and one more, the last, that stands for every other
token: as an input it is a word that the model does not know, as an output its logit counts as often as there
are such tokens, and more, so that none of them is ever likely. Experts are rounded to MXFP4 on every use, and
their gradient goes straight through the rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn.functional import linear

from local_engine import mxfp4
from local_engine.config import MXFP4_GROUP, ModelConfig
from local_engine.reference import rms_norm, rotate, swiglu, yarn
from local_engine.tensors import tensor_specs

RARER = 20.0
"""How many times more often than it really stands for a token the shared row counts in the loss."""

LOOKING_PAIRS = 9
"""Pairs that rotate at their unscaled frequency under YaRN: enough to tell a distance from every other."""
LOOKING_STRENGTH = 4.0

Tensors = dict[str, torch.Tensor]


def initial_parameters(config: ModelConfig, rows: int, generator: torch.Generator) -> Tensors:
    """fp32 parameters under the checkpoint's names, with experts unpacked and `rows` rows of vocabulary."""
    parameters: Tensors = {}
    for spec in tensor_specs(config):
        name, shape = spec.name, spec.shape
        if name.endswith(".scales"):
            continue
        if name.endswith(".blocks"):
            name, shape = name.removesuffix(".blocks"), (*shape[:2], shape[2] * MXFP4_GROUP)
        if name in ("embedding.weight", "unembedding.weight"):
            shape = (rows, config.hidden_size)
        if name.endswith("norm.scale"):
            values = torch.ones(shape)
        elif name.endswith(("bias", "sinks")):
            values = torch.zeros(shape)
        else:
            spread = 0.5 if name == "embedding.weight" else shape[-1] ** -0.5
            # What is added to the stream starts quiet.
            spread *= 0.3 if "attn.out" in name or "mlp2" in name else 1.0
            values = torch.randn(shape, generator=generator) * spread
        parameters[name] = values.requires_grad_()
    _look_back(parameters["block.0.attn.qkv.bias"], config)
    # A token that is read is then the likeliest to be said: what copies a word need not know which one it is.
    parameters["unembedding.weight"] = (parameters["embedding.weight"].detach() / 4).requires_grad_()
    return parameters


@torch.no_grad()
def _look_back(bias: torch.Tensor, config: ModelConfig) -> None:
    """Makes the first layer's first head begin with a look at exactly the token before.

    What is the same for every token leaves only RoPE: pair p of query and key adds cos((distance - 1) *
    frequency_p), which peaks at distance one for all pairs together. Copying is learnt from such a head.
    """
    half = config.head_dim // 2
    for pair in range(LOOKING_PAIRS):
        frequency = config.rope_theta ** (-pair / half)
        bias[pair] = LOOKING_STRENGTH * math.cos(frequency)
        bias[pair + half] = -LOOKING_STRENGTH * math.sin(frequency)
        bias[config.q_rows + pair] = LOOKING_STRENGTH


class Network:
    """The forward over parameters of `initial_parameters`.

    All is fp32 but the two products of attention, which are of `dtype`.
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Mapping[str, torch.Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._config = config
        self._parameters = parameters
        self._dtype = dtype
        self._inv_freq, self._concentration = yarn(config)

    def forward(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Tokens [B, T], as row numbers, to logits [n, rows] at the n places where `wanted` [B, T] is true.

        Shorter sequences are padded behind their end with anything: no place sees what comes after it.
        """
        p, c = self._parameters, self._config
        x = p["embedding.weight"][tokens]
        angles = torch.arange(tokens.shape[1])[:, None, None].float() * self._inv_freq
        rotation = (angles.cos() * self._concentration, angles.sin() * self._concentration)
        for n in range(c.num_hidden_layers):
            at = f"block.{n}."
            x = x + self._attention(at, rms_norm(x, p[at + "attn.norm.scale"]), rotation, c.window_of(n))
            if n == c.num_hidden_layers - 1:
                x = x[wanted]
            t = rms_norm(x, p[at + "mlp.norm.scale"]).reshape(-1, c.hidden_size)
            x = x + self._experts(at, t).reshape(x.shape)
        return linear(rms_norm(x, p["norm.scale"]), p["unembedding.weight"])

    def _attention(
        self, at: str, t: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], window: int | None
    ) -> torch.Tensor:
        p, c = self._parameters, self._config
        batch, length, _ = t.shape
        K, G, D = c.num_key_value_heads, c.num_attention_heads // c.num_key_value_heads, c.head_dim
        rows = linear(t, p[at + "attn.qkv.weight"], p[at + "attn.qkv.bias"])
        q, k, v = torch.split(rows, [c.q_rows, c.kv_rows, c.kv_rows], dim=-1)
        q = rotate(q.reshape(batch, length, -1, D), *rotation) * D**-0.5
        k = rotate(k.reshape(batch, length, -1, D), *rotation)
        # The sink is one more key, without a value, which each head sees through one more dimension.
        sinks = p[at + "attn.sinks"].reshape(K, G, 1, 1).expand(batch, K, G, length, 1)
        q = torch.cat([q.reshape(batch, length, K, G, D).permute(0, 2, 3, 1, 4), sinks], dim=-1)
        k = torch.nn.functional.pad(k.transpose(1, 2), (0, 1, 0, 1))
        v = torch.nn.functional.pad(v.reshape(batch, length, K, D).transpose(1, 2), (0, 0, 0, 1))
        k = k + sink_key(length, D)
        scores = torch.baddbmm(
            hidden(length, window, self._dtype).repeat(G, 1),
            q.reshape(batch * K, G * length, D + 1).to(self._dtype),
            k.reshape(batch * K, length + 1, D + 1).to(self._dtype).mT,
        )
        heard = torch.softmax(scores, dim=-1) @ v.reshape(batch * K, length + 1, D).to(self._dtype)
        heard = heard.reshape(batch, K, G, length, D).permute(0, 3, 1, 2, 4).reshape(batch, length, -1)
        return linear(heard.float(), p[at + "attn.out.weight"], p[at + "attn.out.bias"])

    def _experts(self, at: str, t: torch.Tensor) -> torch.Tensor:
        p, c = self._parameters, self._config
        logits = linear(t, p[at + "mlp.gate.weight"], p[at + "mlp.gate.bias"])
        best, ids = logits.topk(c.experts_per_token, dim=-1)
        weights = torch.softmax(best, dim=-1)
        first, second = rounded(p[at + "mlp.mlp1_weight"]), rounded(p[at + "mlp.mlp2_weight"])
        total = torch.zeros_like(t)
        for expert in range(c.num_experts):
            rows, slot = (ids == expert).nonzero(as_tuple=True)
            h = linear(t[rows], first[expert], p[at + "mlp.mlp1_bias"][expert])
            h = linear(swiglu(h, c.swiglu_limit), second[expert], p[at + "mlp.mlp2_bias"][expert])
            total = total.index_add(0, rows, h * weights[rows, slot, None])
        return total


def sink_key(length: int, head_dim: int) -> torch.Tensor:
    """[length + 1, head_dim + 1], zero but for a one in the corner."""
    key = torch.zeros(length + 1, head_dim + 1)
    key[-1, -1] = 1
    return key


def hidden(length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """[length, length + 1]: minus infinity where a place does not see another; all see the last, the sink."""
    i, j = torch.arange(length)[:, None], torch.arange(length + 1)[None, :]
    unseen = (j > i) if window is None else (j > i) | (j <= i - window)
    unseen[:, -1] = False
    return torch.zeros(length, length + 1, dtype=dtype).masked_fill(unseen, -math.inf)


def counted(logits: torch.Tensor, unused: int) -> torch.Tensor:
    """The logits as if the last row were there `unused` times, and `RARER` times more often."""
    more = torch.zeros(logits.shape[-1])
    more[-1] = math.log(unused * RARER)
    return logits + more


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """The nearest MXFP4 values; for the gradient it is as if nothing had been rounded."""
    with torch.no_grad():
        scaled, exponents = scaled_groups(weight)
        shift = (scaled * torch.exp2(exponents)).flatten(-2) - weight
    return weight + shift


def scaled_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """MXFP4 values [..., G, 32] and the exponent of each group [..., G, 1], of a matrix [..., 32 G].

    The exponent is the smallest under which the group's largest value is at most 6.
    """
    groups = weight.reshape(*weight.shape[:-1], -1, MXFP4_GROUP)
    largest = groups.abs().amax(dim=-1, keepdim=True).clamp(min=2.0**-60)
    exponents = torch.ceil(torch.log2(largest / mxfp4.MAGNITUDES[-1]))
    exact = groups * torch.exp2(-exponents)
    # Neighbours are half a unit apart below 2, a unit below 4, and two above.
    step = torch.where(exact.abs() < 2, 0.5, torch.where(exact.abs() < 4, 1.0, 2.0))
    return torch.round(exact / step) * step, exponents


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks u8 [..., G, 16] and scales u8 [..., G] as checkpoints hold them."""
    scaled, exponents = scaled_groups(weight)
    codes = torch.bucketize(scaled.abs(), torch.tensor(mxfp4.MAGNITUDES)) + 8 * (scaled < 0)
    codes = codes.to(torch.uint8)
    scales = (exponents + mxfp4.SCALE_BIAS).to(torch.uint8).squeeze(-1)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), scales
