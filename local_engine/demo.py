"""The demo's weights: a tiny gpt-oss that babbles well-formed harmony, and says that it is a demo.

Nothing here is trained. Most weights are random and quiet. On top of them a chain of words is wired by hand
through the real architecture, so that the demo exercises every part of it:

- the residual stream has one dimension per state (a word or a special token); a token's embedding sets its
  state, and the unembedding row of a token holds the log-probability of following each state;
- which channel a message is in is told by the token *before* `<|message|>`; one attention head in the first
  layer attends to exactly the previous position, through RoPE phases alone, and copies that token's channel.

At temperature 0 it goes straight to the final channel, says what it is, and stops. At higher temperatures it
sometimes thinks first, in words that the final channel never uses, and wanders through the words.
"""

from __future__ import annotations

import math

import torch

from local_engine.config import ModelConfig
from local_engine.harmony.tokens import CHANNEL, END, MESSAGE, RETURN, START, VOCABULARY_SIZE
from local_engine.tensors import TensorSpec

DEMO_CONFIG = ModelConfig(
    num_hidden_layers=2,
    num_experts=8,
    experts_per_token=4,
    vocab_size=VOCABULARY_SIZE,
    hidden_size=64,
    intermediate_size=64,
    swiglu_limit=7.0,
    head_dim=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    sliding_window=128,
    initial_context_length=4096,
    rope_theta=150000.0,
    rope_scaling_factor=32.0,
    rope_ntk_alpha=1.0,
    rope_ntk_beta=32.0,
)

ASSISTANT, ANALYSIS, FINAL = 173781, 35644, 17196
"""The ids of `assistant`, `analysis` and `final` as harmony spells them in headers."""

# Each line is a state: a token id, what it spells, and what may follow with which probability. Ids are those
# of o200k_harmony. The likeliest successors from `Hello` on read: "Hello! I am a demo with random weights, so
# my words mean nothing; everything around me is real."
FINAL_WORDS: dict[str, tuple[int, dict[str, float]]] = {
    "Hello": (13225, {"!": 1.0}),
    "Well": (16936, {",": 1.0}),
    "!": (0, {" I": 1.0}),
    " I": (357, {" am": 1.0}),
    " am": (939, {" a": 0.8, " just": 0.2}),
    " just": (1327, {" a": 0.6, " noise": 0.4}),
    " a": (261, {" demo": 0.6, " small": 0.25, " quiet": 0.15}),
    " small": (3291, {" demo": 1.0}),
    " quiet": (15095, {" demo": 1.0}),
    " demo": (26325, {" with": 0.75, ",": 0.15, ".": 0.1}),
    " with": (483, {" random": 0.9, " noise": 0.1}),
    " random": (7526, {" weights": 0.7, " numbers": 0.2, " noise": 0.1}),
    " weights": (28460, {",": 0.9, " and": 0.1}),
    " and": (326, {" noise": 0.5, " numbers": 0.5}),
    " numbers": (8663, {",": 0.5, ".": 0.5}),
    " noise": (19044, {".": 0.6, ";": 0.2, ",": 0.2}),
    ",": (11, {" so": 1.0}),
    " so": (813, {" my": 0.95, " I": 0.05}),
    " my": (922, {" words": 0.92, " numbers": 0.08}),
    " words": (6391, {" mean": 1.0}),
    " mean": (4774, {" nothing": 0.9, " noise": 0.1}),
    " nothing": (6939, {";": 0.65, ".": 0.35}),
    ";": (26, {" everything": 1.0}),
    " everything": (5519, {" around": 0.7, " is": 0.3}),
    " around": (2846, {" me": 1.0}),
    " me": (668, {" is": 1.0}),
    " is": (382, {" real": 0.85, " noise": 0.15}),
    " real": (1374, {".": 1.0}),
    ".": (13, {"<|return|>": 0.95, " I": 0.05}),
}
"""The final channel's words."""

ANALYSIS_WORDS: dict[str, tuple[int, dict[str, float]]] = {
    "Thinking": (133850, {" means": 1.0}),
    "We": (2167, {" should": 1.0}),
    " should": (1757, {" answer": 0.7, " then": 0.3}),
    " then": (1815, {" answer": 0.6, " picking": 0.4}),
    " answer": (6052, {"...": 0.6, " here": 0.4}),
    " means": (4748, {" picking": 1.0}),
    " picking": (30859, {" another": 1.0}),
    " another": (3613, {" word": 1.0}),
    " word": (2195, {" here": 0.7, "...": 0.3}),
    " here": (2105, {"...": 0.8, " then": 0.2}),
    "...": (1008, {"<|end|>": 1.0}),
}
"""The analysis channel's words; none of them is among the final channel's."""

SPECIALS: dict[str, tuple[int, dict[str, float]]] = {
    "<|start|>": (START, {"assistant": 1.0}),
    "assistant": (ASSISTANT, {"<|channel|>": 1.0}),
    "<|channel|>": (CHANNEL, {"final": 0.7, "analysis": 0.3}),
    "analysis": (ANALYSIS, {"<|message|>": 1.0}),
    "final": (FINAL, {"<|message|>": 1.0}),
    "<|message|>": (MESSAGE, {}),
    "<|end|>": (END, {"<|start|>": 1.0}),
}
"""Harmony's own order of tokens. What follows `<|message|>` depends on the channel, see `OPENINGS`."""

OPENINGS: dict[str, dict[str, float]] = {
    "analysis": {"Thinking": 0.6, "We": 0.4},
    "final": {"Hello": 0.8, "Well": 0.2},
}

STATES = {**SPECIALS, **FINAL_WORDS, **ANALYSIS_WORDS}

ALIVE = 0
COPIED = {"analysis": 1, "final": 2}
"""Dimensions of the residual stream that hold the previous token's channel."""
STATE_DIM = {name: 3 + n for n, name in enumerate(STATES)}
QUIET_DIM = 3 + len(STATES)
"""The dimensions from here on carry only noise."""

FOLLOWS = 24.0
"""Logit of a certain successor; a word that does not follow has about 0, even at temperature 2 a rarity."""
NEVER = -60.0
"""Logit of every token that is no state, so that all 200,000 stay negligible at temperature 2."""

# Pairs of the attention head that rotate at their unscaled frequency under YaRN: enough to tell a distance of
# one from every other.
POSITION_PAIRS = 9
HEAD_STRENGTH = 12.0


def _gain(ones: int) -> float:
    """What RMSNorm multiplies a state by when `ones` of its dimensions have size one."""
    return math.sqrt(DEMO_CONFIG.hidden_size / ones)


def demo_tensor(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    """Draws one tensor of the demo: quiet noise, and the wiring where the module's docstring says so."""
    name = spec.name.split(".", 2)[-1] if spec.name.startswith("block.") else spec.name
    if spec.dtype == "U8":
        # Around 2^-14, mlp2 adds less than one part in a hundred to the stream.
        low, high = (0, 256)
        if name.endswith("scales"):
            low, high = (112, 114) if "mlp2" in name else (121, 125)
        return torch.randint(low, high, spec.shape, dtype=torch.uint8, generator=generator)
    if name.endswith("norm.scale"):
        return torch.ones(spec.shape, dtype=torch.bfloat16)
    noise = torch.empty(spec.shape, dtype=torch.bfloat16).normal_(0.0, 0.003, generator=generator)
    match name:
        case "embedding.weight":
            return _embedding(noise)
        case "unembedding.weight":
            return _unembedding(noise)
        case "mlp.gate.weight":
            return noise * 100
        case _ if spec.name.startswith("block.0.attn."):
            return _previous_token_head(name, noise)
        case _:
            return noise


def _embedding(noise: torch.Tensor) -> torch.Tensor:
    noise[:, QUIET_DIM:] *= 20
    noise[:, ALIVE] = 1
    for name, (token, _) in STATES.items():
        noise[token, STATE_DIM[name]] = 1
    return noise


def _unembedding(noise: torch.Tensor) -> torch.Tensor:
    two, three = _gain(2), _gain(3)
    noise[:, ALIVE] = NEVER / two
    ids = {name: token for name, (token, _) in STATES.items()} | {"<|return|>": RETURN}
    for token in ids.values():
        noise[token] = 0
    for name, (_, successors) in STATES.items():
        for word, share in successors.items():
            noise[ids[word], STATE_DIM[name]] = (FOLLOWS + math.log(share)) / two
    for channel, words in OPENINGS.items():
        for word, share in words.items():
            noise[ids[word], COPIED[channel]] = (FOLLOWS + math.log(share)) / three
    return noise


def _previous_token_head(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Head 0 of layer 0: attends one position back and copies the channel it finds there.

    A constant query and key leave only RoPE: pair p contributes cos((distance - 1) * frequency_p), which
    peaks at distance one for all pairs together.
    """
    c = DEMO_CONFIG
    half = c.head_dim // 2
    key, value = c.q_rows, c.q_rows + c.kv_rows
    match name:
        case "attn.qkv.bias":
            for pair in range(POSITION_PAIRS):
                frequency = c.rope_theta ** (-pair / half)
                noise[pair] = HEAD_STRENGTH * math.cos(-frequency)
                noise[pair + half] = HEAD_STRENGTH * math.sin(-frequency)
                noise[key + pair] = HEAD_STRENGTH
        case "attn.qkv.weight":
            for n, channel in enumerate(COPIED):
                noise[value + n, STATE_DIM[channel]] = 1 / _gain(2)
        case "attn.out.weight":
            for n, dim in enumerate(COPIED.values()):
                noise[dim, n] = 1
    return noise
