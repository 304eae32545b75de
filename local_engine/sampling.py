"""How a request samples, and the randomness of its tokens.

The randomness of a token is a pure function of (seed, choice, position), so a request gives the same tokens
whatever else the engine did before or beside it, and can be continued anywhere. What becomes of logits is in
`draw.py`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from local_engine.draw import MAX_LOGIT_BIAS, PROMPTED, Draw, Drawn, count, draw, empty_draw
from local_engine.harmony.tokens import STOP_TOKENS

if TYPE_CHECKING:
    from local_engine.scheduler import Sequence as Running

__all__ = [
    "MAX_LOGIT_BIAS",
    "PROMPTED",
    "Draw",
    "Drawn",
    "Logprobs",
    "Numbers",
    "SamplingParams",
    "count",
    "draw",
    "empty_draw",
    "uniform",
]

UNIFORMS = 16
"""Numbers that one digest gives: 64 bytes, the most of blake2b, four each."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request samples.

    `max_tokens` counts every sampled token, reasoning included. `temperature` 0 is greedy. `top_p` keeps the
    smallest set of likeliest tokens whose probability reaches it, `top_k` the k likeliest (0 = all), `min_p`
    those at least `min_p` times as likely as the likeliest. Presence and frequency penalties are for tokens
    of the answer, the repetition penalty is for those of prompt and answer. `logit_bias` pairs token ids with
    what their logits gain, no id twice. `top_logprobs` None asks for no logprobs.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    stop_tokens: frozenset[int] = field(default=STOP_TOKENS)

    @property
    def filtered(self) -> bool:
        """Whether some tokens are ruled out by their rank or their probability."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def penalised(self) -> bool:
        """Whether tokens that occurred are more or less likely for it."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logs of the model's own probabilities (temperature 1, before any stage) of the token chosen and
    of the likeliest ones, best first, the lower id first among equals."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def uniforms(seed: int, choice: int, part: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The numbers of `UNIFORMS` consecutive positions, from `part` times as many on: fp32 [UNIFORMS].

    One digest gives them all; a number has 24 random bits, so that it is exact in fp32 and never rounds to 1.
    """
    key = struct.pack("<QQQ", seed & (2**64 - 1), choice, part)
    words = np.frombuffer(hashlib.blake2b(key, digest_size=4 * UNIFORMS).digest(), dtype="<u4")
    return (words >> 8).astype(np.float32) / np.float32(2**24)


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) fixed by the three; `position` is the drawn token's place in its sequence."""
    return float(uniforms(seed, choice, position // UNIFORMS)[position % UNIFORMS])


class Numbers:
    """The numbers that running sequences draw their next tokens with, by slot. A digest gives several, so
    those that are not due yet are kept."""

    def __init__(self, slots: int) -> None:
        self._ahead = np.zeros((slots, UNIFORMS), dtype=np.float32)
        self._parts = np.full(slots, -1)

    def forget(self, slot: int) -> None:
        """Another sequence has the slot now."""
        self._parts[slot] = -1

    def at(self, sequences: Sequence[Running], positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """`uniform` of each sequence at its position: fp32."""
        slots = np.array([sequence.slot for sequence in sequences], dtype=np.int64)
        parts, offsets = np.divmod(positions, UNIFORMS)
        for row in np.flatnonzero(self._parts[slots] != parts).tolist():
            sequence, part = sequences[row], int(parts[row])
            self._ahead[sequence.slot] = uniforms(sequence.params.seed, sequence.choice, part)
            self._parts[sequence.slot] = part
        found: np.ndarray[Any, Any] = self._ahead[slots, offsets]
        return found
