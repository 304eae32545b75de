"""A decode step of plain torch could be captured: it waits for nothing and writes only keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from local_engine.batch import Batch, Group
from local_engine.buffers import Buffers, Sizes
from local_engine.kv import BlockTables, tenant_salt
from local_engine.model import KV, Model, Rope, forward, load_model, new_kv
from local_engine.ops import Ops, ref
from local_engine.presets import GPT_OSS_20B
from local_engine.sampling import Drawn, SamplingParams, count
from local_engine.scheduler import Limits, Scheduler, Sequence
from tests.local_engine.batches import empty_checkpoint, greedy, tensors_of
from tests.local_engine.fakes import DEVICE, Watch, fake_tensors, moved, storage

BLOCKS = 600
SHORT = replace(GPT_OSS_20B, num_hidden_layers=2)


@contextmanager
def on_a_fake_device(config: Any, rows: int) -> Iterator[tuple[Model, Batch, KV]]:
    """A model, a decode batch and its pools on `cuda`, of 20b's widths and a table of 8,192 tokens."""
    with fake_tensors():
        on_host = load_model(empty_checkpoint(config), torch.bfloat16, max_context_tokens=131072)
        model = replace(moved(on_host), device=torch.device(DEVICE))
        yield model, decode_batch(rows, config.vocab_size), new_kv(model, BLOCKS, BLOCKS)


def decode_batch(rows: int, vocabulary: int) -> Batch:
    """One row of each of `rows` sequences, as the static buffers of a captured step have them."""

    def ids(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=DEVICE)

    def group(columns: int) -> Group:
        return Group(ids(rows, columns), ids(rows), ids(rows))

    return Batch(
        tokens=ids(rows),
        positions=ids(rows),
        sequence=ids(rows),
        full=group(512),
        window=group(9),
        rows=ids(rows),
        runs=(),
        window_base=(),
        draw=greedy(rows, vocabulary, DEVICE),
    )


def filled_batch(rows: int) -> Batch:
    """The host's half of the same: what the buffers make of sequences that decode, every stage asked for."""
    limits = Limits(8, 64)
    buffers = Buffers(Sizes(limits, 8192, 128, SHORT.vocab_size), torch.device("cpu"))
    scheduler = Scheduler(BlockTables(BLOCKS - 1, BLOCKS - 1, 128), limits)
    params = SamplingParams(
        50, top_p=0.9, top_k=5, presence_penalty=1.0, logit_bias=((5, 1.0),), top_logprobs=20, seed=1
    )
    for n in range(rows):
        scheduler.add(Sequence(0, list(range(3 + n)), params, tenant_salt(None)))
    plan = scheduler.plan()
    buffers.fill(plan, masked=True)
    scheduler.commit(plan, [1] * rows)
    return buffers.fill(scheduler.plan(), masked=True)


def step(model: Model, batch: Batch, kv: KV, ops: Ops) -> tuple[torch.Tensor, Drawn, list[int]]:
    """Logits, what was drawn, and the storages written to."""
    with Watch() as watch:
        logits = forward(model, batch, kv, ops)
        drawn = ops.sample(logits, batch.draw)
    return logits, drawn, watch.written


@pytest.mark.parametrize(("rows", "layers"), [(1, 24), (8, 4)])
def test_a_decode_step_of_20b_waits_for_nothing_and_writes_keys_and_values_in_place(
    rows: int, layers: int
) -> None:
    config = replace(GPT_OSS_20B, num_hidden_layers=layers)
    with on_a_fake_device(config, rows) as (model, batch, kv):
        before = {storage(part) for part in tensors_of((model, batch))}
        pools = [storage(part) for part in tensors_of(kv)]

        logits, drawn, written = step(model, batch, kv, ref.OPS)

        assert (logits.shape, logits.dtype, logits.device.type) == ((rows, 201088), torch.float32, "cuda")
        assert (drawn.tokens.shape, drawn.tokens.dtype) == ((rows,), torch.int64)
        assert drawn.tokens.device.type == "cuda"
        assert [place for place in written if place in pools] == pools
        assert not before & set(written)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_as_the_buffers_make_it_waits_for_nothing_from_inputs_to_counts(rows: int) -> None:
    filled = filled_batch(rows)
    draw = filled.draw
    assert (draw.penalised, draw.biased, draw.masked, draw.filtered, draw.logprobs) == (True,) * 4 + (20,)
    with on_a_fake_device(SHORT, rows) as (model, _, kv):
        batch = moved(replace(filled, runs=(), window_base=()))
        counts = storage(batch.draw.counts)

        logits, drawn, _ = step(model, batch, kv, ref.OPS)
        with Watch() as watch:
            count(batch.draw.counts, batch.draw.slot, drawn.tokens)

        assert logits.shape == (rows, SHORT.vocab_size)
        assert drawn.top_ids is not None
        assert drawn.top_ids.shape == (rows, 20)
        assert counts in watch.written


LEAKS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "a branch": lambda x: bool(x.any()),
    "a list": lambda x: x.sum(-1).tolist(),
    "nonzero": lambda x: x.nonzero(),
    "a boolean index": lambda x: x[x > 0],
    "a copy to the host": lambda x: x.cpu(),
    "a constant from the host": lambda x: torch.tensor([1.0], device=DEVICE),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
@pytest.mark.parametrize("name", ["attend", "experts", "sample"])
def test_an_operation_that_looks_at_its_values_is_caught(
    leak: Callable[[torch.Tensor], object], name: str
) -> None:
    op = getattr(ref.OPS, name)

    def leaking(x: Any, *rest: Any) -> Any:
        leak(tensors_of(x)[0])
        return op(x, *rest)

    changed: dict[str, Any] = {name: leaking}
    with (
        on_a_fake_device(SHORT, 1) as (model, batch, kv),
        pytest.raises(RuntimeError),
    ):
        step(model, batch, kv, replace(ref.OPS, **changed))


def test_a_table_looked_up_on_the_host_is_caught() -> None:
    with on_a_fake_device(SHORT, 1) as (model, batch, kv):
        on_host = Rope(torch.empty(131072, 1, 32), torch.empty(131072, 1, 32))
        with pytest.raises(RuntimeError):
            step(replace(model, rope=on_host), batch, kv, ref.OPS)
