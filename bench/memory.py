"""What the engine takes in memory at the 20b shape, beside what `inspect` says: `python -m bench.memory`.

    --model PATH        a checkpoint, any number of times; without it, random ones of the 20b shape are made,
                        one in each form and one after the other, in the temporary folder (14 GB)
    --context-tokens N  a context, any number of times; 1024 and 32768 unless given
    --json              for machines

Each row is a process of its own (`bench.resident`). Ends with 1 where the peak is more than 5 % off what was
predicted, where more than 1.5 GB are anonymous, or where everything takes more than 16 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from local_engine.checkpoint import open_checkpoint
from local_engine.config import Format
from local_engine.inspection import memory_of
from local_engine.machine import describe
from local_engine.make import make_checkpoint

PRESET = "20b-shape"
CONTEXTS = (1024, 32768)
PROMPT_TOKENS, ANSWER_TOKENS = 512, 16
MOST_OFF = 0.05
MOST_ANONYMOUS_BYTES, MOST_BYTES = 1_500_000_000, 16_000_000_000
DEADLINE_S = 1800


@dataclass(frozen=True, slots=True)
class Measured:
    """A checkpoint at a context. `off` is how far the prediction is above the peak, as a share of it."""

    model: str
    form: Format
    context_tokens: int
    predicted_bytes: int
    peak_bytes: int
    anonymous_bytes: int
    off: float
    stages: tuple[dict[str, Any], ...]

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be."""
        limits = {
            f"the prediction is {self.off:+.1%} off": abs(self.off) > MOST_OFF,
            f"{gb(self.anonymous_bytes)} are anonymous": self.anonymous_bytes > MOST_ANONYMOUS_BYTES,
            f"the peak is {gb(self.peak_bytes)}": self.peak_bytes > MOST_BYTES,
        }
        return [
            f"{self.form}, {self.context_tokens} tokens: {text}" for text, wrong in limits.items() if wrong
        ]


def measure(path: Path, context: int) -> Measured:
    """Runs a process over the checkpoint. Raises `CalledProcessError` when it fails."""
    checkpoint = open_checkpoint(path)
    predicted = memory_of(checkpoint, torch.bfloat16, {"cpu": None}, context_tokens=context, running=1)
    command = [sys.executable, "-m", "bench.resident", str(path), str(context)]
    ran = subprocess.run(
        [*command, str(min(PROMPT_TOKENS, context // 2)), str(ANSWER_TOKENS)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    stages = tuple(json.loads(line) for line in ran.stdout.splitlines())
    peak, promised = stages[-1]["peak_bytes"], predicted["devices"]["cpu"]["peak_bytes"]
    return Measured(
        model=checkpoint.origin.preset or path.name,
        form=checkpoint.format,
        context_tokens=context,
        predicted_bytes=promised,
        peak_bytes=peak,
        anonymous_bytes=max(stage["anonymous_bytes"] for stage in stages),
        off=round(promised / peak - 1, 4),
        stages=stages,
    )


@contextmanager
def made(form: Format) -> Iterator[Path]:
    """A random checkpoint of the 20b shape, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        make_checkpoint(Path(folder), PRESET, form)
        yield Path(folder)


def lines(rows: Sequence[Measured]) -> Iterator[str]:
    """A table for people."""
    yield f"{'form':<10}{'context':>8}{'predicted':>12}{'peak':>12}{'off':>8}{'anonymous':>12}"
    for row in rows:
        yield (
            f"{row.form:<10}{row.context_tokens:>8}{gb(row.predicted_bytes):>12}{gb(row.peak_bytes):>12}"
            f"{row.off:>+8.1%}{gb(row.anonymous_bytes):>12}"
        )
        for stage in row.stages:
            yield (
                f"  {stage['stage']:<22}{stage['took_s']:>8.1f} s, {gb(stage['anonymous_bytes'])} anonymous, "
                f"{gb(stage['file_bytes'])} mapped"
            )


def gb(count: int) -> str:
    """Decimal, as memory is sold."""
    return f"{count / 1e9:.2f} GB"


def main() -> int:
    """Measures, prints, and says by its exit status whether all is as it should be."""
    options = argparse.ArgumentParser(prog="python -m bench.memory")
    options.add_argument("--model", type=Path, action="append", default=[])
    options.add_argument("--context-tokens", type=int, action="append", default=[])
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    rows: list[Measured] = []
    forms: tuple[Format, ...] = ("hf", "original")
    for source in given.model or forms:
        with ExitStack() as stack:
            path = source if isinstance(source, Path) else stack.enter_context(made(source))
            rows += [measure(path, context) for context in given.context_tokens or CONTEXTS]
    complaints = [complaint for row in rows for complaint in row.complaints]
    if given.json:
        found = {"machine": describe(torch.bfloat16, "cpu"), "rows": [asdict(row) for row in rows]}
        print(json.dumps(found | {"complaints": complaints}, indent=2))
    else:
        print("\n".join([*lines(rows), *complaints]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
