"""The bytes of a token are those of the tensors that it reads."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.traffic import traffic
from local_engine.benchmark import bytes_per_step
from local_engine.presets import GPT_OSS_20B


@pytest.mark.parametrize("context", [100, 5000])
def test_in_bf16_it_is_what_the_engines_own_bench_counts(context: int) -> None:
    total = traffic(GPT_OSS_20B, "bf16", context).total

    # That one counts the biases of all experts, and norms in fp32, as the engine holds them.
    assert total == pytest.approx(bytes_per_step(GPT_OSS_20B, torch.bfloat16, "cpu", 1, context), rel=4e-3)


def test_the_parts_of_a_20b_token() -> None:
    found = traffic(GPT_OSS_20B, "bf16", 4096)
    layers = 24

    assert found.head == 201088 * 2880 * 2 + 2880 * 2
    assert found.out == layers * (2880 * 4096 * 2 + 2880 * 2)
    assert found.experts == layers * 4 * (3 * 2880 * 90 * 17 + (5760 + 2880) * 2)
    # Twelve layers see everything, twelve their window; 64 sinks in each.
    assert found.attend == 12 * (4096 + 128) * 2 * 512 * 2 + layers * 64 * 2
    assert found.total == sum(dataclasses.astuple(found))


def test_int8_is_for_attention_and_the_head_only() -> None:
    wide, narrow = (traffic(GPT_OSS_20B, dense, 128) for dense in ("bf16", "int8"))

    assert wide.head - narrow.head == 201088 * 2880 * 2 - 201088 * 90 * 34
    assert wide.out - narrow.out == 24 * (2880 * 4096 * 2 - 2880 * 128 * 34)
    assert wide.qkv - narrow.qkv == 24 * (5120 * 2880 * 2 - 5120 * 90 * 34)
    assert (wide.experts, wide.route, wide.attend) == (narrow.experts, narrow.route, narrow.attend)
