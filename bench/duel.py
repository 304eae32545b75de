"""The local engine and llama.cpp over the same weights: do they agree, and how fast is each, in turns."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from bench.agreement import Agreement, agreement
from bench.models import Subject, gguf_of
from bench.peers.build import ROOT, interpreter
from bench.peers.talk import running
from bench.processes import NotStarted, python
from bench.turns import Disturbed, Sample, Series, in_turns
from local_engine.machine import available

OURS, LLAMA = "local engine", "llama.cpp"
PROMPT_TOKENS = 160
"""Of what is compared: longer than the window."""
ANSWER_TOKENS = 12
SPARE_BYTES = 2 << 30
"""Of memory, beside the weights of what runs."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""llama.cpp lays its experts out anew in memory of its own; pages of 2 MiB suit them."""

OurDense = Literal["bf16", "int8"]
THEIRS: Mapping[OurDense, Literal["bf16", "q8_0"]] = {"bf16": "bf16", "int8": "q8_0"}


class Asked(Protocol):
    """An engine that can be asked."""

    def ask(self, do: str, **options: object) -> dict[str, Any]:
        """One question and its answer. Raises `NotStarted`."""


@dataclass(frozen=True, slots=True)
class Side:
    """How an engine is started."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path

    @contextmanager
    def started(self) -> Iterator[Asked]:
        """Runs until the block ends."""
        with running(self.name, list(self.command), self.folder, self.environment) as peer:
            yield peer

    def ask(self, do: str, **options: object) -> dict[str, Any]:
        """For one question only: where both do not fit into memory at once."""
        with self.started() as peer:
            return peer.ask(do, **options)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured."""

    threads: int
    contexts: tuple[int, ...]
    tokens: int
    prompt_tokens: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Duel:
    """What was found at one precision of the dense weights. Where a series is a text, it says why there is
    none."""

    dense: OurDense
    together: bool
    agreements: Mapping[str, Agreement]
    decode: Mapping[int, Series | str]
    prefill: Series | str
    stages: Mapping[str, Mapping[str, float]]
    """Seconds a token of each stage behind the shortest context, measured apart."""
    about: Mapping[str, Mapping[str, Any]]


def duel(
    model: Subject, dense: OurDense, wanted: Wanted, folder: Path, between: Callable[[], object]
) -> Duel:
    """Runs one; `between` is called between series, while neither computes. Raises `NotStarted`."""
    gguf = gguf_of(model.path, THEIRS[dense])
    sides = sides_of(model.path, gguf, dense, wanted, folder)
    with ExitStack() as opened:
        together = fits_together(model.nbytes, gguf.stat().st_size)
        engines: Mapping[str, Asked] = sides
        if together:
            engines = {name: opened.enter_context(side.started()) for name, side in sides.items()}
        about = {name: engine.ask("about") for name, engine in engines.items()}
        note(f"{dense} dense: do they agree?")
        agreements = agree(model, engines, wanted.threads, folder)
        decode = {}
        for context in wanted.contexts:
            note(f"{dense} dense: decoding at {context}")
            decode[context] = series(engines, wanted.rounds, "decode", context=context, tokens=wanted.tokens)
            between()
        note(f"{dense} dense: stages of a token, and prompts of {wanted.prompt_tokens}")
        first = min(wanted.contexts)
        stages = {
            name: engine.ask("profile", context=first, tokens=wanted.tokens)
            for name, engine in engines.items()
        }
        between()
        # Last: prompts that come once push out of the cache what is decoded behind again and again.
        prefill = series(engines, wanted.rounds, "prefill", seeded=True, tokens=wanted.prompt_tokens)
        between()
    return Duel(dense, together, agreements, decode, prefill, stages, about)


def note(text: str) -> None:
    """What happens now, with the time, for whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def sides_of(model: Path, gguf: Path, dense: OurDense, wanted: Wanted, folder: Path) -> dict[str, Side]:
    """Both, each ready to be started."""
    longest = max((*wanted.contexts, wanted.prompt_tokens, PROMPT_TOKENS)) + wanted.tokens + ANSWER_TOKENS
    here = {"PYTHONPATH": str(ROOT)}
    limits = ("--threads", str(wanted.threads), "--context", str(-(-longest // 256) * 256))
    ours = python("-m", "bench.peers.ours", str(model), "--dense", dense, *limits)
    theirs = [str(interpreter()), "-m", "bench.peers.llama", str(gguf), *limits]
    return {
        OURS: Side("ours", tuple(ours), here, folder),
        LLAMA: Side("llama", tuple(theirs), here | HUGE_PAGES, folder),
    }


def fits_together(*nbytes: int) -> bool:
    """Whether the weights of all fit into what is free; else each has to have the machine to itself. Raises
    `NotStarted` when not even one fits."""
    there = available("cpu")
    if there is None or sum(nbytes) + SPARE_BYTES <= there.free_bytes:
        return True
    if max(nbytes) + SPARE_BYTES <= there.free_bytes:
        return False
    raise NotStarted(
        f"{there.free_bytes / 1e9:.1f} GB of memory are free, but a model takes "
        f"{(max(nbytes) + SPARE_BYTES) / 1e9:.1f} GB: measure fewer `--layers`"
    )


def agree(model: Subject, engines: Mapping[str, Asked], threads: int, folder: Path) -> dict[str, Agreement]:
    """Our engine answers a prompt; llama.cpp and the reference are led along the same tokens."""
    draw = random.Random(1)
    prompt = [draw.randrange(model.config.vocab_size) for _ in range(PROMPT_TOKENS)]
    files = {name: folder / f"{name}.npy" for name in (OURS, LLAMA, "reference")}
    answer = engines[OURS].ask("answer", prompt=prompt, tokens=ANSWER_TOKENS, file=str(files[OURS]))["tokens"]
    engines[LLAMA].ask("follow", prompt=prompt, answer=answer, file=str(files[LLAMA]))
    reference(model.path, [*prompt, *answer[:-1]], threads, files["reference"])
    right = np.load(files["reference"])
    return {name: agreement(right, np.load(files[name])) for name in (OURS, LLAMA)}


def reference(model: Path, tokens: Sequence[int], threads: int, file: Path) -> None:
    """Saves the reference's last logits. Its fp32 weights are in memory only as long as that takes."""
    command = python("-m", "bench.peers.reference", str(model), str(file))
    command += ["--rows", str(ANSWER_TOKENS), "--threads", str(threads)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=json.dumps(tokens), text=True, env=environment, capture_output=True, check=False
    )
    if done.returncode:
        raise NotStarted(f"the reference failed:\n{done.stderr[-2000:]}")


def series(
    engines: Mapping[str, Asked], rounds: int, do: str, *, seeded: bool = False, **options: int
) -> Series | str:
    """Samples of one question in turns, after one of each that is not counted. `seeded`: each try asks for
    another prompt."""

    def taker(engine: Asked) -> Callable[[int], Sample]:
        def take(number: int) -> Sample:
            more = {"seed": number + 1} if seeded else {}
            return Sample(**engine.ask(do, **options, **more))

        return take

    takers = {name: taker(engine) for name, engine in engines.items()}
    for take in takers.values():
        take(-1)
    try:
        return in_turns(takers, rounds)
    except Disturbed as error:
        return str(error)
