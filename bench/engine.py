"""The local engine on this machine's CPU, beside llama.cpp and transformers in the same run.

    python -m bench.engine [--json] [--layers N] [--model PATH] [--dense bf16|int8] [--contexts N ...]
    python -m bench.engine --null-ops ...

`make bench-peers` builds the peers first. All compute the same random weights of the 20b shape, each in a
process of its own, and are measured in turns. `--null-ops` measures what the host does around a model instead
(`bench.host`). Exit 0: every goal met, 1: one is missed or was not measured, 3: something is not there.
`docs/performance.md` says how each number is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bench.bandwidth import Reader
from bench.duel import OURS, THEIRS, Duel, Side, Wanted, duel, note, series, sides_of
from bench.engine_rows import rows_of, stage_lines, stages_of
from bench.models import Subject, gguf_of, random_20b, subject
from bench.peers.build import ROOT
from bench.processes import NotStarted, python
from bench.rows import Row, table
from bench.turns import Series
from local_engine.errors import EngineError
from local_engine.machine import describe

LAYERS = 4
TRANSFORMERS, TRANSFORMERS_LAYERS = "transformers", 2
TRANSFORMERS_CONTEXT = 128


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--null-ops" in given:
        from bench import host

        given.remove("--null-ops")
        return host.main(given)
    options = parser().parse_args(given)
    try:
        return run(options)
    except (NotStarted, EngineError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--null-ops", action="store_true", help="the host's work without a model")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of random weights (default {LAYERS})")
    parser.add_argument("--model", type=Path, help="measure this checkpoint instead")
    parser.add_argument(
        "--dense", choices=["bf16", "int8"], nargs="+", default=["bf16", "int8"],
        help="precisions of the weights outside experts",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each engine (default all)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 4096], help="to decode behind")
    parser.add_argument("--tokens", type=int, default=32, help="decoded in a sample (default 32)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt (default 512)")
    parser.add_argument("--rounds", type=int, default=5, help="undisturbed rounds of each (default 5)")
    parser.add_argument("--no-transformers", action="store_true", help="leave transformers out")
    return parser


def run(options: argparse.Namespace) -> int:
    """Measures and prints. Raises `NotStarted` and `EngineError`."""
    began_s, today = time.monotonic(), datetime.datetime.now(datetime.UTC).date()
    wanted = Wanted(options.threads, tuple(options.contexts), options.tokens, options.prompt, options.rounds)
    model = subject(options.model or random_20b(options.layers))
    for dense in options.dense:
        gguf_of(model.path, THEIRS[dense])
    torch.set_num_threads(options.threads)
    reader = Reader(options.threads)
    note("how fast memory is read")
    reader.measure()
    with tempfile.TemporaryDirectory(prefix="douane-bench-") as folder:
        duels = [duel(model, dense, wanted, Path(folder), reader.measure) for dense in options.dense]
        beside = None if options.no_transformers else transformers_series(wanted, Path(folder))
    rows = [row for one in duels for row in rows_of(one, model.config, options.prompt, reader.gb_per_s)]
    rows.append(transformers_row(beside))
    stages = {one.dense: stages_of(one, model.config) for one in duels}
    if options.json:
        told = {
            "bench": "engine",
            "date": today.isoformat(),
            "machine": describe(torch.bfloat16, "cpu") | {"load_average": round(os.getloadavg()[0], 2)},
            "model": model.name,
            "wanted": dataclasses.asdict(wanted),
            "took_s": round(time.monotonic() - began_s),
            "read_gb_per_s": {way: round(rate, 1) for way, rate in reader.best.items()},
            "rows": [row.told() for row in rows],
            "a_token": stages,
            "measured": [told_of(one) for one in duels],
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print(f"{model.name}, {options.threads} threads, reading {reader.gb_per_s:.1f} GB/s\n")
        print(table(rows))
        for dense, listed in stages.items():
            print()
            print("\n".join(stage_lines(dense, listed)))
    return 0 if all(row.met for row in rows) else 1


def transformers_series(wanted: Wanted, folder: Path) -> Series | str:
    """Decoding of two layers by our engine and by transformers, whose experts are decoded to bf16."""
    note(f"{TRANSFORMERS}, {TRANSFORMERS_LAYERS} layers")
    model: Subject = subject(random_20b(TRANSFORMERS_LAYERS))
    alone = dataclasses.replace(wanted, contexts=(TRANSFORMERS_CONTEXT,), tokens=wanted.tokens // 2)
    gguf = model.path  # not started: only our side is
    ours = sides_of(model.path, gguf, "bf16", alone, folder)[OURS]
    command = python("-m", "bench.peers.hf", str(model.path), "--threads", str(wanted.threads))
    theirs = Side(TRANSFORMERS, tuple(command), {"PYTHONPATH": str(ROOT)}, folder)
    with ExitStack() as opened:
        engines = {
            OURS: opened.enter_context(ours.started()),
            TRANSFORMERS: opened.enter_context(theirs.started()),
        }
        return series(engines, wanted.rounds, "decode", context=TRANSFORMERS_CONTEXT, tokens=alone.tokens)


def transformers_row(found: Series | str | None) -> Row:
    what = f"decode at {TRANSFORMERS_CONTEXT}, {TRANSFORMERS_LAYERS} layers, bf16, to transformers'"
    if not isinstance(found, Series):
        return Row(what, None, "×", at_least=1, note=found or "left out")
    ours, theirs = (1 / found.median(name) for name in (OURS, TRANSFORMERS))
    note = f"{ours:.1f} against {theirs:.1f} tokens/s"
    return Row(what, found.ratio(OURS, TRANSFORMERS), "×", at_least=1, note=note)


def told_of(found: Duel) -> dict[str, Any]:
    """Every sample, for the JSON output."""
    return {
        "dense": found.dense,
        "in_memory_together": found.together,
        "agreement_with_reference": {name: dataclasses.asdict(one) for name, one in found.agreements.items()},
        "decode_s": {str(context): told_series(one) for context, one in found.decode.items()},
        "prefill_s": told_series(found.prefill),
        "about": found.about,
    }


def told_series(found: Series | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"not_measured": found}
    return {
        "seconds": {name: list(all_s) for name, all_s in found.seconds.items()},
        "rejected": found.rejected,
    }


if __name__ == "__main__":
    raise SystemExit(main())
