"""Attention in C++ hears what the reference does, on every instruction set, whatever else is in the pools."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from local_engine import reference
from local_engine.batch import Batch, Group, LayerKV
from local_engine.kv import BLOCK_TOKENS, first_seen
from local_engine.model import Rope
from local_engine.ops import compiled
from local_engine.ops.attention import Attention
from tests.local_engine.batches import no_draw

ATOL = 1e-5
"""In fp32; the reference itself is that far from the same in fp64."""

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    built = compiled.load()
    assert built is not None
    return built


@pytest.fixture(scope="module")
def everywhere(kernels: ctypes.CDLL) -> list[Attention]:
    """One for each instruction set that this processor has."""
    return [Attention(kernels, level) for level in range(kernels.best_set() + 1)]


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Shape:
    """Query heads, key/value heads, head dimension, window."""

    heads: int
    kv_heads: int
    dim: int
    window: int | None = None


RELEASED = Shape(64, 8, 64)
ODD = Shape(9, 3, 10, 21)
SHAPES = [
    RELEASED,
    replace(RELEASED, window=128),
    ODD,
    replace(ODD, window=None),
    Shape(4, 2, 64, 1),
    Shape(8, 8, 36),
    Shape(17, 1, 6, 16),
]

Piece = tuple[int, int]
"""Length of a sequence, and how many of its last tokens are rows."""


@dataclass(frozen=True)
class Case:
    """What `attend` is given, and what the rows should hear."""

    q: torch.Tensor
    kv: LayerKV
    group: Group
    batch: Batch
    sinks: torch.Tensor
    window: int | None
    wanted: torch.Tensor

    def heard(self, attention: Attention) -> torch.Tensor:
        """[T, N, D]."""
        return attention.attend(self.q, self.kv, self.group, self.batch, self.sinks, self.window)


def case(
    shape: Shape, pieces: list[Piece], dtype: torch.dtype, *, left: float = torch.nan, loud: float = 2.0
) -> Case:
    """Sequences in blocks that lie anywhere in a pool where everything else is `left`.

    With a window, tables begin where it does for the piece's first row. Wanted is the reference's in fp64.
    """
    generator = torch.Generator().manual_seed(sum(length for length, _ in pieces))

    def drawn(*size: int, spread: float = 1.0) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * spread).to(dtype)

    columns = max(-(-length // BLOCK_TOKENS) for length, _ in pieces)
    physical = torch.randperm(len(pieces) * columns, generator=generator).view(len(pieces), columns) + 1
    pool = (len(pieces) * columns + 1, BLOCK_TOKENS, shape.kv_heads, shape.dim)
    keys, values = torch.full(pool, left, dtype=dtype), torch.full(pool, left, dtype=dtype)
    sinks = drawn(shape.heads)
    # One column more than anybody uses: a table is a view of a wider one.
    tables = torch.zeros(len(pieces), columns + 1, dtype=torch.int64)
    queries: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    bases: list[int] = []
    positions: list[int] = []
    sequence: list[int] = []
    for n, (length, rows) in enumerate(pieces):
        k, v = (drawn(length, shape.kv_heads, shape.dim) for _ in range(2))
        places = torch.arange(length)
        slots = physical[n, places // BLOCK_TOKENS] * BLOCK_TOKENS + places % BLOCK_TOKENS
        keys.view(-1, *k.shape[1:])[slots], values.view(-1, *v.shape[1:])[slots] = k, v
        base = 0 if shape.window is None else first_seen(length - rows, shape.window)
        bases.append(base)
        tables[n, : columns - base] = physical[n, base:]
        queries.append(drawn(rows, shape.heads, shape.dim, spread=loud))
        wanted.append(
            reference.attend(queries[-1].double(), k.double(), v.double(), sinks.double(), shape.window)
        )
        positions += range(length - rows, length)
        sequence += [n] * rows
    group = Group(tables[:, :columns], torch.tensor(bases), torch.empty(0, dtype=torch.int64))
    batch = Batch(
        tokens=torch.zeros(len(positions), dtype=torch.int64),
        positions=torch.tensor(positions),
        sequence=torch.tensor(sequence),
        full=group,
        window=group,
        rows=torch.empty(0, dtype=torch.int64),
        runs=(),
        window_base=tuple(bases),
        draw=no_draw(),
    )
    return Case(
        torch.cat(queries), LayerKV(keys, values), group, batch, sinks, shape.window, torch.cat(wanted)
    )


def bound(made: Case) -> float:
    """How far a result may be off: what is heard lies between values, and in bf16 both their shares and the
    result are rounded to eight bits, each by at most half of the last one."""
    if made.q.dtype == torch.float32:
        return ATOL
    return 2.0**-8 * float(made.kv.values[made.kv.values.isfinite()].abs().max())


PIECES: dict[str, list[Piece]] = {
    "a first token": [(1, 1)],
    "single rows": [(n * 19 % 170 + 1, 1) for n in range(17)],
    "prompts": [(5, 5), (16, 16), (47, 47), (300, 300)],
    "chunks of prompts": [(150, 17), (64, 16), (33, 2), (290, 129)],
    "all together": [(70, 1), (200, 33), (1, 1), (17, 17), (16, 1), (300, 1)],
    "a long context": [(2100, 1), (40, 40)],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_hear_what_the_reference_hears(
    everywhere: list[Attention], shape: Shape, pieces: list[Piece], dtype: torch.dtype
) -> None:
    made = case(shape, pieces, dtype)

    for attention in everywhere:
        torch.testing.assert_close(made.heard(attention).double(), made.wanted, rtol=0, atol=bound(made))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spoilt", ["window one too long", "window one too short", "no sink", "scaled sink"])
def test_a_mistake_would_be_heard(everywhere: list[Attention], spoilt: str, dtype: torch.dtype) -> None:
    made = case(ODD, PIECES["all together"], dtype, left=0.0)
    changes = {
        "window one too long": replace(made, window=22),
        "window one too short": replace(made, window=20),
        "no sink": replace(made, sinks=torch.full_like(made.sinks, -torch.inf)),
        "scaled sink": replace(made, sinks=made.sinks / 8),
    }

    for attention in everywhere:
        wrong = changes[spoilt].heard(attention)
        assert wrong.isfinite().all()
        assert (wrong.double() - made.wanted).abs().max() > 3 * bound(made)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_context_of_131072_tokens_is_heard(everywhere: list[Attention], dtype: torch.dtype) -> None:
    made = case(Shape(4, 2, 16), [(131072, 1)], dtype)

    for attention in everywhere:
        torch.testing.assert_close(made.heard(attention).double(), made.wanted, rtol=0, atol=bound(made))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_beyond_what_powers_hold_are_heard(everywhere: list[Attention], dtype: torch.dtype) -> None:
    made = case(RELEASED, [(90, 3), (600, 1)], dtype, loud=300.0)

    for attention in everywhere:
        torch.testing.assert_close(
            made.heard(attention).double(), made.wanted, rtol=0, atol=1e-3 + bound(made)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pieces", [PIECES["all together"], PIECES["a long context"]], ids=["short", "long"])
def test_a_result_depends_neither_on_threads_nor_on_neighbours(
    everywhere: list[Attention], threads: None, pieces: list[Piece], dtype: torch.dtype
) -> None:
    made = case(RELEASED, pieces, dtype)
    single = [row for row, sequence in enumerate(made.batch.sequence.tolist()) if pieces[sequence][1] == 1]

    for attention in everywhere:
        torch.set_num_threads(1)
        heard = made.heard(attention)
        for row in single:
            mine = slice(row, row + 1)
            alone = replace(
                made.batch, positions=made.batch.positions[mine], sequence=made.batch.sequence[mine]
            )
            assert torch.equal(replace(made, q=made.q[mine], batch=alone).heard(attention)[0], heard[row])
        for count in (2, 3):
            torch.set_num_threads(count)
            assert torch.equal(made.heard(attention), heard)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [RELEASED, ODD], ids=str)
def test_what_earlier_owners_left_in_a_block_is_not_heard(
    everywhere: list[Attention], shape: Shape, dtype: torch.dtype
) -> None:
    clean = case(shape, PIECES["all together"], dtype, left=0.0)

    for attention in everywhere:
        for left in (torch.nan, torch.inf):
            stale = case(shape, PIECES["all together"], dtype, left=left)
            assert torch.equal(stale.heard(attention), clean.heard(attention))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", ["q", "keys", "values"])
def test_a_sequence_gone_bad_says_so_and_does_not_spoil_its_neighbours(
    everywhere: list[Attention], part: str, dtype: torch.dtype
) -> None:
    good = case(RELEASED, [(40, 1), (300, 1), (20, 20)], dtype)
    bad = case(RELEASED, [(40, 1), (300, 1), (20, 20)], dtype)
    if part == "q":
        bad.q[1] = torch.nan
    else:
        block = int(bad.group.tables[1, 3])
        getattr(bad.kv, part)[block, 5] = torch.nan

    for attention in everywhere:
        heard, wanted = bad.heard(attention), good.heard(attention)
        assert heard[1].isnan().all()
        assert torch.equal(heard[0], wanted[0])
        assert torch.equal(heard[2:], wanted[2:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_token_gone_bad_is_not_heard_any_more_behind_the_window(
    everywhere: list[Attention], dtype: torch.dtype
) -> None:
    made = case(replace(RELEASED, window=128), [(300, 1)], dtype)
    # The row at 299 sees 172 and later; its table begins with the block of 160 to 175.
    block = int(made.group.tables[0, 0])

    for attention in everywhere:
        wanted = made.heard(attention)
        kept = made.kv.keys[block, 11].clone(), made.kv.values[block, 11].clone()
        made.kv.keys[block, 11], made.kv.values[block, 11] = torch.nan, torch.nan
        heard = made.heard(attention)
        made.kv.keys[block, 11], made.kv.values[block, 11] = kept
        assert wanted.isfinite().all()
        assert torch.equal(heard, wanted)


def test_rows_that_fill_up_a_batch_hear_the_scratch_block(everywhere: list[Attention]) -> None:
    made = case(ODD, [(30, 1)], torch.float32)
    made.kv.keys[0, 0], made.kv.values[0, 0] = 1.0, 2.0
    batch = replace(made.batch, positions=torch.tensor([29, 0, 0]), sequence=torch.tensor([0, 1, 1]))
    tables = torch.cat([made.group.tables, torch.zeros_like(made.group.tables)])
    group = replace(made.group, tables=tables, base=torch.cat([made.group.base, torch.tensor([0])]))
    filled = replace(made, q=torch.cat([made.q, made.q, made.q]), batch=batch, group=group)

    for attention in everywhere:
        heard = filled.heard(attention)
        torch.testing.assert_close(heard[:1].double(), made.wanted, rtol=0, atol=ATOL)
        assert torch.equal(heard[1], heard[2])
        assert (heard[1] > 0).all()
        assert (heard[1] < 2).all()


def test_pools_of_other_blocks_are_refused(everywhere: list[Attention]) -> None:
    made = case(ODD, [(8, 8)], torch.float32)
    kv = LayerKV(torch.zeros(3, 32, 3, 10), torch.zeros(3, 32, 3, 10))

    with pytest.raises(ValueError, match="blocks hold 32 positions, but the kernels want 16"):
        replace(made, kv=kv).heard(everywhere[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [RELEASED, ODD], ids=str)
def test_queries_and_keys_are_rotated_and_only_their_slots_written(
    everywhere: list[Attention], shape: Shape, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(7)
    heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.dim
    turns = torch.rand(100, 1, dim // 2, generator=generator) * 6
    rope = Rope(turns.cos().to(dtype), turns.sin().to(dtype))
    projected = torch.randn(33, (heads + 2 * kv_heads) * dim, generator=generator).to(dtype)
    positions = torch.randint(0, 100, (33,), generator=generator)
    slots = torch.randperm(64, generator=generator)[:33]
    q, k, v = (
        part.view(33, -1, dim).float()
        for part in torch.split(projected, [heads * dim, kv_heads * dim, kv_heads * dim], dim=1)
    )
    cos, sin = rope.cos.float()[positions], rope.sin.float()[positions]
    others = torch.ones(64, dtype=torch.bool).index_fill_(0, slots, False)

    for attention in everywhere:
        kv = LayerKV(*(torch.full((4, BLOCK_TOKENS, kv_heads, dim), 9.0, dtype=dtype) for _ in range(2)))
        turned = attention.rotate(projected, rope, positions, kv, slots)
        keys, values = kv.keys.view(64, kv_heads, dim), kv.values.view(64, kv_heads, dim)

        # Within the last bit: the compiler may fuse a product and a sum.
        for ours, theirs in ((turned, q), (keys[slots], k)):
            wanted = reference.rotate(theirs, cos, sin)
            torch.testing.assert_close(ours.float(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)
        assert torch.equal(values[slots].float(), v)
        assert (keys[others] == 9).all()
        assert (values[others] == 9).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("experts", "top"), [(32, 4), (128, 4), (7, 3), (1, 1)])
def test_the_likeliest_experts_are_chosen_as_the_reference_does(
    everywhere: list[Attention], experts: int, top: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(experts)
    # No two alike in a row, in bf16 either: of equals any may be chosen.
    logits = torch.stack([torch.randperm(experts, generator=generator) for _ in range(200)]).to(dtype) / 8
    ids, shares = reference.route(
        logits, torch.eye(experts, dtype=dtype), torch.zeros(experts, dtype=dtype), top
    )

    for attention in everywhere:
        chosen, weights = attention.choose(logits, top)
        assert torch.equal(chosen, ids)
        torch.testing.assert_close(weights, shares, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_experts_are_chosen_once_each_even_where_no_logit_is_a_number(everywhere: list[Attention]) -> None:
    logits = torch.tensor([[torch.nan] * 5, [1, 1, 1, 1, 1], [1, torch.nan, 3, 2, -torch.inf]])

    for attention in everywhere:
        ids, shares = attention.choose(logits, 3)
        assert ids.tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 3]]
        assert shares[0].isnan().all()
        assert shares[1].tolist() == pytest.approx([1 / 3] * 3)
