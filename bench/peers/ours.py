"""The local engine, asked over the standard input: `python -m bench.peers.ours MODEL --threads N ...`.

A whole engine with its worker thread, scheduler, runner and sampling; only text and HTTP are left out. Times
are taken where the engine hands out a token.
"""

from __future__ import annotations

import argparse
import queue
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peers.quiet import Watch
from bench.peers.talk import serve
from local_engine.checkpoint import open_checkpoint
from local_engine.opening import EngineOptions, open_engine
from local_engine.ops import Ops
from local_engine.runner import ModelRunner
from local_engine.sampling import SamplingParams
from local_engine.steps import Failed, Finished, Step, Token

STEP_TOKENS = 512
PROMPTS = 16
"""Prompts of a step's length that the cache has room for beside the longest context."""
UNMEASURED = 2


class Ours:
    """A started engine over one sequence at a time."""

    def __init__(self, model: Path, dense: str, threads: int, context_tokens: int) -> None:
        torch.set_num_threads(threads)
        checkpoint = open_checkpoint(model)
        self._vocabulary = checkpoint.config.vocab_size
        self._engine = open_engine(
            checkpoint,
            EngineOptions(
                dtype="bf16",
                dense="int8" if dense == "int8" else None,
                max_running=1,
                max_context_tokens=context_tokens,
                # Prompts that are decoded behind again and again stay cached beside those that come once.
                kv_tokens=2 * context_tokens + PROMPTS * STEP_TOKENS,
                step_tokens=STEP_TOKENS,
            ),
        )
        self._engine.start()

    def decode(self, context: int, tokens: int) -> dict[str, Any]:
        """Seconds a token behind `context` tokens, the first ones not counted."""
        watch: Watch | None = None
        times_s: list[float] = []
        others = 1.0

        def came(token: int) -> None:
            nonlocal watch, others
            times_s.append(time.perf_counter())
            if len(times_s) == UNMEASURED + 1:
                watch = Watch()
            if len(times_s) == UNMEASURED + 1 + tokens and watch is not None:
                others = watch.others()

        self._answer(self._prompt(context, seed=0), UNMEASURED + 1 + tokens, came)
        return {"seconds": (times_s[-1] - times_s[UNMEASURED]) / tokens, "others": others}

    def prefill(self, tokens: int, seed: int) -> dict[str, Any]:
        """Seconds for a prompt alone until its first token."""
        came_s: list[float] = []
        prompt = self._prompt(tokens, seed)
        watch, began_s = Watch(), time.perf_counter()
        self._answer(prompt, 1, lambda token: came_s.append(time.perf_counter()))
        return {"seconds": came_s[0] - began_s, "others": watch.others()}

    def answer(self, prompt: list[int], tokens: int, file: str) -> dict[str, Any]:
        """Saves fp32 logits [tokens, V] of the answer into `file`, and says its tokens."""
        runner = self._runner()
        plain: Ops = runner._ops
        rows: list[torch.Tensor] = []
        answer: list[int] = []

        def head(*arguments: Any) -> torch.Tensor:
            logits = plain.head(*arguments)
            if len(logits):
                rows.append(logits.clone())
            return logits

        runner._ops = replace(plain, head=head)
        try:
            self._answer(prompt, tokens, answer.append)
        finally:
            runner._ops = plain
        np.save(file, torch.cat(rows).numpy())
        return {"tokens": answer}

    def profile(self, context: int, tokens: int) -> dict[str, Any]:
        """Seconds a token of each operation, and of all that is none (`host`)."""
        runner = self._runner()
        plain: Ops = runner._ops
        spent: dict[str, float] = defaultdict(float)
        times_s: list[float] = []

        def timed(name: str) -> Callable[..., Any]:
            operation = getattr(plain, name)

            def run(*arguments: Any) -> Any:
                began_s = time.perf_counter()
                found = operation(*arguments)
                spent[name] += time.perf_counter() - began_s
                return found

            return run

        def came(token: int) -> None:
            times_s.append(time.perf_counter())
            if len(times_s) == UNMEASURED + 1:
                spent.clear()

        runner._ops = replace(plain, **{field.name: timed(field.name) for field in fields(Ops)})
        try:
            self._answer(self._prompt(context, seed=0), UNMEASURED + 1 + tokens, came)
        finally:
            runner._ops = plain
        whole_s = times_s[-1] - times_s[UNMEASURED]
        stages = {name: spent[name] / tokens for name in (field.name for field in fields(Ops))}
        return {**stages, "host": (whole_s - sum(spent.values())) / tokens}

    def about(self) -> dict[str, Any]:
        """Versions."""
        return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}

    def _runner(self) -> Any:
        runner = self._engine.runner
        assert isinstance(runner, ModelRunner)
        return runner

    def _prompt(self, tokens: int, seed: int) -> list[int]:
        draw = random.Random(seed)
        return [draw.randrange(self._vocabulary) for _ in range(tokens)]

    def _answer(self, prompt: list[int], tokens: int, came: Callable[[int], object]) -> None:
        """Waits for an answer of exactly `tokens`; `came` is called on the engine's thread."""
        ended: queue.SimpleQueue[Step] = queue.SimpleQueue()

        def deliver(step: Step) -> None:
            match step:
                case Token(id=token):
                    came(token)
                case Finished() | Failed():
                    ended.put(step)

        params = SamplingParams(max_tokens=tokens, temperature=0.0, stop_tokens=frozenset())
        self._engine.submit(prompt, params, deliver)
        if isinstance(step := ended.get(), Failed):
            raise step.error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dense", choices=["bf16", "int8"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    options = parser.parse_args(arguments)
    ours = Ours(options.model, options.dense, options.threads, options.context)
    serve(
        {
            "decode": ours.decode,
            "prefill": ours.prefill,
            "answer": ours.answer,
            "profile": ours.profile,
            "about": ours.about,
        }
    )


if __name__ == "__main__":
    main()
