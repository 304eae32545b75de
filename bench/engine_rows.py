"""The goals of the engine on a CPU, each held against what was measured, and where a token's time goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.duel import LLAMA, OURS, THEIRS, Duel
from bench.rows import Row
from bench.traffic import traffic
from bench.turns import Series
from local_engine.config import ModelConfig

DECODE_GOAL, DECODE_AIM = 0.95, 1.1
PREFILL_GOAL = 0.8
KL_NATS = 0.003
"""Most that half of an engine's distributions may be from the reference's. Rounding of activations to bf16
or int8 makes 0.0004 to 0.0013 over random weights; attention without its sinks makes 0.0045, weights in a
wrong order, another window or no YaRN about 0.4."""
STAGES = ("qkv", "attend", "out", "route", "experts", "head")


def rows_of(duel: Duel, config: ModelConfig, prompt_tokens: int, read_gb_per_s: float) -> list[Row]:
    """One precision's goals."""
    dense, theirs = duel.dense, THEIRS[duel.dense].upper()
    rows = []
    for context, found in duel.decode.items():
        what = f"decode at {context}, {dense} dense, to llama.cpp's {theirs}"
        rows.append(_ratio(what, found, DECODE_GOAL, 1, DECODE_AIM))
    what = f"prefill of {prompt_tokens}, {dense} dense, to llama.cpp's pp{prompt_tokens}"
    rows.append(_ratio(what, duel.prefill, PREFILL_GOAL, prompt_tokens))
    for context, found in duel.decode.items():
        if isinstance(found, Series):
            read = traffic(config, dense, context).total
            rate = read / min(found.seconds[OURS]) / 1e9
            what = f"its fastest tokens at {context}, {dense} dense, to reading memory"
            note = f"{read / 1e6:.0f} MB a token, {rate:.1f} of {read_gb_per_s:.1f} GB/s"
            rows.append(Row(what, rate / read_gb_per_s, "×", at_most=1, note=note))
    for name, one in duel.agreements.items():
        what = f"divergence of {name} from the reference, {dense if name == OURS else theirs} dense"
        note = f"mean |Δ| {one.mean_delta:.3f} of the logits' spread, same likeliest {one.same_top:.0%}"
        rows.append(Row(what, one.kl, "nats", at_most=KL_NATS, note=note))
    return rows


def _ratio(what: str, found: Series | str, goal: float, tokens: int, aim: float | None = None) -> Row:
    if isinstance(found, str):
        return Row(what, None, "×", at_least=goal, note=found)
    ratio = found.ratio(OURS, LLAMA)
    ours, theirs = (tokens / found.median(name) for name in (OURS, LLAMA))
    note = f"{ours:.1f} against {theirs:.1f} tokens/s"
    if found.rejected:
        note += f", {found.rejected} disturbed rounds thrown away"
    if aim is not None:
        note += f"; aimed at {aim:g} ×, {'reached' if ratio >= aim else 'not reached'}"
    return Row(what, ratio, "×", at_least=goal, note=note)


def stages_of(duel: Duel, config: ModelConfig) -> list[dict[str, Any]]:
    """Milliseconds and GB/s of each stage of a token behind the shortest context, both engines side by side,
    over all layers; `host` is what our engine does besides its operations."""
    context = min(duel.decode)
    read = traffic(config, duel.dense, context)
    listed = []
    for stage in (*STAGES, "sample", "host"):
        line: dict[str, Any] = {"stage": stage}
        for name, spent_s in duel.stages.items():
            if stage in spent_s:
                line[name] = _pace(spent_s[stage], getattr(read, stage, 0))
        listed.append(line)
    for what, names in (("a layer", STAGES[:-1]), ("whole", (*STAGES, "sample", "host"))):
        line = {"stage": what}
        for name, spent_s in duel.stages.items():
            parts = config.num_hidden_layers if what == "a layer" else 1
            total_s = sum(spent_s.get(stage, 0.0) for stage in names)
            nbytes = sum(getattr(read, stage, 0) for stage in names)
            line[name] = _pace(total_s / parts, nbytes // parts)
        listed.append(line)
    return listed


def _pace(seconds: float, nbytes: int) -> dict[str, float]:
    return {
        "ms": round(seconds * 1e3, 3),
        "mb": round(nbytes / 1e6, 1),
        "gb_per_s": round(nbytes / seconds / 1e9, 1) if seconds else 0.0,
    }


def stage_lines(dense: str, stages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The same for people."""
    yield f"a token, {dense} dense: {OURS} ms, GB/s | {LLAMA} ms, GB/s"
    for line in stages:
        cells = (line.get(name) for name in (OURS, LLAMA))
        shown = (
            "-".rjust(15) if cell is None else f"{cell['ms']:8.2f}{cell['gb_per_s']:7.1f}" for cell in cells
        )
        yield f"  {line['stage']:8}{' | '.join(shown)}"
