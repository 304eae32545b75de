"""How busy the engine is, how fast it has been, and what that predicts. Times are given, never read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

FIRST_SERVICE_S = 5.0
"""Taken for the length of a request before any has ended."""
FIRST_PREFILL_TOKENS_PER_S = 200.0
"""Taken for the speed of prompts before any was computed; an ordinary computer reaches it."""
MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.2
"""Weight of the newest measurement in a running average."""


@dataclass(frozen=True, slots=True)
class Load:
    """A snapshot. Blocks are those of the full group; `kv_blocks_free` counts the cached ones too.

    `predicted_ttft_s` is how long a request that came now would wait for its first token. `prefix` maps the
    digest of a tenant's salt to the tokens of its prompts that are cached.
    """

    running: int
    waiting: int
    max_running: int
    max_waiting: int
    stopping: bool
    lost: bool
    kv_blocks_total: int
    kv_blocks_free: int
    kv_blocks_cached: int
    tokens_per_s: float
    predicted_ttft_s: float
    prefix: Mapping[str, int]
    prompt_tokens_total: int
    cached_tokens_total: int
    generated_tokens_total: int
    preemptions_total: int
    steps_total: int
    finished_total: Mapping[str, int]


@dataclass(slots=True)
class Meter:
    """Running averages and totals that the engine's worker feeds."""

    service_s: float = FIRST_SERVICE_S
    step_s: float = 0.0
    prefill_tokens_per_s: float = FIRST_PREFILL_TOKENS_PER_S
    tokens_per_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    finished: Counter[str] = field(default_factory=Counter)

    def step(self, took_s: float, prefilled: int, generated: int) -> None:
        """One step took `took_s` seconds for so many prompt positions and new tokens (counted already)."""
        self.steps += 1
        self.step_s = _smooth(self.step_s, took_s, first=self.steps == 1)
        if took_s <= 0:
            return
        if prefilled:
            self.prefill_tokens_per_s = _smooth(self.prefill_tokens_per_s, prefilled / took_s)
        if generated:
            self.tokens_per_s = _smooth(self.tokens_per_s, generated / took_s, first=not self.tokens_per_s)

    def begin(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A choice got its first token."""
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens

    def end(self, reason: str, took_s: float) -> None:
        """A choice ended for `reason`, `took_s` seconds after it was submitted."""
        self.finished[reason] += 1
        self.service_s = _smooth(self.service_s, took_s)

    def predicted_ttft_s(
        self, prompt_tokens_ahead: int, waiting: int, running: int, max_running: int
    ) -> float:
        """Prompts ahead at the speed of late, one step, and, when all slots are taken, a slot's turn."""
        queue_s = self.service_s * (waiting + 1) / max_running if running + waiting >= max_running else 0.0
        return prompt_tokens_ahead / self.prefill_tokens_per_s + self.step_s + queue_s

    def retry_after_s(self, waiting: int, max_running: int) -> int:
        """Whole seconds, 1 to 60, after which one place in the queue should have come free."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.service_s * max(1, waiting) / max_running)))


def _smooth(average: float, newest: float, *, first: bool = False) -> float:
    return newest if first else average + SMOOTHING * (newest - average)
