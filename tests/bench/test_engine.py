"""The bench of the engine says by its exit status whether every goal was met, and prints what it measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import engine
from bench.agreement import Agreement
from bench.bandwidth import Reader
from bench.duel import LLAMA, OURS, Duel, Wanted
from bench.models import Subject
from bench.processes import NotStarted
from bench.turns import Series
from local_engine.errors import CheckpointError
from local_engine.presets import TINY


class Read(Reader):
    """A machine that reads 50 GB/s."""

    def __init__(self, threads: int) -> None:
        self.threads, self.best = threads, {"told": 50.0}

    def measure(self) -> None:
        """Nothing to do."""


class Bench:
    """What is measured, told instead of done."""

    def __init__(self, patch: pytest.MonkeyPatch, ours_s: float) -> None:
        self.ours_s = ours_s
        self.wanted: list[tuple[str, Wanted]] = []
        patch.setattr(engine, "Reader", Read)
        patch.setattr(engine, "subject", lambda path: Subject(path, TINY, 1 << 20))
        patch.setattr(engine, "random_20b", lambda layers: Path(f"random-{layers}"))
        patch.setattr(engine, "gguf_of", lambda model, dense: Path(f"{model}-{dense}.gguf"))
        patch.setattr(engine, "duel", self.duel)
        patch.setattr(engine, "transformers_series", self.transformers)

    def duel(
        self, model: Subject, dense: Any, wanted: Wanted, folder: Path, between: Callable[[], None]
    ) -> Duel:
        self.wanted.append((dense, wanted))
        both = Series({OURS: (self.ours_s,), LLAMA: (0.02,)}, rejected=0)
        same = Agreement(0.001, 0.02, 1.0)
        spent = {"head": 0.01, "host": 0.0}
        return Duel(
            dense,
            together=True,
            agreements={OURS: same, LLAMA: same},
            decode=dict.fromkeys(wanted.contexts, both),
            prefill=both,
            stages={OURS: spent, LLAMA: spent},
            about={OURS: {"torch": "2"}, LLAMA: {"version": "1"}},
        )

    def transformers(self, wanted: Wanted, folder: Path) -> Series:
        return Series({OURS: (self.ours_s,), engine.TRANSFORMERS: (0.2,)}, rejected=0)


def test_all_goals_met_is_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(monkeypatch, ours_s=0.018)

    assert engine.main(["--threads", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    wanted = Wanted(threads=2, contexts=(128, 4096), tokens=32, prompt_tokens=512, rounds=5)
    assert bench.wanted == [("bf16", wanted), ("int8", wanted)]
    assert told["model"] == "random-4, 4 layers"
    assert told["read_gb_per_s"] == {"told": 50.0}
    assert [row["met"] for row in told["rows"]] == [True] * 15
    assert told["rows"][-1]["what"] == "decode at 128, 2 layers, bf16, to transformers'"
    assert told["rows"][-1]["note"] == "55.6 against 5.0 tokens/s"
    assert told["a_token"]["int8"][5]["stage"] == "head"
    assert told["measured"][0]["decode_s"]["4096"] == {
        "seconds": {OURS: [0.018], LLAMA: [0.02]},
        "rejected": 0,
    }


def test_a_missed_goal_is_told_by_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Bench(monkeypatch, ours_s=0.03)

    assert engine.main(["--dense", "bf16", "--contexts", "128"]) == 1
    lines = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert ["decode at 128, bf16 dense, to llama.cpp's BF16", "0.67 ×", "≥ 0.95 ×", "NO"] in lines


def test_what_was_left_out_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    Bench(monkeypatch, ours_s=0.01)

    assert engine.main(["--dense", "bf16", "--no-transformers"]) == 1


@pytest.mark.parametrize(
    "error", [NotStarted("the peers are not built"), CheckpointError("`model` holds no `*.safetensors`")]
)
def test_what_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def missing(*_: object) -> Subject:
        raise error

    monkeypatch.setattr(engine, "subject", missing)

    assert engine.main(["--model", "model"]) == 3
    assert capsys.readouterr().err == f"bench: {error}\n"


def test_the_hosts_work_is_a_bench_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def host(arguments: Sequence[str]) -> int:
        given.extend(arguments)
        return 7

    monkeypatch.setattr("bench.host.main", host)

    assert engine.main(["--null-ops", "--json"]) == 7
    assert given == ["--json"]
