"""In exact mode a token at a position has one set of logits, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from local_engine.model import Model
from local_engine.ops import cpu, exact
from tests.local_engine.batches import Tables, drawn_checkpoint, load, logits_of
from tests.local_engine.ops.test_ops import ODD, TWO_LAYERS, prompt_of

LENGTHS = (200, 41, 129, 17, 3, 128, 77, 1)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(drawn_checkpoint(TWO_LAYERS, seed=4))


@pytest.fixture(scope="module")
def odd_model() -> Model:
    return load(drawn_checkpoint(ODD, seed=3))


@pytest.fixture(scope="module")
def at_once(model: Model) -> torch.Tensor:
    """Logits [T, V] of one prefill, alone."""
    return logits_of(model, exact.OPS, [prompt_of(300)])[0]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch with two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("chunk", [1, 16, 127, 128, 129, 300], ids=lambda n: f"{n} at a time")
def test_chunks_and_blocks_do_not_change_a_bit(model: Model, at_once: torch.Tensor, chunk: int) -> None:
    tables = Tables.of(1, 300, shuffled=chunk, window=128)

    [logits] = logits_of(model, exact.OPS, [prompt_of(300)], chunk=chunk, tables=tables)

    assert torch.equal(logits, at_once)


def test_the_same_comparison_tells_batched_arithmetic_apart(model: Model) -> None:
    found = [logits_of(model, cpu.OPS, [prompt_of(300)], chunk=chunk)[0] for chunk in (1, 300)]

    assert not torch.equal(*found)


def test_neighbours_do_not_change_a_bit(model: Model) -> None:
    prompts = [prompt_of(length, seed=length) for length in LENGTHS]
    alone = [logits_of(model, exact.OPS, [prompt])[0] for prompt in prompts]

    for count, chunk in ((3, 50), (8, 200)):
        tables = Tables.of(count, 200, shuffled=count, window=128)
        found = logits_of(model, exact.OPS, prompts[:count], chunk=chunk, tables=tables)
        for logits, wanted in zip(found, alone, strict=False):
            assert torch.equal(logits, wanted)


def test_odd_sizes_do_not_change_a_bit(odd_model: Model) -> None:
    prompts = [prompt_of(length, seed=length) for length in (64, 1, 22, 47, 5)]
    alone = [logits_of(odd_model, exact.OPS, [prompt])[0] for prompt in prompts]

    for chunk in (1, 7, 64):
        tables = Tables.of(len(prompts), 64, shuffled=chunk, window=ODD.sliding_window)
        found = logits_of(odd_model, exact.OPS, prompts, chunk=chunk, tables=tables)
        for logits, wanted in zip(found, alone, strict=True):
            assert torch.equal(logits, wanted)


@pytest.mark.usefixtures("two_threads")
def test_work_that_two_threads_share_does_not_change_a_bit() -> None:
    config = replace(TWO_LAYERS, hidden_size=480, intermediate_size=992, vocab_size=5003, num_experts=5)
    model = load(drawn_checkpoint(config))
    prompts = [prompt_of(length, seed=length) for length in (9, 1, 4)]
    alone = [logits_of(model, exact.OPS, [prompt])[0] for prompt in prompts]

    for chunk in (1, 8):
        tables = Tables.of(len(prompts), 9, shuffled=chunk)
        found = logits_of(model, exact.OPS, prompts, chunk=chunk, tables=tables)
        for logits, wanted in zip(found, alone, strict=True):
            assert torch.equal(logits, wanted)
