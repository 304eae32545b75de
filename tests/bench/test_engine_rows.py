"""Goals are held against the ratios of neighbouring samples; what was not measured meets none."""

from __future__ import annotations

import re

import pytest

from bench.agreement import Agreement
from bench.duel import LLAMA, OURS, Duel
from bench.engine_rows import KL_NATS, rows_of, stage_lines, stages_of
from bench.rows import Row, table
from bench.traffic import traffic
from bench.turns import Series
from local_engine.presets import TINY

TOKEN_BYTES = traffic(TINY, "bf16", 128).total


def series(ours: tuple[float, ...], theirs: tuple[float, ...], rejected: int = 0) -> Series:
    return Series({OURS: ours, LLAMA: theirs}, rejected)


def found(
    decode: Series | str = "the machine was busy", prefill: Series | str = "", kl: float = 0.002
) -> Duel:
    return Duel(
        dense="bf16",
        together=True,
        agreements={OURS: Agreement(kl, 0.07, 0.92), LLAMA: Agreement(0.001, 0.04, 0.75)},
        decode={128: decode},
        prefill=prefill,
        stages={
            OURS: {"qkv": 0.004, "experts": 0.008, "head": 0.02, "sample": 0.001, "host": 0.002},
            LLAMA: {"qkv": 0.002, "experts": 0.01, "head": 0.02, "host": 0.0},
        },
        about={},
    )


def rows(duel: Duel, read_gb_per_s: float = 50.0) -> dict[str, Row]:
    return {row.what: row for row in rows_of(duel, TINY, 512, read_gb_per_s)}


def test_decoding_is_compared_round_by_round() -> None:
    row = rows(found(series((0.02, 0.04, 0.02), (0.025, 0.04, 0.03), rejected=2)))[
        "decode at 128, bf16 dense, to llama.cpp's BF16"
    ]

    assert row.value == pytest.approx(1.25)
    assert (row.met, row.goal) == (True, "≥ 0.95 ×")
    assert row.note == ("50.0 against 33.3 tokens/s, 2 disturbed rounds thrown away; aimed at 1.1 ×, reached")


def test_just_below_the_goal_is_missed_and_said() -> None:
    row = rows(found(series((0.1,), (0.094,))))["decode at 128, bf16 dense, to llama.cpp's BF16"]

    assert row.value == pytest.approx(0.94)
    assert row.met is False
    assert row.note == "10.0 against 10.6 tokens/s; aimed at 1.1 ×, not reached"


def test_a_prompts_rate_is_that_of_its_tokens() -> None:
    row = rows(found(prefill=series((4.0,), (2.0,))))["prefill of 512, bf16 dense, to llama.cpp's pp512"]

    assert (row.value, row.goal, row.met) == (0.5, "≥ 0.8 ×", False)
    assert row.note == "128.0 against 256.0 tokens/s"


def test_what_was_not_measured_meets_nothing() -> None:
    row = rows(found())["decode at 128, bf16 dense, to llama.cpp's BF16"]

    assert (row.value, row.met, row.note) == (None, None, "the machine was busy")


def test_reading_faster_than_the_machine_does_is_no_success() -> None:
    seconds = TOKEN_BYTES / 50e9
    what = "its fastest tokens at 128, bf16 dense, to reading memory"

    possible = rows(found(series((2 * seconds, 1.25 * seconds), (1.0, 1.0))))[what]
    impossible = rows(found(series((2 * seconds, seconds / 1.01), (1.0, 1.0))))[what]

    assert possible.value == pytest.approx(0.8)
    assert possible.met is True
    assert impossible.value == pytest.approx(1.01)
    assert impossible.met is False
    assert possible.note == f"{TOKEN_BYTES / 1e6:.0f} MB a token, 40.0 of 50.0 GB/s"


@pytest.mark.parametrize(("kl", "met"), [(KL_NATS, True), (KL_NATS * 1.01, False)])
def test_engines_that_compute_something_else_are_told(kl: float, met: bool) -> None:
    found_rows = rows(found(kl=kl))
    ours = found_rows["divergence of local engine from the reference, bf16 dense"]
    theirs = found_rows["divergence of llama.cpp from the reference, BF16 dense"]

    assert (ours.value, ours.met) == (kl, met)
    assert ours.note == "mean |Δ| 0.070 of the logits' spread, same likeliest 92%"
    assert (theirs.value, theirs.met) == (0.001, True)


def test_a_stage_has_its_time_and_its_bytes() -> None:
    read = traffic(TINY, "bf16", 128)
    stages = {line["stage"]: line for line in stages_of(found(series((1.0,), (1.0,))), TINY)}

    assert stages["head"][OURS] == {
        "ms": 20.0,
        "mb": round(read.head / 1e6, 1),
        "gb_per_s": round(read.head / 0.02 / 1e9, 1),
    }
    assert "attend" not in stages["attend"]
    assert LLAMA not in stages["sample"]
    # A layer is a quarter of qkv and experts, for there are four; the head is not in it.
    assert (stages["a layer"][OURS]["ms"], stages["a layer"][LLAMA]["ms"]) == (3.0, 3.0)
    assert (stages["whole"][OURS]["ms"], stages["whole"][LLAMA]["ms"]) == (35.0, 32.0)
    assert stages["whole"][OURS]["mb"] == round(read.total / 1e6, 1)


def test_the_stages_are_a_table_for_people() -> None:
    lines = list(stage_lines("bf16", stages_of(found(series((1.0,), (1.0,))), TINY)))

    assert lines[0] == "a token, bf16 dense: local engine ms, GB/s | llama.cpp ms, GB/s"
    assert lines[4] == "  route                 - |               -"
    assert [line.split()[0] for line in lines[1:]] == [
        "qkv", "attend", "out", "route", "experts", "head", "sample", "host", "a", "whole",
    ]  # fmt: skip
    assert len({line.index("|") for line in lines[1:]}) == 1


def test_the_rows_are_a_table_for_people() -> None:
    lines = table(rows_of(found(series((0.02,), (0.03,))), TINY, 512, 50.0)).splitlines()
    cells = [re.split("  +", line) for line in lines]

    assert cells[0] == ["what", "measured", "goal", "met"]
    assert cells[2] == ["decode at 128, bf16 dense, to llama.cpp's BF16", "1.50 ×", "≥ 0.95 ×", "yes"]
    assert cells[3] == ["prefill of 512, bf16 dense, to llama.cpp's pp512", "-", "≥ 0.8 ×", "not measured"]
    assert lines[7] == (
        "decode at 128, bf16 dense, to llama.cpp's BF16: 50.0 against 33.3 tokens/s; aimed at 1.1 ×, reached"
    )


def test_small_values_are_not_rounded_away() -> None:
    row = Row("divergence", 0.0012345, "nats", at_most=KL_NATS)

    assert table([row]).splitlines()[2].split("  ") == ["divergence", "0.0012 nats", "≤ 0.003 nats", "yes"]
    assert row.told()["value"] == 0.00123
