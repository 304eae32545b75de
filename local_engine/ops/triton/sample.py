"""One token per row as `draw` gives it, in three launches, where a row needs no more than a temperature.

The shares are the integers of `draw`, so sums over blocks of the vocabulary are those over all of it, and the
same token is found by looking for its block first. The power of two is the GPU's own instruction here and in
torch's kernel; where it underflows, the share is 0 in both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from local_engine import draw as fixed
from local_engine.ops.triton.configs import Config, chosen
from local_engine.ops.triton.linear import await_last, release_next
from local_engine.sampling import Draw, Drawn, draw

COLDEST: tl.constexpr = tl.constexpr(fixed.COLDEST)
HALF_STEP: tl.constexpr = tl.constexpr(fixed.HALF_STEP)
LOG2_E: tl.constexpr = tl.constexpr(fixed.LOG2_E)
UNIT: tl.constexpr = tl.constexpr(fixed.UNIT)

BLOCKS = (Config(1 << 30, {"BLOCK": 2048}),)


def sample(logits: torch.Tensor, d: Draw) -> Drawn:
    """See `Ops.sample`. Penalties, biases, filters and logprobs are `draw`'s."""
    rows, vocabulary = logits.shape
    if d.penalised or d.biased or d.filtered or d.logprobs is not None:
        return draw(logits, d)
    config = chosen(BLOCKS, rows)
    count = triton.cdiv(vocabulary, config.sizes["BLOCK"])

    def each(dtype: torch.dtype, *blocks: int) -> torch.Tensor:
        return torch.empty((rows, *blocks), dtype=dtype, device=logits.device)

    best, place, sums = each(torch.float32, count), each(torch.int32, count), each(torch.int64, count)
    tokens = each(torch.int64)
    given = logits, d.mask, d.temperature, d.uniform, best, place, sums, tokens, vocabulary, d.mask.stride(0)
    options = {
        "COUNT": count,
        "COUNT_PADDED": triton.next_power_of_2(count),
        "MASKED": d.masked,
        "PDL": logits.is_cuda,
        **config.options,
        **({"launch_pdl": True} if logits.is_cuda else {}),
    }
    find_best[(count, rows)](*given, **options)
    sum_shares[(count, rows)](*given, **options)
    pick[(rows,)](*given, **options)
    return Drawn(tokens)


@triton.jit
def find_best(
    logits, mask, temperature, uniform, best, place, sums, tokens, vocabulary, words,
    COUNT: tl.constexpr, COUNT_PADDED: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Each block's best logit, NaN where one is NaN or +inf, and the lowest token that has it."""
    release_next(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = block * BLOCK + tl.arange(0, BLOCK)
    await_last(PDL)
    raw = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=float("-inf"))
    bad = tl.max(((raw != raw) | (raw == float("inf"))).to(tl.int32), 0)
    adjusted = allowed(raw, token, mask + row * words, vocabulary, MASKED)
    highest = tl.max(adjusted, 0)
    first = tl.min(tl.where(adjusted == highest, token, vocabulary), 0)
    tl.store(best + row * COUNT + block, tl.where(bad != 0, float("nan"), highest))
    tl.store(place + row * COUNT + block, first)


@triton.jit
def sum_shares(
    logits, mask, temperature, uniform, best, place, sums, tokens, vocabulary, words,
    COUNT: tl.constexpr, COUNT_PADDED: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The sum of each block's shares."""
    release_next(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = block * BLOCK + tl.arange(0, BLOCK)
    await_last(PDL)
    highest, _, _ = best_of_all(best + row * COUNT, place + row * COUNT, vocabulary, COUNT, COUNT_PADDED)
    shares = shares_of(
        logits + row * vocabulary, token, mask + row * words, highest, tl.load(temperature + row),
        vocabulary, MASKED,
    )  # fmt: skip
    tl.store(sums + row * COUNT + block, tl.sum(shares, 0))


@triton.jit
def pick(
    logits, mask, temperature, uniform, best, place, sums, tokens, vocabulary, words,
    COUNT: tl.constexpr, COUNT_PADDED: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The token at which the running sum of shares passes the row's number: its block, then its place."""
    release_next(PDL)
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, COUNT_PADDED)
    await_last(PDL)
    highest, likeliest, usable = best_of_all(
        best + row * COUNT, place + row * COUNT, vocabulary, COUNT, COUNT_PADDED
    )
    warmth = tl.load(temperature + row)
    amounts = tl.load(sums + row * COUNT + n, mask=n < COUNT, other=0)
    running = tl.cumsum(amounts, 0)
    number = tl.load(uniform + row).to(tl.float64) + HALF_STEP
    passed = (number * tl.sum(amounts, 0).to(tl.float64)).to(tl.int64)
    block = tl.minimum(tl.sum((running <= passed).to(tl.int32), 0), COUNT - 1)
    before = tl.sum(tl.where(n < block, amounts, 0), 0)
    token = block * BLOCK + tl.arange(0, BLOCK)
    shares = shares_of(
        logits + row * vocabulary, token, mask + row * words, highest, warmth, vocabulary, MASKED
    )
    within = tl.sum((before + tl.cumsum(shares, 0) <= passed).to(tl.int32), 0)
    sampled = tl.minimum(block * BLOCK + within, vocabulary - 1)
    found = tl.where(warmth == 0, likeliest, sampled)
    tl.store(tokens + row, tl.where(usable, found, -1).to(tl.int64))


@triton.jit
def allowed(raw, token, mask, vocabulary, MASKED: tl.constexpr):
    """Logits as the grammar leaves them."""
    if MASKED:
        word = tl.load(mask + token // 32, mask=token < vocabulary, other=0)
        raw = tl.where(((word >> (token % 32)) & 1) == 0, float("-inf"), raw)
    return raw


@triton.jit
def best_of_all(best, place, vocabulary, COUNT: tl.constexpr, COUNT_PADDED: tl.constexpr):
    """A row's best logit, the lowest token that has it, and whether it can be drawn from."""
    n = tl.arange(0, COUNT_PADDED)
    each = tl.load(best + n, mask=n < COUNT, other=float("-inf"))
    bad = tl.max((each != each).to(tl.int32), 0)
    highest = tl.max(each, 0)
    lowest = tl.load(place + n, mask=n < COUNT, other=0)
    likeliest = tl.min(tl.where(each == highest, lowest, vocabulary), 0)
    some = highest > float("-inf")
    return tl.where(some, highest, 0.0), likeliest, (bad == 0) & some


@triton.jit
def shares_of(logits, token, mask, highest, warmth, vocabulary, MASKED: tl.constexpr):
    """int64, `UNIT` for the best token: the same operations in the same order as in `draw`."""
    raw = tl.load(logits + token, mask=token < vocabulary, other=float("-inf"))
    factor = tl.div_rn(1.0, tl.maximum(warmth, COLDEST)) * LOG2_E
    gap = (highest - allowed(raw, token, mask, vocabulary, MASKED)) * factor
    # Gaps of an unusable row are NaN; nothing is drawn from it.
    return tl.where(gap >= 0, tl.exp2(-tl.maximum(gap, 0.0)) * UNIT, 0.0).to(tl.int64)
