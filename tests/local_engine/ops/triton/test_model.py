"""The whole model through the kernels gives the reference's logits, however prompts are cut up and mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from local_engine.checkpoint import Checkpoint
from local_engine.model import KV, Model, forward
from local_engine.ops import cpu
from local_engine.ops.triton import OPS, head, out, qkv
from local_engine.ops.triton.configs import Config
from tests.local_engine.batches import Tables, drawn_checkpoint, kv_for, load, logits_of
from tests.local_engine.ops.test_ops import ODD, TWO_LAYERS, padded, prompt_of, reference_logits

ATOL = 1e-4

SMALL = replace(ODD, num_hidden_layers=2, vocab_size=101, hidden_size=64, intermediate_size=96)
"""Two layers, one of each kind, with `ODD`'s heads, experts and window of 21."""


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger tiles than suit a GPU: the interpreter's time goes by programs."""
    monkeypatch.setattr(qkv, "FEW", (Config(7, {"PAIRS": 64, "BLOCK": 64}),))
    monkeypatch.setattr(out, "FEW", (Config(7, {"ROWS": 64}),))
    monkeypatch.setattr(head, "FEW", (Config(7, {"ROWS": 128, "BLOCK": 64}),))


@pytest.fixture(scope="module")
def odd() -> Checkpoint:
    return drawn_checkpoint(SMALL, seed=3)


@pytest.fixture(scope="module")
def model(odd: Checkpoint) -> Model:
    return load(odd)


def prompts_of(*lengths: int) -> list[list[int]]:
    """A prompt of each length."""
    return [prompt_of(length, seed=n, vocabulary=SMALL.vocab_size) for n, length in enumerate(lengths)]


@pytest.mark.parametrize("chunk", [22, 40], ids=lambda n: f"{n} at a time")
def test_prompts_of_different_lengths_side_by_side_have_the_references_logits(
    odd: Checkpoint, model: Model, chunk: int
) -> None:
    prompts = prompts_of(40, 1, 23, 16)
    tables = Tables.of(len(prompts), 40, shuffled=chunk, window=SMALL.sliding_window)

    found = logits_of(model, OPS, prompts, chunk=chunk, tables=tables)

    for logits, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(logits, reference_logits(odd, prompt), rtol=0, atol=ATOL)


@pytest.mark.parametrize("chunk", [129], ids=lambda n: f"{n} at a time")
def test_keys_leave_a_window_of_128_at_the_right_row(chunk: int) -> None:
    checkpoint = drawn_checkpoint(TWO_LAYERS, seed=4)
    tables = Tables.of(1, 150, shuffled=chunk, window=128)

    [logits] = logits_of(load(checkpoint), OPS, [prompt_of(150)], chunk=chunk, tables=tables)

    wanted = reference_logits(checkpoint, prompt_of(150))
    torch.testing.assert_close(logits, wanted, rtol=0, atol=ATOL)


def after_prompts(model: Model, tables: Tables, prompts: list[list[int]]) -> KV:
    """Keys and values of all but the last token of each prompt, as the host computes them."""
    kv = kv_for(model, tables)
    pieces = [(n, prompt[:-1], 0) for n, prompt in enumerate(prompts) if prompt[1:]]
    forward(model, tables.batch(pieces, rows=[]), kv, cpu.OPS)
    return kv


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33, 64], ids=lambda n: f"{n} rows")
def test_sequences_of_different_ages_decode_in_one_captured_step(
    odd: Checkpoint, model: Model, rows: int
) -> None:
    # One sequence is missing in the steps that have room for more: a row that only fills up.
    count = max(1, rows - 1)
    prompts = prompts_of(*((44, 2, 21, 33)[n % 4] for n in range(count)))
    tables = Tables.of(count, 48, shuffled=rows, window=SMALL.sliding_window)
    kv = after_prompts(model, tables, prompts)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(rows)).tolist()
    batch = tables.batch([(n, prompts[n][-1:], len(prompts[n]) - 1) for n in order])

    logits = forward(model, padded(batch, rows), kv, OPS)

    assert logits.shape == (rows, SMALL.vocab_size)
    assert logits.isfinite().all()
    known = {n: reference_logits(odd, prompts[n])[-1] for n in order[:4]}
    for row, n in enumerate(order[:4]):
        torch.testing.assert_close(logits[row], known[n], rtol=0, atol=ATOL)


def test_prompts_and_single_rows_share_a_step(odd: Checkpoint, model: Model) -> None:
    prompts = prompts_of(23, 17, 4, 12)
    tables = Tables.of(4, 48, shuffled=1, window=SMALL.sliding_window)
    kv = kv_for(model, tables)
    forward(model, tables.batch([(0, prompts[0][:22], 0), (2, prompts[2][:3], 0)], rows=[]), kv, OPS)

    pieces = [(2, prompts[2][3:], 3), (3, prompts[3], 0), (0, prompts[0][22:], 22), (1, prompts[1], 0)]
    logits = forward(model, tables.batch(pieces), kv, OPS)

    wanted = [reference_logits(odd, prompt) for prompt in prompts]
    expected = torch.cat([wanted[2][3:], wanted[3], wanted[0][22:], wanted[1]])
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)


def test_what_earlier_owners_left_in_a_block_is_not_heard(model: Model) -> None:
    tables = Tables.of(2, 48, shuffled=2)
    prompts = prompts_of(18, 3)
    ops = replace(cpu.OPS, qkv=OPS.qkv, attend=OPS.attend, out=OPS.out)

    def found(left: float) -> torch.Tensor:
        kv = kv_for(model, tables)
        for layer in kv.layers:
            layer.keys.fill_(left)
            layer.values.fill_(left)
        pieces = [(n, prompt[:-1], 0) for n, prompt in enumerate(prompts)]
        first = forward(model, tables.batch(pieces), kv, ops)
        pieces = [(n, prompt[-1:], len(prompt) - 1) for n, prompt in enumerate(prompts)]
        return torch.cat([first, forward(model, tables.batch(pieces), kv, ops)])

    assert torch.equal(found(torch.nan), found(0.0))


def test_a_sequence_gone_bad_does_not_spoil_its_neighbours(model: Model) -> None:
    tables = Tables.of(3, 32)
    prompts = prompts_of(9, 9, 9)
    good = logits_of(model, OPS, prompts, tables=tables)
    embedding = model.embedding.clone()
    bad = next(token for token in prompts[1] if token not in prompts[0] + prompts[2])
    embedding[bad] = torch.nan

    found = logits_of(replace(model, embedding=embedding), OPS, prompts, tables=tables)

    assert found[1][-1].isnan().all()
    for n in (0, 2):
        torch.testing.assert_close(found[n], good[n], rtol=0, atol=ATOL)
