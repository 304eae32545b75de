"""Every set of operations gives a sequence the reference's logits, however it is cut up and put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from local_engine.batch import Batch, Group
from local_engine.checkpoint import Checkpoint
from local_engine.model import KV, Model, forward
from local_engine.ops import Ops, cpu, ref
from local_engine.presets import TINY
from local_engine.reference import ReferenceModel
from tests.local_engine.batches import Tables, drawn_checkpoint, kv_for, load, logits_of

ATOL = 1e-4

ODD = replace(
    TINY,
    num_hidden_layers=3,
    num_experts=7,
    experts_per_token=3,
    vocab_size=509,
    hidden_size=96,
    intermediate_size=160,
    head_dim=10,
    num_attention_heads=9,
    num_key_value_heads=3,
    sliding_window=21,
)
"""Sizes that no vector register divides, and a window that ends within a block."""

TWO_LAYERS = replace(TINY, num_hidden_layers=2)

all_ops = pytest.mark.parametrize("ops", ["ref", "exact", "cpu", "native"], indirect=True)
batched_ops = pytest.mark.parametrize("ops", ["ref", "cpu", "native"], indirect=True)
"""What `exact` does however a prompt is cut up has a stricter test of its own."""


def prompt_of(length: int, seed: int = 0, vocabulary: int = 509) -> list[int]:
    """Random tokens."""
    return torch.randint(0, vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def reference_logits(checkpoint: Checkpoint, prompt: list[int]) -> torch.Tensor:
    """The reference's logits [T, V] of one prefill."""
    model = ReferenceModel(checkpoint, torch.float32)
    return model.forward(prompt, model.new_cache())


@pytest.fixture(scope="module")
def odd() -> Checkpoint:
    return drawn_checkpoint(ODD, seed=3)


@pytest.fixture(scope="module")
def odd_model(odd: Checkpoint) -> Model:
    return load(odd)


@pytest.fixture(scope="module")
def windowed() -> tuple[Model, torch.Tensor]:
    """Two layers with the released window of 128, and the reference's logits of a prompt of 300."""
    checkpoint = drawn_checkpoint(TWO_LAYERS, seed=4)
    return load(checkpoint), reference_logits(checkpoint, prompt_of(300))


@pytest.mark.parametrize("chunk", [1, 16, 127, 128, 129, 300], ids=lambda n: f"{n} at a time")
@batched_ops
def test_a_prompt_in_chunks_has_the_references_logits(
    windowed: tuple[Model, torch.Tensor], ops: Ops, chunk: int
) -> None:
    model, wanted = windowed
    tables = Tables.of(1, 300, shuffled=chunk, window=128)

    [logits] = logits_of(model, ops, [prompt_of(300)], chunk=chunk, tables=tables)

    torch.testing.assert_close(logits, wanted, rtol=0, atol=ATOL)


@batched_ops
@pytest.mark.parametrize("chunk", [1, 7, 20, 21, 22, 64], ids=lambda n: f"{n} at a time")
@pytest.mark.parametrize("window", [None, ODD.sliding_window], ids=["whole tables", "the window's blocks"])
def test_sequences_of_different_lengths_side_by_side_have_their_own_logits(
    odd: Checkpoint, odd_model: Model, ops: Ops, chunk: int, window: int | None
) -> None:
    prompts = [prompt_of(length, seed=length) for length in (64, 1, 22, 47, 16, 33, 2, 5)]
    tables = Tables.of(len(prompts), 64, shuffled=chunk, window=window)

    found = logits_of(odd_model, ops, prompts, chunk=chunk, tables=tables)

    for logits, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(logits, reference_logits(odd, prompt), rtol=0, atol=ATOL)


@all_ops
def test_prompts_and_single_rows_share_a_step(odd: Checkpoint, odd_model: Model, ops: Ops) -> None:
    prompts = [prompt_of(50, seed=n) for n in range(4)]
    tables = Tables.of(4, 64, shuffled=1, window=ODD.sliding_window)
    kv = kv_for(odd_model, tables)
    forward(odd_model, tables.batch([(0, prompts[0][:49], 0), (2, prompts[2][:3], 0)]), kv, ops)

    pieces = [
        (2, prompts[2][3:4], 3),
        (3, prompts[3], 0),
        (0, prompts[0][49:], 49),
        (1, prompts[1][:17], 0),
    ]
    logits = forward(odd_model, tables.batch(pieces), kv, ops)

    wanted = [reference_logits(odd, prompt) for prompt in prompts]
    expected = torch.cat([wanted[2][3:4], wanted[3], wanted[0][49:], wanted[1][:17]])
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)


@all_ops
@pytest.mark.parametrize("window", [None, ODD.sliding_window], ids=["whole tables", "the window's blocks"])
def test_sequences_of_different_ages_decode_in_one_step(
    odd: Checkpoint, odd_model: Model, ops: Ops, window: int | None
) -> None:
    prompts = [prompt_of(length, seed=length) for length in (64, 34, 1, 50, 17)]
    tables = Tables.of(5, 64, shuffled=6, window=window)
    kv = kv_for(odd_model, tables)
    forward(odd_model, tables.batch([(n, p[:-1], 0) for n, p in enumerate(prompts) if p[1:]]), kv, ops)

    order = (3, 0, 4, 2, 1)
    rows = [(n, prompts[n][-1:], len(prompts[n]) - 1) for n in order]
    logits = forward(odd_model, tables.batch(rows), kv, ops)

    expected = torch.stack([reference_logits(odd, prompts[n])[-1] for n in order])
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)


@all_ops
def test_what_earlier_owners_left_in_a_block_is_not_heard(odd_model: Model, ops: Ops) -> None:
    tables = Tables.of(3, 64, shuffled=2)
    prompts = [prompt_of(length, seed=length) for length in (40, 3, 17)]

    def found(left: float) -> torch.Tensor:
        kv = kv_for(odd_model, tables)
        for layer in kv.layers:
            layer.keys.fill_(left)
            layer.values.fill_(left)
        pieces = [(n, prompt[:-1], 0) for n, prompt in enumerate(prompts)]
        first = forward(odd_model, tables.batch(pieces), kv, ops)
        pieces = [(n, prompt[-1:], len(prompt) - 1) for n, prompt in enumerate(prompts)]
        return torch.cat([first, forward(odd_model, tables.batch(pieces), kv, ops)])

    assert torch.equal(found(torch.nan), found(0.0))


@all_ops
def test_a_sequence_gone_bad_does_not_spoil_its_neighbours(odd_model: Model, ops: Ops) -> None:
    tables = Tables.of(3, 32)
    prompts = [prompt_of(20, seed=n) for n in range(3)]
    good = logits_of(odd_model, ops, prompts, tables=tables)
    embedding = odd_model.embedding.clone()
    bad = next(token for token in prompts[1] if token not in prompts[0] + prompts[2])
    embedding[bad] = torch.nan

    found = logits_of(replace(odd_model, embedding=embedding), ops, prompts, tables=tables)

    assert found[1][-1].isnan().all()
    for n in (0, 2):
        torch.testing.assert_close(found[n], good[n], rtol=0, atol=ATOL)


def padded(batch: Batch, rows: int) -> Batch:
    """The batch filled up to `rows` as a captured step's is: token 0 at position 0 of an empty table."""
    missing = rows - batch.tokens.shape[0]

    def more(tensor: torch.Tensor, value: int = 0) -> torch.Tensor:
        return torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), value)])

    def group(group: Group) -> Group:
        empty = torch.zeros(1, group.tables.shape[1], dtype=torch.int64)
        return Group(
            torch.cat([group.tables, empty]),
            torch.cat([group.base, torch.zeros(1, dtype=torch.int64)]),
            more(group.slots),
        )

    return replace(
        batch,
        tokens=more(batch.tokens),
        positions=more(batch.positions),
        sequence=more(batch.sequence, batch.full.tables.shape[0]),
        full=group(batch.full),
        window=group(batch.window),
        rows=torch.arange(rows),
        runs=(),
    )


def test_rows_that_fill_up_a_captured_step_are_finite_and_change_nothing(odd_model: Model) -> None:
    tables = Tables.of(3, 64, shuffled=5, window=ODD.sliding_window)
    prompts = [prompt_of(length, seed=length) for length in (45, 2, 30)]

    def decoded(rows: int) -> tuple[torch.Tensor, KV]:
        kv = kv_for(odd_model, tables)
        pieces = [(n, prompt[:-1], 0) for n, prompt in enumerate(prompts)]
        forward(odd_model, tables.batch(pieces), kv, ref.OPS)
        pieces = [(n, prompt[-1:], len(prompt) - 1) for n, prompt in enumerate(prompts)]
        return forward(odd_model, padded(tables.batch(pieces), rows), kv, ref.OPS), kv

    (alone, kept), (filled, same) = decoded(3), decoded(8)

    assert filled.shape == (8, 509)
    assert filled.isfinite().all()
    torch.testing.assert_close(filled[:3], alone, rtol=0, atol=1e-5)
    for ours, theirs in zip(kept.layers, same.layers, strict=True):
        torch.testing.assert_close(ours.keys[1:], theirs.keys[1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.values[1:], theirs.values[1:], rtol=0, atol=1e-5)


def test_a_long_prompt_is_heard_in_pieces_with_the_same_result(
    windowed: tuple[Model, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = windowed
    monkeypatch.setattr(cpu, "SCORES", 300 * 37)

    [logits] = logits_of(model, cpu.OPS, [prompt_of(300)])

    torch.testing.assert_close(logits, wanted, rtol=0, atol=ATOL)


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that anything is gathered into."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.index_select.default:
            self.values = max(self.values, result.numel())
        return result


def test_rows_behind_one_long_prompt_do_not_all_copy_it_at_once(
    odd_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompt_of(100)
    tables = Tables.of(6, 112)
    kv = kv_for(odd_model, tables)
    forward(odd_model, tables.batch([(n, prompt, 0) for n in range(6)], rows=[0]), kv, cpu.OPS)
    batch = tables.batch([(n, [n], 100) for n in range(6)])
    whole = forward(odd_model, batch, kv, cpu.OPS)

    monkeypatch.setattr(cpu, "GATHERED", 256)
    with Largest() as largest:
        parts = forward(odd_model, batch, kv, cpu.OPS)

    torch.testing.assert_close(parts, whole, rtol=0, atol=ATOL)
    assert largest.values <= 256 * ODD.num_key_value_heads * ODD.head_dim


@pytest.mark.parametrize("ops", [ref.OPS, cpu.OPS], ids=["ref", "cpu"])
def test_every_tensor_is_made_on_the_device_of_the_inputs(
    odd: Checkpoint, odd_model: Model, ops: Ops
) -> None:
    prompt = prompt_of(40)
    tables = Tables.of(2, 64)
    kv = kv_for(odd_model, tables)
    first, second = (
        tables.batch([(0, prompt, 0), (1, prompt[:20], 0)]),
        tables.batch([(1, prompt[20:21], 20)]),
    )

    # What names no device is made where it cannot be mixed with anything.
    with torch.device("meta"):
        logits = torch.cat([forward(odd_model, batch, kv, ops) for batch in (first, second)])

    wanted = reference_logits(odd, prompt)
    torch.testing.assert_close(logits, torch.cat([wanted, wanted[:21]]), rtol=0, atol=ATOL)
