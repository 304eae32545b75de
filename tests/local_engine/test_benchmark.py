"""The benchmark's rates are tokens over time, and its bytes are those of the tensors a step reads."""

from __future__ import annotations

import json

import pytest
import torch

from local_engine.benchmark import benchmark, bytes_per_step, lines, read_gb_per_s
from local_engine.presets import GPT_OSS_20B, TINY
from local_engine.tensors import tensor_specs
from tests.local_engine.told import ToldRunner, told_engine


def test_rates_are_those_of_the_steps() -> None:
    seconds = [0.0]

    def half_a_second(_: int) -> None:
        seconds[0] += 0.5

    with told_engine(ToldRunner([[1]], half_a_second), max_running=4) as engine:
        found = benchmark(
            engine,
            TINY,
            torch.float32,
            "cpu",
            batches=(1, 4),
            prompt_tokens=32,
            answer_tokens=6,
            clock=lambda: seconds[0],
        )

    assert (found.prefill.prompt_tokens, found.prefill.first_token_s) == (32, 0.5)
    assert found.prefill.tokens_per_s == 64
    assert [(run.batch, run.tokens_per_s, run.ms_per_step) for run in found.decode] == [
        (1, 2, 500),
        (4, 8, 500),
    ]
    for run in found.decode:
        assert run.bytes_per_token == round(
            bytes_per_step(TINY, torch.float32, "cpu", run.batch, 35) / run.batch
        )
        assert run.gb_per_s == pytest.approx(run.bytes_per_token * run.tokens_per_s / 1e9, abs=1e-3)
    assert found.machine["dtype"] == "float32"
    assert json.loads(json.dumps(found.as_dict()))["decode"][1]["batch"] == 4
    assert [line.partition(":")[0] for line in lines(found)][1:] == [
        "reading memory",
        "prompt of 32",
        "answering 1 at once",
        "answering 4 at once",
    ]


def test_one_token_of_the_20b_shape_reads_its_active_weights() -> None:
    specs = {spec.name: spec.nbytes for spec in tensor_specs(GPT_OSS_20B)}
    experts = sum(size for name, size in specs.items() if name.endswith(("blocks", "scales")))
    rest = sum(specs.values()) - experts - specs["embedding.weight"]
    row = 2880 * 2

    assert bytes_per_step(GPT_OSS_20B, torch.bfloat16, "cpu", 1, 0) == rest + row + experts * 4 // 32
    assert round(bytes_per_step(GPT_OSS_20B, torch.bfloat16, "cpu", 1, 100) / 1e9, 1) == 3.7


def test_keys_and_values_count_whole_in_full_layers_and_to_the_window_in_the_others() -> None:
    at = [bytes_per_step(GPT_OSS_20B, torch.bfloat16, "cuda", 2, n) for n in (0, 128, 1128)]

    assert at[1] - at[0] == 2 * 128 * 48 << 10
    assert at[2] - at[1] == 2 * 1000 * 24 << 10


def test_more_answers_touch_more_experts_but_share_the_rest() -> None:
    one, many, all_of_them = (
        bytes_per_step(GPT_OSS_20B, torch.bfloat16, "cuda", n, 0) for n in (1, 8, 10_000)
    )

    assert one < many < 8 * one
    assert all_of_them < sum(spec.nbytes for spec in tensor_specs(GPT_OSS_20B))
    decoded = bytes_per_step(GPT_OSS_20B, torch.bfloat16, "cuda", 1, 0, dense_experts=True)
    assert decoded - one == 24 * 4 * 3 * 2880 * 2880 * (16 - 4.25) / 8


def test_plain_reading_is_bytes_over_the_best_time() -> None:
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 29.0, 30.0, 38.0, 40.0, 43.0])

    assert read_gb_per_s("cpu", lambda: next(times)) == (256 << 20) / 2.0 / 1e9
