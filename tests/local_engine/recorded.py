"""Runs requests through a real engine and keeps the logits that every token was drawn from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from local_engine.checkpoint import Checkpoint
from local_engine.engine import Engine
from local_engine.generation import Generation
from local_engine.opening import EngineOptions, open_engine
from local_engine.sampling import Drawn, SamplingParams
from local_engine.scheduler import Plan
from local_engine.steps import Failed, Finished, Grammar, Step, Ticket, Token

PATIENCE_S = 120.0
"""How long a test waits before it gives up; nothing asserts that things are fast."""


@dataclass
class Request:
    """One request and what came of it: tokens and logits by choice, and how it ended."""

    prompt: list[int]
    params: SamplingParams
    n: int = 1
    salt: str | None = None
    grammar: Callable[[], Grammar] | None = None
    tokens: dict[int, list[int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def deliver(self, step: Step) -> None:
        """The engine's callback."""
        self.steps.append(step)
        if isinstance(step, Token):
            self.tokens.setdefault(step.choice, []).append(step.id)
        ends = sum(isinstance(step, Finished) for step in self.steps)
        if isinstance(step, Failed) or ends == self.n:
            self.over.set()

    def wait(self) -> Request:
        """Waits for the end."""
        assert self.over.wait(PATIENCE_S), f"the request did not end: {len(self.steps)} steps so far"
        return self

    @property
    def error(self) -> Any:
        """What it failed with."""
        assert isinstance(self.steps[-1], Failed), self.steps[-1]
        return self.steps[-1].error


class Recorder:
    """A runner around a runner that keeps the logits of each (prompt, choice, position)."""

    def __init__(self, engine: Engine) -> None:
        inner: Any = engine.runner
        sample = inner._ops.sample
        inner._ops = replace(inner._ops, sample=lambda logits, draw: self._sample(sample, logits, draw))
        self._inner = inner
        self._latest: torch.Tensor | None = None
        self.logits: dict[tuple[tuple[int, ...], int, int], torch.Tensor] = {}
        self.addresses: set[tuple[int, ...]] = set()
        engine.runner = self

    @property
    def overlaps(self) -> bool:
        """As the one inside."""
        return bool(self._inner.overlaps)

    def _sample(self, sample: Callable[..., Drawn], logits: torch.Tensor, draw: Any) -> Drawn:
        self._latest = logits.clone()
        return sample(logits, draw)

    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> Ticket:
        """Launches, and files the logits."""
        ticket: Ticket = self._inner.launch(plan, grammars)
        sampling = [work for work in plan.work if work.samples]
        for row, work in enumerate(sampling):
            assert self._latest is not None
            sequence = work.sequence
            prompt = tuple(sequence.tokens[: sequence.prompt_tokens])
            self.logits[prompt, sequence.choice, work.start + work.count] = self._latest[row]
        return ticket


def engine_over(checkpoint: Checkpoint, **options: Any) -> Engine:
    """An engine over a small pool in fp32, started."""
    given = {
        "dtype": "fp32",
        "max_context_tokens": 1024,
        "kv_tokens": 4096,
        "step_tokens": 64,
        "max_running": 8,
    }
    return open_engine(checkpoint, EngineOptions(**{**given, **options}))


def submit(engine: Engine, request: Request) -> Generation:
    """Submits a request."""
    return engine.submit(
        request.prompt,
        request.params,
        request.deliver,
        n=request.n,
        cache_salt=request.salt,
        grammar=request.grammar,
    )


def run(engine: Engine, requests: Sequence[Request]) -> None:
    """Submits all at once to an engine that is not started, runs it, and closes it."""
    for request in requests:
        submit(engine, request)
    engine.start()
    try:
        for request in requests:
            request.wait()
    finally:
        engine.close()


def greedy(tokens: int, **more: Any) -> SamplingParams:
    """Greedy, never stopping by itself."""
    return SamplingParams(max_tokens=tokens, temperature=0.0, stop_tokens=frozenset(), **more)
