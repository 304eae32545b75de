"""From logits to one token, reproducibly.

The randomness of a token is a pure function of (seed, position), so a request gives the same tokens whatever
else the engine did before or beside it, and can be continued anywhere.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

import torch

from local_engine.errors import Fault
from local_engine.harmony.tokens import STOP_TOKENS

NUCLEUS_CANDIDATES = 1024
"""Most nuclei are far smaller, and a full sort of 201,088 values costs ten times this selection."""


COLDEST = 1e-6
"""Lower temperatures differ from this one by nothing, and would overflow fp32."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request samples.

    `temperature` 0 is greedy. `top_p` keeps the smallest set of most likely tokens whose probability reaches
    it. `max_tokens` counts every sampled token, reasoning included. `top_logprobs` None asks for no logprobs.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int | None = None
    stop_tokens: frozenset[int] = field(default=STOP_TOKENS)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logs of the model's own probabilities (temperature 1, before top_p) of the token chosen and of
    the likeliest ones, best first."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, fixed by (seed, position)."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed & (2**64 - 1), position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def sample(logits: torch.Tensor, params: SamplingParams, position: int) -> int:
    """Draws from fp32 logits [V]; `position` is the drawn token's place in the sequence.

    Ties go to the lowest id. Raises `Fault` when the logits hold no finite maximum or a NaN.
    """
    best = logits.max()
    if not torch.isfinite(best):
        raise Fault("the model produced no usable logits: check the checkpoint")
    if params.temperature == 0:
        return int((logits == best).nonzero()[0])
    shares = torch.softmax((logits - best) / max(params.temperature, COLDEST), dim=-1)
    u = uniform(params.seed, position)
    if params.top_p >= 1:
        return _invert(shares, u)
    kept, ids = _nucleus(shares, params.top_p)
    return int(ids[_invert(kept, u)])


def logprobs_of(logits: torch.Tensor, token: int, top: int) -> Logprobs:
    """Log-softmax of raw fp32 logits [V] at `token` and at the `top` likeliest tokens."""
    total = float(torch.logsumexp(logits, dim=-1))
    values, ids = logits.topk(top)
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return Logprobs(float(logits[token]) - total, tuple((int(i), float(v) - total) for i, v in pairs))


def _nucleus(shares: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares and ids of the nucleus, likeliest first; never empty."""
    kept, ids = shares.topk(min(NUCLEUS_CANDIDATES, shares.shape[0]))
    if float(kept.sum()) < top_p:
        kept, ids = shares.sort(descending=True, stable=True)
    size = int((kept.cumsum(0) < top_p).sum()) + 1
    return kept[:size], ids[:size]


def _invert(shares: torch.Tensor, u: float) -> int:
    """The index at which the running sum passes u times the total."""
    # In fp64, so that 200,000 small shares do not drown in the running sum.
    total = shares.cumsum(0, dtype=torch.float64)
    index = int(torch.searchsorted(total, u * float(total[-1]), right=True))
    return min(index, shares.shape[0] - 1)
