"""Plausible mistakes in gpt-oss, as replacements of a function, an operation or a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from local_engine import reference
from local_engine.config import ModelConfig
from local_engine.model import Experts, Layer, Model
from local_engine.ops import Ops

Hearing = Callable[[torch.Tensor, int | None], tuple[torch.Tensor, int | None]]
"""(sinks, window) -> what attention takes instead."""


@dataclass(frozen=True)
class Mutant:
    """A name, functions of `reference` replaced by others, and changed operations or weights."""

    name: str
    maths: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    ops: Callable[[Ops], Ops] = lambda ops: ops
    weights: Callable[[Model], Model] = lambda model: model


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


def clamped(h: torch.Tensor, gate: tuple[float, float], linear: tuple[float, float]) -> torch.Tensor:
    """The swiglu with its two halves clamped to these ranges."""
    first, second = h[..., 0::2].clamp(*gate), h[..., 1::2].clamp(*linear)
    return first * torch.sigmoid(1.702 * first) * (second + 1)


def _maths() -> list[Mutant]:
    swiglu, route, yarn = reference.swiglu, reference.route, reference.yarn
    inf = math.inf

    def router_over_all(
        t: torch.Tensor, w: torch.Tensor, b: torch.Tensor, top: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids, _ = route(t, w, b, top)
        return ids, torch.softmax(t @ w.T + b, -1).gather(-1, ids)

    changes: dict[str, tuple[str, Callable[..., Any]]] = {
        "rounded yarn bounds": ("yarn", rounded_bounds),
        "no yarn concentration": ("yarn", lambda c: (yarn(c)[0], 1.0)),
        "yarn left out": ("yarn", lambda c: (yarn(replace(c, rope_scaling_factor=1.0))[0], yarn(c)[1])),
        "pairs side by side": ("rotate", pairwise),
        "no clamp on the gate": ("swiglu", lambda h, limit: clamped(h, (-inf, inf), (-limit, limit))),
        "no clamp on the linear half": ("swiglu", lambda h, limit: clamped(h, (-inf, limit), (-inf, inf))),
        "gate and linear in halves": (
            "swiglu",
            lambda h, limit: swiglu(torch.stack(h.chunk(2, dim=-1), dim=-1).flatten(-2), limit),
        ),
        "gate and linear swapped": (
            "swiglu",
            lambda h, limit: swiglu(h.unflatten(-1, (-1, 2)).flip(-1).flatten(-2), limit),
        ),
        "softmax over all experts": ("route", router_over_all),
    }
    return [Mutant(name, maths={function: change}) for name, (function, change) in changes.items()]


LOWER_CLAMP = Mutant(
    "a lower clamp on the gate",
    maths={"swiglu": lambda h, limit: clamped(h, (-limit, limit), (-limit, limit))},
)
"""Not among the others: at the usual limit of 7, silu(-7) is -5e-5 and changes nothing that fp32 shows."""

HEARING: dict[str, Hearing] = {
    "window one too long": lambda sinks, window: (sinks, None if window is None else window + 1),
    "window one too short": lambda sinks, window: (sinks, None if window is None else window - 1),
    "no window": lambda sinks, window: (sinks, None),
    "no sink": lambda sinks, window: (torch.full_like(sinks, -torch.inf), window),
    "scaled sink": lambda sinks, window: (sinks / 8, window),
}


def hearing(attend: Callable[..., Any], change: Hearing) -> Callable[..., Any]:
    """An attention, the reference's or an operation, that takes other sinks or another window."""
    return lambda *given: attend(*given[:-2], *change(*given[-2:]))


def _in_attend(name: str, change: Hearing) -> Mutant:
    return Mutant(name, ops=lambda ops: replace(ops, attend=hearing(ops.attend, change)))


def _in_layers(name: str, change: Callable[[Layer], Layer]) -> Mutant:
    return Mutant(
        name, weights=lambda model: replace(model, layers=tuple(change(layer) for layer in model.layers))
    )


def _without_bias(name: str) -> Callable[[Layer], Layer]:
    def change(layer: Layer) -> Layer:
        silent: dict[str, Any] = {f"{name}_bias": torch.zeros_like(getattr(layer, f"{name}_bias"))}
        return replace(layer, **silent)

    return change


def _without_expert_bias(name: str) -> Callable[[Layer], Layer]:
    def change(layer: Layer) -> Layer:
        experts: Experts = getattr(layer, name)
        silent: dict[str, Any] = {name: replace(experts, bias=torch.zeros_like(experts.bias))}
        return replace(layer, **silent)

    return change


def _swapped_nibbles(layer: Layer) -> Layer:
    def swap(experts: Experts) -> Experts:
        return replace(experts, blocks=(experts.blocks >> 4) | (experts.blocks << 4), decoded=None)

    return replace(layer, mlp1=swap(layer.mlp1), mlp2=swap(layer.mlp2))


def _without_residual(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *given: op(*given[:-1], torch.zeros_like(given[-1]))


MATHS = _maths()
"""Those that hurt the reference and every set of operations built on its functions."""

MUTANTS = [
    *MATHS,
    *(_in_attend(name, change) for name, change in HEARING.items()),
    _in_layers("swapped nibbles", _swapped_nibbles),
    *(_in_layers(f"no {name} bias", _without_bias(name)) for name in ("qkv", "out", "gate")),
    *(_in_layers(f"no {name} bias", _without_expert_bias(name)) for name in ("mlp1", "mlp2")),
    Mutant("no residual around attention", ops=lambda ops: replace(ops, out=_without_residual(ops.out))),
    Mutant(
        "no residual around the experts", ops=lambda ops: replace(ops, experts=_without_residual(ops.experts))
    ),
]
"""All that a set of operations must be told from."""
