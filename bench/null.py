"""An engine without a model: all that the host does for a token, over operations that give tokens at once.

    python -m bench.null PORT CORE STEP_MS

serves it on loopback, kept to one core. The results of a step are there `STEP_MS` milliseconds after those
of the step before, as if a device computed meanwhile; 0 is at once. Scheduler, buffers, runner, engine and
server are those that run a model; only the operations are not. A token follows from the one before it: an
answer begins with the header of a `final` message, and everything behind that is text drawn at random.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from prometheus_client import CollectorRegistry

from local_engine.buffers import Buffers, Sizes
from local_engine.engine import Engine
from local_engine.harmony.tokens import CHANNEL, FIRST_SPECIAL, MESSAGE
from local_engine.kv import BlockTables
from local_engine.metrics import Metrics
from local_engine.model import KV, Model, Rope
from local_engine.opening import EngineOptions, pool_blocks
from local_engine.ops import Ops
from local_engine.presets import GPT_OSS_20B
from local_engine.replay import Replay
from local_engine.runner import ModelRunner
from local_engine.sampling import Draw, Drawn
from local_engine.scheduler import Limits, Plan, Scheduler
from local_engine.serve import ServeOptions, serve
from local_engine.service import Service
from local_engine.steps import Grammar, Runner, Sampled, Ticket
from local_engine.structure.request import Structures
from local_engine.vocabulary import Vocabulary, load_vocabulary

SECRET: Final = "bench-secret-of-the-engine"
MODEL: Final = "gpt-oss-20b"
RUNNING: Final = 64
CONTEXT_TOKENS: Final = 8192
STEP_TOKENS: Final = 512
DRAWS: Final = 1 << 16
"""Tokens that are drawn in advance, to be given one after the other."""

Kind = TypeVar("Kind", bound=Engine)


def null_engine(kind: type[Kind], vocabulary: Vocabulary, *, context_tokens: int, overlap: bool) -> Kind:
    """An engine of this kind, not started, with the sizes of gpt-oss-20b and no layers, and blocks for
    `RUNNING` sequences of `context_tokens`."""
    config, device = GPT_OSS_20B, torch.device("cpu")
    options = EngineOptions(max_running=RUNNING, max_context_tokens=context_tokens, step_tokens=STEP_TOKENS)
    limits = Limits(options.max_running, options.step_tokens)
    # Exact in fp32: a row of the embedding is the token itself, so that `sample` sees what came before.
    tokens = torch.arange(config.vocab_size, dtype=torch.float32)[:, None]
    none = torch.empty(0)
    model = Model(config, torch.float32, device, tokens, none, none, (), Rope(none, none))
    buffers = Buffers(Sizes(limits, context_tokens, config.sliding_window, config.vocab_size), device)
    runner = ModelRunner(model, KV(()), null_ops(vocabulary), buffers, overlaps=overlap)
    tables = BlockTables(*pool_blocks(options, config, context_tokens), config.sliding_window)
    return kind(runner, Scheduler(tables, limits), max_context_tokens=context_tokens, max_waiting=RUNNING)


def null_ops(vocabulary: Vocabulary) -> Ops:
    """Operations that compute nothing: the next token is in a table, or the next one of those drawn."""
    following = torch.full((GPT_OSS_20B.vocab_size,), -1)
    (assistant,), (final,) = vocabulary.encode("assistant"), vocabulary.encode("final")
    following[assistant], following[CHANNEL], following[final] = CHANNEL, final, MESSAGE
    drawn = torch.tensor(text_tokens(vocabulary, without={assistant, final}))
    at = 0

    def nothing(x: torch.Tensor, *_: object) -> torch.Tensor:
        return x

    def head(x: torch.Tensor, _: Model, rows: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, rows)

    def sample(last: torch.Tensor, _: Draw) -> Drawn:
        nonlocal at
        count = last.shape[0]
        at = at + count if at + 2 * count <= DRAWS else 0
        said = following[last[:, 0].long()]
        return Drawn(torch.where(said < 0, drawn[at : at + count], said))

    return Ops(nothing, nothing, nothing, nothing, nothing, head, sample)


def text_tokens(vocabulary: Vocabulary, without: set[int]) -> list[int]:
    """`DRAWS` tokens of whole characters, drawn at random."""
    draws = random.Random(0)
    found: list[int] = []
    while len(found) < DRAWS:
        token = draws.randrange(FIRST_SPECIAL)
        whole = "\ufffd" not in vocabulary.token_bytes(token).decode(errors="replace")
        if whole and token not in without:
            found.append(token)
    return found


@dataclass(frozen=True, slots=True)
class Later:
    """A step whose results are there at `due_s` on the monotonic clock."""

    ticket: Ticket
    due_s: float

    def results(self) -> list[Sampled]:
        """Waits until then, as for a device: without holding the interpreter."""
        time.sleep(max(0.0, self.due_s - time.monotonic()))
        return self.ticket.results()


class Paced:
    """A runner whose device takes `step_s` for every step, one step after the other."""

    def __init__(self, runner: Runner, step_s: float) -> None:
        self.overlaps = runner.overlaps
        self._runner = runner
        self._step_s = step_s
        self._free_s = 0.0

    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> Later:
        """Begins a step."""
        self._free_s = max(self._free_s, time.monotonic()) + self._step_s
        return Later(self._runner.launch(plan, grammars), self._free_s)


def main(port: int, core: int, step_ms: float) -> None:
    """Serves until told to end."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    vocabulary = load_vocabulary()
    engine = null_engine(Engine, vocabulary, context_tokens=CONTEXT_TOKENS, overlap=True)
    if step_ms:
        engine.runner = Paced(engine.runner, step_ms / 1e3)
    service = Service(
        engine=engine,
        vocabulary=vocabulary,
        structures=Structures(vocabulary),
        replay=Replay(vocabulary),
        metrics=Metrics(CollectorRegistry(), engine.load),
        models=(MODEL,),
        fingerprint="no model",
    )
    serve(service, ServeOptions(secret=SECRET, port=port))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
