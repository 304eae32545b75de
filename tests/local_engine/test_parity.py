"""The reference model computes what transformers' GptOss computes, and the comparison can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from local_engine import reference
from local_engine.checkpoint import open_checkpoint
from local_engine.config import ModelConfig
from local_engine.reference import ReferenceModel

TOKENS = 260
"""More than twice the window of 128, so that keys leave it."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 512, (TOKENS,), generator=generator).tolist()


@pytest.fixture(scope="module")
def theirs(tiny: dict[str, Path], tokens: list[int]) -> torch.Tensor:
    """transformers' logits [T, V] in fp32 on the same checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(
        tiny["hf"],
        quantization_config=Mxfp4Config(dequantize=True),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def ours(path: Path, tokens: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Our logits [T, V] from one prefill."""
    model = ReferenceModel(open_checkpoint(path), dtype)
    return model.forward(tokens, model.new_cache())


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two logits."""
    assert a.shape == b.shape == (TOKENS, 512)
    return float((a - b).abs().max())


@pytest.mark.parametrize("form", ["hf", "original"])
def test_every_logit_agrees_with_transformers(
    tiny: dict[str, Path], tokens: list[int], theirs: torch.Tensor, form: str
) -> None:
    assert theirs.std() > 0.5
    assert distance(ours(tiny[form], tokens), theirs) <= TOLERANCE


def test_both_clamps_of_the_swiglu_are_hit(
    tiny: dict[str, Path], tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = reference.swiglu

    def watched(h: torch.Tensor, limit: float) -> torch.Tensor:
        seen.append(h)
        return original(h, limit)

    monkeypatch.setattr(reference, "swiglu", watched)
    ours(tiny["hf"], tokens)
    gate = torch.cat([h[:, 0::2].flatten() for h in seen])
    linear = torch.cat([h[:, 1::2].flatten() for h in seen])

    assert (gate > 7).any()
    assert (gate < -7).any()
    assert (linear > 7).any()
    assert (linear < -7).any()


def rounded_bounds(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """YaRN with its bounds rounded outwards, as `truncate: true` has it."""
    half = config.head_dim // 2
    freq = config.rope_theta ** (torch.arange(half, dtype=torch.float32) / half)

    def bound(rotations: float) -> float:
        span = config.initial_context_length / (rotations * 2 * math.pi)
        return half * math.log(span) / math.log(config.rope_theta)

    low, high = math.floor(bound(config.rope_ntk_beta)), math.ceil(bound(config.rope_ntk_alpha))
    ramp = ((torch.arange(half, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    scaled = ramp / (config.rope_scaling_factor * freq) + (1 - ramp) / freq
    return scaled, 0.1 * math.log(config.rope_scaling_factor) + 1


def pairwise(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE over neighbouring pairs, as in GPT-J."""
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def unclamped(h: torch.Tensor, limit: float, *, gate: bool) -> torch.Tensor:
    """The swiglu with only one of its two clamps, `gate` or the other."""
    first, second = h[..., 0::2], h[..., 1::2]
    first = first.clamp(max=limit) if gate else first
    second = second if gate else second.clamp(-limit, limit)
    return first * torch.sigmoid(1.702 * first) * (second + 1)


def mutants() -> Iterator[tuple[str, str, object]]:
    """Plausible mistakes: the function to replace and what it would be."""
    attend, swiglu, route, yarn = reference.attend, reference.swiglu, reference.route, reference.yarn

    yield "rounded yarn bounds", "yarn", rounded_bounds
    yield "no yarn concentration", "yarn", lambda c: (yarn(c)[0], 1.0)
    yield "yarn left out", "yarn", lambda c: (yarn(replace(c, rope_scaling_factor=1.0))[0], yarn(c)[1])
    yield "pairs side by side", "rotate", pairwise
    yield (
        "window one too long",
        "attend",
        lambda q, k, v, s, w: attend(q, k, v, s, None if w is None else w + 1),
    )
    yield (
        "window one too short",
        "attend",
        lambda q, k, v, s, w: attend(q, k, v, s, None if w is None else w - 1),
    )
    yield "no window", "attend", lambda q, k, v, s, w: attend(q, k, v, s, None)
    yield "no sink", "attend", lambda q, k, v, s, w: attend(q, k, v, torch.full_like(s, -torch.inf), w)
    yield "scaled sink", "attend", lambda q, k, v, s, w: attend(q, k, v, s / 8, w)
    # A lower clamp on the gate is not among these: silu(-7) is -5e-5, so it changes nothing that fp32 shows.
    yield "no clamp on the gate", "swiglu", lambda h, limit: unclamped(h, limit, gate=False)
    yield "no clamp on the linear half", "swiglu", lambda h, limit: unclamped(h, limit, gate=True)
    yield (
        "gate and linear in halves",
        "swiglu",
        lambda h, limit: swiglu(torch.stack(h.chunk(2, dim=-1), dim=-1).flatten(-2), limit),
    )
    yield (
        "softmax over all experts",
        "route",
        lambda t, w, b, top: (
            route(t, w, b, top)[0],
            torch.softmax(t @ w.T + b, -1).gather(-1, route(t, w, b, top)[0]),
        ),
    )


@pytest.mark.parametrize(("name", "change"), [m[1:] for m in mutants()], ids=[m[0] for m in mutants()])
def test_a_mistake_exceeds_the_tolerance(
    tiny: dict[str, Path],
    tokens: list[int],
    theirs: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: object,
) -> None:
    monkeypatch.setattr(reference, name, change)

    assert distance(ours(tiny["hf"], tokens), theirs) > 10 * TOLERANCE


def test_bf16_stays_close_to_fp32_in_distribution(
    tiny: dict[str, Path], tokens: list[int], theirs: torch.Tensor
) -> None:
    # Only on average: where rounding makes the router choose another expert, single logits move far.
    logits = ours(tiny["hf"], tokens, torch.bfloat16)
    divergence = torch.nn.functional.kl_div(
        logits.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
    )

    assert float(divergence) < 0.1
    assert float((logits - theirs).abs().mean()) < 0.3
