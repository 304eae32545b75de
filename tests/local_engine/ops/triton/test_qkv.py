"""The fused projection gives the reference's queries, and writes its keys and values where they belong."""

from __future__ import annotations

import pytest
import torch

from local_engine.batch import LayerKV
from local_engine.model import Model
from local_engine.ops import ref
from local_engine.ops.triton import OPS, qkv
from local_engine.ops.triton.configs import Config
from tests.local_engine.ops.triton.cases import ROWS, SOME_ROWS, model_of, pool_of, random

ATOL = 2e-5
BLOCKS = 12


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: model_of(name) for name in ("uneven", "grouped")}


def projected(model: Model, op: object, rows: int) -> tuple[torch.Tensor, LayerKV]:
    """Queries and pool after `rows` rows at scattered positions and slots."""
    assert callable(op)
    kv = pool_of(model, BLOCKS)
    generator = torch.Generator().manual_seed(rows)
    positions = torch.randint(0, 512, (rows,), generator=generator)
    slots = torch.randperm(BLOCKS * 16, generator=generator)[:rows]
    x = random(rows, model.config.hidden_size, seed=rows) * 3
    return op(x, model.layers[0], model.rope, positions, kv, slots), kv


@pytest.mark.parametrize(
    ("name", "rows"), [("uneven", n) for n in ROWS] + [("grouped", n) for n in SOME_ROWS]
)
def test_queries_keys_and_values_are_the_references_and_nothing_else_is_written(
    models: dict[str, Model], name: str, rows: int
) -> None:
    model = models[name]
    (q, kv), (wanted, pool) = (projected(model, ops.qkv, rows) for ops in (OPS, ref.OPS))

    assert q.shape == (rows, model.config.num_attention_heads, model.config.head_dim)
    torch.testing.assert_close(q, wanted, rtol=0, atol=ATOL)
    torch.testing.assert_close(kv.keys, pool.keys, rtol=0, atol=ATOL)
    torch.testing.assert_close(kv.values, pool.values, rtol=0, atol=ATOL)
    untouched = (pool.keys == pool_of(model, BLOCKS).keys).all(-1)
    assert untouched.sum() == (BLOCKS * 16 - rows) * model.config.num_key_value_heads
    assert torch.equal(kv.keys[untouched], pool.keys[untouched])
    assert torch.equal(kv.values[untouched], pool.values[untouched])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_longer_than_a_tile_is_projected_in_several(
    models: dict[str, Model], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["uneven"]
    monkeypatch.setattr(qkv, "FEW", (Config(7, {"PAIRS": 4, "BLOCK": 64}),))

    (q, _), (wanted, _) = (projected(model, ops.qkv, rows) for ops in (OPS, ref.OPS))

    torch.testing.assert_close(q, wanted, rtol=0, atol=ATOL)


def test_a_slot_beyond_two_to_the_31_values_is_reached(models: dict[str, Model]) -> None:
    model = models["uneven"]
    slots_per_value = model.config.num_key_value_heads * model.config.head_dim
    far = (1 << 31) // slots_per_value + 3
    shape = (far // 16 + 1, 16, model.config.num_key_value_heads, model.config.head_dim)
    # Memory that is never touched costs nothing: only the last slot is written.
    kv = LayerKV(torch.empty(shape), torch.empty(shape))
    x, zero = random(1, model.config.hidden_size), torch.zeros(1, dtype=torch.int64)

    OPS.qkv(x, model.layers[0], model.rope, zero, kv, zero + far)

    pool = pool_of(model, 1)
    ref.OPS.qkv(x, model.layers[0], model.rope, zero, pool, zero)
    torch.testing.assert_close(kv.keys.view(-1, *shape[2:])[far], pool.keys[0, 0], rtol=0, atol=ATOL)
    torch.testing.assert_close(kv.values.view(-1, *shape[2:])[far], pool.values[0, 0], rtol=0, atol=ATOL)
