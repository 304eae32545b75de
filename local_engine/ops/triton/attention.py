"""Attention over paged keys and values, with a sink for each head and, in every other layer, a window.

Decode: a program per row, key/value head and part of the keys, the head's queries being the M of `tl.dot`.
How many parts there are follows from the number of rows, and which keys a part has from the row's position on
the device, so a captured step serves every context. Prompts: a program per tile of rows and key/value head,
which goes through the tile sequence by sequence; a sequence's only row is left to the decode kernel.

Softmax in base 2. The running maximum begins with the sink, which counts like a key without a value. Keys and
values that a row does not see are not read: a block may hold what its last owner left there.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from local_engine.batch import Batch, Group, LayerKV
from local_engine.kv import BLOCK_TOKENS
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.heard import Heard
from local_engine.ops.triton.linear import await_last, release_next
from local_engine.ops.triton.modes import modes

BLOCK_SIZE: tl.constexpr = tl.constexpr(BLOCK_TOKENS)
LOG2_E: tl.constexpr = tl.constexpr(1 / math.log(2))

FULL = (
    Config(1, {"PARTS": 16, "KEYS": 128}, stages=5),
    Config(2, {"PARTS": 8, "KEYS": 128}, stages=5),
    Config(4, {"PARTS": 4, "KEYS": 128}, stages=5),
    Config(8, {"PARTS": 2, "KEYS": 128}, stages=5),
    Config(16, {"PARTS": 1, "KEYS": 128}, stages=5),
    Config(1 << 30, {"PARTS": 1, "KEYS": 64}, stages=5),
)
"""Decode over everything. Together with the rows, the parts fill a GPU's 132 processors once; more of them
would cost the output projection more than they gain here, since each of its programs reads all."""

WINDOW = (Config(1 << 30, {"PARTS": 1, "KEYS": 128}, stages=2),)
"""Decode over a window, which is too short to be divided."""

PROMPT = (Config(1 << 30, {"ROWS": 16, "KEYS": 64}, warps=8, stages=3),)


def attend(
    q: torch.Tensor, kv: LayerKV, group: Group, batch: Batch, sinks: torch.Tensor, window: int | None
) -> Heard:
    """See `Ops.attend`. A batch without runs has one row of each sequence."""
    (rows, heads, dim), kv_heads = q.shape, kv.keys.shape[2]
    prompts = any(run.rows > 1 for run in batch.runs)
    config = chosen(FULL if window is None else WINDOW, rows)
    parts = 1 if prompts else config.sizes["PARTS"]
    values = torch.empty((parts, rows, heads, dim), dtype=q.dtype, device=q.device)
    weights = None
    if parts > 1:
        weights = torch.empty((parts, rows, heads), dtype=torch.float32, device=q.device)
    given = (
        q, kv.keys, kv.values, group.tables, group.base, batch.sequence, batch.positions, sinks, values
    )  # fmt: skip
    shape = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "DIM": dim,
        "DIM_PADDED": max(16, triton.next_power_of_2(dim)),
        "QUERIES": triton.next_power_of_2(heads // kv_heads),
        "WINDOW": window or 0,
    }
    if prompts:
        tiling = chosen(PROMPT, rows)
        tiles = triton.cdiv(rows, tiling.sizes["ROWS"])
        prompt_rows[(kv_heads, tiles)](*given, rows, group.tables.stride(0), **shape, **modes(q, tiling))
    if not prompts or any(run.rows == 1 for run in batch.runs):
        options = {**modes(q, config), "PARTS": parts}
        single_rows[(kv_heads, rows, parts)](
            *given, weights, rows, group.tables.stride(0), **shape, ALONE=prompts, **options
        )
    return Heard(values, weights)


@triton.jit
def single_rows(
    q,
    keys,
    values,
    tables,
    base,
    sequence,
    positions,
    sinks,
    heard,
    weights,
    count,
    columns,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    WINDOW: tl.constexpr,
    PARTS: tl.constexpr,
    KEYS: tl.constexpr,
    ALONE: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row, one part of its keys. With ALONE, of the rows that are no prompt's."""
    release_next(PDL)
    group, row, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # At least 16 rows in a tile for tensor cores.
    n = tl.arange(0, QUERIES if QUERIES > 16 else 16)
    head = group * (HEADS // KV_HEADS) + n
    asks = n < HEADS // KV_HEADS
    sink = tl.load(sinks + head, mask=asks, other=0.0).to(tl.float32) * LOG2_E
    await_last(PDL)

    last = tl.load(positions + row).to(tl.int32)
    owner = tl.load(sequence + row)
    first = tl.maximum(last - WINDOW + 1, 0) if WINDOW else 0
    size = tl.cdiv(tl.cdiv(last + 1 - first, PARTS), KEYS) * KEYS
    low = first + part * size
    high = tl.minimum(low + size, last + 1)
    if ALONE:
        alone = is_alone(sequence, row, owner, count)
        high = tl.where(alone, high, low)
        asks = asks & alone

    d = tl.arange(0, DIM_PADDED)
    place = row * (HEADS * DIM) + head[:, None] * DIM + d[None, :]
    inside = asks[:, None] & (d < DIM)[None, :]
    t = tl.load(q + place, mask=inside, other=0.0)
    best = tl.where(part == 0, sink, float("-inf"))
    total = tl.where(part == 0, tl.full(n.shape, 1.0, tl.float32), 0.0)
    sums = tl.zeros([n.shape[0], DIM_PADDED], tl.float32)
    table = tables + owner * columns - tl.load(base + owner)
    for at in range(low, high, KEYS):
        j = at + tl.arange(0, KEYS)
        k, v = key_tiles(keys, values, table, j, j < high, group, d, KV_HEADS, DIM)
        scores = tl.dot(t, tl.trans(k), input_precision="ieee") * (LOG2_E * DIM**-0.5)
        best, total, sums = hear(
            tl.where((j < high)[None, :], scores, float("-inf")), v, best, total, sums, COMPUTE
        )

    # A total of 0 is a part without keys: it stays 0, with the weight -inf.
    total = tl.where(total == 0, 1.0, total)
    tl.store(heard + part * count * (HEADS * DIM) + place, (sums / total[:, None]).to(COMPUTE), mask=inside)
    if PARTS > 1:
        tl.store(weights + (part * count + row) * HEADS + head, best + tl.log2(total), mask=asks)


@triton.jit
def prompt_rows(
    q,
    keys,
    values,
    tables,
    base,
    sequence,
    positions,
    sinks,
    heard,
    count,
    columns,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    COMPUTE: tl.constexpr,
    PDL: tl.constexpr,
):
    """ROWS rows with all heads of one key/value head, one sequence after the other."""
    release_next(PDL)
    group, start = tl.program_id(0), tl.program_id(1) * ROWS
    m = tl.arange(0, ROWS * QUERIES)
    row = start + m // QUERIES
    head = group * (HEADS // KV_HEADS) + m % QUERIES
    asks = (row < count) & (m % QUERIES < HEADS // KV_HEADS)
    sink = tl.load(sinks + head, mask=asks, other=0.0).to(tl.float32) * LOG2_E
    await_last(PDL)

    owners = tl.load(sequence + row, mask=row < count, other=-1)
    i = tl.load(positions + row, mask=row < count, other=0).to(tl.int32)
    d = tl.arange(0, DIM_PADDED)
    place = row.to(tl.int64)[:, None] * (HEADS * DIM) + head[:, None] * DIM + d[None, :]
    inside = asks[:, None] & (d < DIM)[None, :]
    t = tl.load(q + place, mask=inside, other=0.0)
    at_row = start
    end = tl.minimum(start + ROWS, count)
    while at_row < end:
        owner = tl.load(sequence + at_row)
        mine = owners == owner
        length = tl.sum(mine.to(tl.int32), 0) // QUERIES
        first = tl.load(positions + at_row).to(tl.int32)
        high = first + length
        low = tl.maximum(first - WINDOW + 1, 0) if WINDOW else 0
        # The decode kernel, which is launched behind this one, writes the row anew.
        low = tl.where(is_alone(sequence, at_row, owner, count), high, low)
        best, total = sink, tl.full(m.shape, 1.0, tl.float32)
        sums = tl.zeros([ROWS * QUERIES, DIM_PADDED], tl.float32)
        table = tables + owner * columns - tl.load(base + owner)
        for at in range(low, high, KEYS):
            j = at + tl.arange(0, KEYS)
            k, v = key_tiles(keys, values, table, j, j < high, group, d, KV_HEADS, DIM)
            scores = tl.dot(t, tl.trans(k), input_precision="ieee") * (LOG2_E * DIM**-0.5)
            seen = j[None, :] <= i[:, None]
            if WINDOW:
                seen = seen & (j[None, :] > i[:, None] - WINDOW)
            best, total, sums = hear(tl.where(seen, scores, float("-inf")), v, best, total, sums, COMPUTE)
        result = (sums / total[:, None]).to(COMPUTE)
        tl.store(heard + place, result, mask=inside & mine[:, None])
        at_row += length


@triton.jit
def is_alone(sequence, row, owner, count):
    """Whether a row's neighbours in the batch are other sequences'."""
    before = tl.load(sequence + row - 1, mask=row > 0, other=-1)
    after = tl.load(sequence + row + 1, mask=row + 1 < count, other=-1)
    return (before != owner) & (after != owner)


@triton.jit
def key_tiles(keys, values, table, j, seen, group, d, KV_HEADS: tl.constexpr, DIM: tl.constexpr):
    """Keys and values [size of j, size of d] of one head at the positions j, 0 where they are not `seen`."""
    block = tl.load(table + j // BLOCK_SIZE, mask=seen, other=0)
    slot = block * BLOCK_SIZE + j % BLOCK_SIZE
    place = (slot * KV_HEADS + group)[:, None] * DIM + d[None, :]
    inside = seen[:, None] & (d < DIM)[None, :]
    return tl.load(keys + place, mask=inside, other=0.0), tl.load(values + place, mask=inside, other=0.0)


@triton.jit
def hear(scores, v, best, total, sums, COMPUTE: tl.constexpr):
    """Adds keys with `scores` [M, KEYS] and values v [KEYS, D] to the running softmax of M queries."""
    higher = tl.maximum(best, tl.max(scores, 1))
    # Nothing seen yet, and no sink: any finite number will do.
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    shares = tl.exp2(scores - shift[:, None])
    kept = tl.exp2(best - shift)
    sums = tl.dot(shares.to(COMPUTE), v, sums * kept[:, None], input_precision="ieee")
    return higher, total * kept + tl.sum(shares, 1), sums
