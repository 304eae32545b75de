"""The stored demo as a reference model over the small vocabulary, and many samples of it at once.

The last row stands for every token that has none of its own: its logit counts once for each of them, which
gives exactly the shares of the whole vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.nn.functional import linear

from local_engine.config import ModelConfig
from local_engine.demo.expand import DEMO_CONFIG, IDS
from local_engine.harmony.tokens import STOP_TOKENS, VOCABULARY_SIZE
from local_engine.reference import ReferenceModel, rms_norm, rotate, route, swiglu, yarn


@dataclass(frozen=True)
class _Stored:
    """As much of a checkpoint as the reference model asks for."""

    config: ModelConfig
    tensors: Mapping[str, torch.Tensor]

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]


class Compact:
    """Token ids in and out; -1 is a token without a row."""

    def __init__(self, stored: Mapping[str, torch.Tensor], config: ModelConfig = DEMO_CONFIG) -> None:
        self.ids: list[int] = stored[IDS].tolist()
        self._row = {token: row for row, token in enumerate(self.ids)}
        checkpoint = _Stored(replace(config, vocab_size=len(self.ids) + 1), stored)
        self.model = ReferenceModel(cast(Any, checkpoint), torch.float32)
        self.unused = VOCABULARY_SIZE - len(self.ids)

    def rows(self, tokens: Sequence[int]) -> list[int]:
        """The rows of tokens, the shared one for those without their own."""
        return [self._row.get(token, len(self.ids)) for token in tokens]

    def shares(self, logits: torch.Tensor) -> torch.Tensor:
        """What softmax over the whole vocabulary gives each row; the last holds all its tokens together."""
        more = torch.zeros(logits.shape[-1])
        more[-1] = math.log(self.unused)
        return torch.softmax(logits + more, dim=-1)

    def greedy(self, prompt: Sequence[int], max_tokens: int = 300) -> list[int]:
        """The likeliest token each time, up to and with the one that ends the turn."""
        cache, out = self.model.new_cache(), list[int]()
        logits = self.model.forward(self.rows(prompt), cache, last_only=True)
        while len(out) < max_tokens:
            row = int(logits[-1].argmax())
            out.append(self.ids[row] if row < len(self.ids) else -1)
            if out[-1] in STOP_TOKENS or out[-1] < 0:
                break
            logits = self.model.forward([row], cache, last_only=True)
        return out

    @torch.inference_mode()
    def sampled(self, prompt: Sequence[int], turns: int, seed: int, max_tokens: int = 300) -> list[list[int]]:
        """So many turns sampled at temperature 1 behind one prompt, each up to what ends it."""
        generator = torch.Generator().manual_seed(seed)
        cache = self.model.new_cache()
        logits = self.model.forward(self.rows(prompt), cache, last_only=True).expand(turns, -1)
        layers = range(self.model.config.num_hidden_layers)
        empty = torch.zeros(0, self.model.config.num_key_value_heads, self.model.config.head_dim)
        kept = [[part.expand(turns, *part.shape) for part in cache.extend(n, empty, empty)] for n in layers]
        out: list[list[int]] = [[] for _ in range(turns)]
        alive = list(range(turns))
        for position in range(len(prompt), len(prompt) + max_tokens):
            rows = torch.multinomial(self.shares(logits), 1, generator=generator)[:, 0]
            going = []
            for n, (turn, row) in enumerate(zip(alive, rows.tolist(), strict=True)):
                out[turn].append(self.ids[row] if row < len(self.ids) else -1)
                if out[turn][-1] not in STOP_TOKENS and out[turn][-1] >= 0:
                    going.append(n)
            alive = [alive[n] for n in going]
            if not alive:
                break
            kept = [[part[going] for part in pair] for pair in kept]
            logits = self._step(rows[going], position, kept)
        return out

    def _step(self, rows: torch.Tensor, position: int, kept: list[list[torch.Tensor]]) -> torch.Tensor:
        """One token of each turn at one position; `kept` holds keys and values [turns, S, K, D] a layer."""
        model, c = self.model, self.model.config
        inv_freq, concentration = yarn(c)
        cos, sin = ((position * inv_freq).cos() * concentration, (position * inv_freq).sin() * concentration)
        x = model.embedding[rows]
        for n, layer in enumerate(model.layers):
            t = linear(rms_norm(x, layer.attn_norm), layer.qkv_weight, layer.qkv_bias)
            q, k, v = (
                part.reshape(len(rows), -1, c.head_dim)
                for part in torch.split(t, [c.q_rows, c.kv_rows, c.kv_rows], dim=-1)
            )
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            kept[n] = [
                torch.cat([old, new[:, None]], dim=1) for old, new in zip(kept[n], (k, v), strict=True)
            ]
            keys, values = (part[:, -(c.window_of(n) or part.shape[1]) :] for part in kept[n])
            q = q.reshape(len(rows), c.num_key_value_heads, -1, c.head_dim)
            scores = torch.einsum("bkgd,bskd->bkgs", q, keys) * c.head_dim**-0.5
            sinks = layer.sinks.reshape(1, c.num_key_value_heads, -1, 1).expand(len(rows), -1, -1, 1)
            shares = torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]
            heard = torch.einsum("bkgs,bskd->bkgd", shares, values).flatten(1)
            x = x + linear(heard, layer.out_weight, layer.out_bias)
            t = rms_norm(x, layer.mlp_norm)
            ids, weights = route(t, layer.gate_weight, layer.gate_bias, c.experts_per_token)
            for expert in range(c.num_experts):
                mine, slot = (ids == expert).nonzero(as_tuple=True)
                h = linear(t[mine], layer.mlp1.weight(expert), layer.mlp1.bias[expert])
                h = linear(swiglu(h, c.swiglu_limit), layer.mlp2.weight(expert), layer.mlp2.bias[expert])
                x.index_add_(0, mine, h * weights[mine, slot, None])
        return linear(rms_norm(x, model.norm), model.unembedding)
