"""From logits to one token per row, exactly and without waiting for the device.

Probabilities are fixed-point numbers: 2^-gap in units of 2^-44, where a token's gap is how far its logit lies
below the row's best one, in bits. Sums of integers do not depend on their order, drown no small share and are
exact, so neither a row's neighbours nor a device's way to add can move a boundary between two tokens. Gaps
are never negative, and so compare as the integers that their fp32 bits spell: `top_k` and `top_p` look for a
threshold among those integers, with two histograms, where others sort the vocabulary.

The order of the stages is penalties (repetition, then presence and frequency), `logit_bias`, grammar,
temperature, `top_k` and `min_p`, `top_p`. Before the temperature that is SGLang's order (a grammar and a bias
commute), from the temperature on it is vLLM's, so that `top_p` counts the mass which `top_k` and `min_p`
left. Tokens as likely as the last one kept are all kept. Greedy takes the best token after the grammar.
Logprobs are the model's own: of the raw logits, before any stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, log

import torch
from torch import Tensor

MAX_LOGIT_BIAS = 300
"""Biased tokens of one request."""

PROMPTED = 1 << 30
"""Bit of a token's count that says that it occurs in the prompt; the bits below it count the answer."""

COLDEST = 1e-6
"""Lower temperatures differ from this one by nothing, and would overflow fp32."""

UNIT = 2.0**44
"""The share of a row's best token: 2^18 of them add up to less than 2^63."""

REACHED = 1 - 2.0**-21
"""A nucleus reaches `top_p` to within the rounding of fp32: 0.5 and 0.3 are 0.8."""

LOW_BITS = 15
"""A threshold's 31 bits are searched as 16 high and 15 low ones."""

HALF_STEP = 2.0**-25
"""A number of 24 bits stands for the middle of its step: 0 itself would draw a first token, however rare."""

LOG2_E = 1 / log(2)
"""Gaps are in bits: powers of two are the cheapest ones."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What the sampling of R rows needs, on the device, in views of buffers that stay where they are.

    uniform, temperature, top_p, min_p, presence, frequency, repetition: fp32 [R]; top_k: int32 [R].
    slot: int64 [R], the row's line of `counts`. counts: int32 [slots, V], how often the answer has the token,
    plus PROMPTED if the prompt has it. bias_ids: int64 [R, 300], no id twice, and bias: fp32 [R, 300], padded
    with id 0, bias 0. mask: int32 [R, ceil(V / 32)], bit v % 32 of word v // 32 set = token v is allowed.

    The flags say which stages any row needs (`filtered`: top_k, top_p or min_p). The others are not run, and
    a row that does not need a stage that runs holds its neutral values (see `empty_draw`). logprobs: the most
    top logprobs that any row wants, None if no row wants any.
    """

    uniform: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    presence: Tensor
    frequency: Tensor
    repetition: Tensor
    slot: Tensor
    counts: Tensor
    bias_ids: Tensor
    bias: Tensor
    mask: Tensor
    penalised: bool = False
    biased: bool = False
    masked: bool = False
    filtered: bool = False
    logprobs: int | None = None

    @property
    def plain(self) -> bool:
        """Whether no row asks for more than a temperature."""
        asked = self.penalised or self.biased or self.masked or self.filtered
        return not asked and self.logprobs is None

    def rows(self, first: int, last: int) -> Draw:
        """Views of rows [first, last); `counts` and the flags are those of the whole."""
        # Not by brackets, here and below: indexing needs the device's driver, also under FakeTensorMode.
        size = last - first
        return replace(
            self,
            uniform=self.uniform.narrow(0, first, size),
            temperature=self.temperature.narrow(0, first, size),
            top_k=self.top_k.narrow(0, first, size),
            top_p=self.top_p.narrow(0, first, size),
            min_p=self.min_p.narrow(0, first, size),
            presence=self.presence.narrow(0, first, size),
            frequency=self.frequency.narrow(0, first, size),
            repetition=self.repetition.narrow(0, first, size),
            slot=self.slot.narrow(0, first, size),
            bias_ids=self.bias_ids.narrow(0, first, size),
            bias=self.bias.narrow(0, first, size),
            mask=self.mask.narrow(0, first, size),
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of R rows: int64 [R], -1 where the logits gave none. With logprobs: chosen fp32 [R], top_ids
    int64 [R, n] and top fp32 [R, n], best first; all 0.0 in a row without a token."""

    tokens: Tensor
    chosen: Tensor | None = None
    top_ids: Tensor | None = None
    top: Tensor | None = None


def empty_draw(rows: int, vocabulary: int, slots: int, device: torch.device | str = "cpu") -> Draw:
    """Buffers for up to `rows` rows, at the values that change nothing: temperature 1, no filter, no penalty,
    no bias, every token allowed. The draws of fewer rows are views of it (`Draw.rows`)."""

    def full(value: float) -> Tensor:
        return torch.full((rows,), value, device=device)

    return Draw(
        uniform=full(0.0),
        temperature=full(1.0),
        top_k=torch.zeros(rows, dtype=torch.int32, device=device),
        top_p=full(1.0),
        min_p=full(0.0),
        presence=full(0.0),
        frequency=full(0.0),
        repetition=full(1.0),
        slot=torch.zeros(rows, dtype=torch.int64, device=device),
        counts=torch.zeros(slots, vocabulary, dtype=torch.int32, device=device),
        bias_ids=torch.zeros(rows, MAX_LOGIT_BIAS, dtype=torch.int64, device=device),
        bias=torch.zeros(rows, MAX_LOGIT_BIAS, device=device),
        mask=torch.full((rows, -(-vocabulary // 32)), -1, dtype=torch.int32, device=device),
    )


def count(counts: Tensor, slots: Tensor, tokens: Tensor) -> None:
    """Adds sampled `tokens` int64 [R] to the lines `slots` int64 [R] of `counts`; -1 adds nothing."""
    places = slots * counts.shape[1] + tokens.clamp(min=0)
    counts.view(-1).scatter_add_(0, places, (tokens >= 0).to(counts.dtype))


def draw(logits: Tensor, d: Draw) -> Drawn:
    """One token for each row of `logits` fp32 [R, V], V at most 2^18; `logits` stay as they are.

    A row whose logits hold NaN or +inf, or nothing finite that bias and grammar left, draws -1. A row's
    result is the same to the bit whatever the other rows hold. Nothing here waits for the device.
    """
    assert logits.shape[1] <= 1 << 18, "a larger vocabulary overflows the sum of the shares"
    if logits.device.type != "cpu" or logits.shape[0] <= 1:
        return _draw(logits, d)
    # A vectorised exp2 may round the end of a tensor differently from its middle, so here each row is a
    # tensor of its own; one row at a time also stays within the cache.
    drawn = [_draw(logits.narrow(0, row, 1), d.rows(row, row + 1)) for row in range(logits.shape[0])]
    return Drawn(
        torch.cat([one.tokens for one in drawn]),
        _joined([one.chosen for one in drawn]),
        _joined([one.top_ids for one in drawn]),
        _joined([one.top for one in drawn]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of one field of `Drawn`: all have it or none has."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None


def _draw(logits: Tensor, d: Draw) -> Drawn:
    """`draw` of all rows at once."""
    adjusted = _adjusted(logits, d)
    best, likeliest = _best(adjusted)
    usable = torch.isfinite(best) & (logits.amax(dim=1, keepdim=True) < torch.inf)
    tokens = torch.where(usable, likeliest if _greedy(d) else _chosen(adjusted, best, likeliest, d), -1)
    if d.logprobs is None:
        return Drawn(tokens.squeeze(1))
    return Drawn(tokens.squeeze(1), *_logprobs(logits, tokens, d.logprobs))


def _greedy(d: Draw) -> bool:
    """Whether it can be seen without waiting for a device that no row is left to chance."""
    return d.temperature.device.type == "cpu" and not d.temperature.any()


def _chosen(adjusted: Tensor, best: Tensor, likeliest: Tensor, d: Draw) -> Tensor:
    """The tokens [R, 1] of rows of adjusted logits [R, V]: drawn, or the likeliest at temperature 0."""
    gaps = (best - adjusted) * (LOG2_E / d.temperature.clamp(min=COLDEST)).unsqueeze(1)
    shares = _shares(gaps)
    if d.filtered:
        shares = _filtered(shares, gaps, d)
    sampled = _inverted(shares, d.uniform.unsqueeze(1))
    return torch.where(d.temperature.unsqueeze(1) == 0, likeliest, sampled)


def _adjusted(logits: Tensor, d: Draw) -> Tensor:
    """Logits [R, V] after penalties, bias and grammar; `logits` themselves where no row needs any of them."""
    if d.penalised:
        counts = d.counts.index_select(0, d.slot)
        factors = torch.where(counts > 0, d.repetition.unsqueeze(1), d.repetition.new_ones(()))
        # One of the two terms is 0, which is exact and costs half of a choice between them.
        logits = logits.clamp(min=0) / factors + logits.clamp(max=0) * factors
        times = counts & (PROMPTED - 1)
        logits = logits - d.presence.unsqueeze(1) * times.clamp(max=1) - d.frequency.unsqueeze(1) * times
    if d.biased:
        logits = logits.scatter_add(1, d.bias_ids, d.bias)
    if d.masked:
        bits = torch.arange(32, dtype=torch.int32, device=logits.device)
        forbidden = ((d.mask.unsqueeze(2) >> bits) & 1) == 0
        logits = logits.masked_fill(forbidden.flatten(1).narrow(1, 0, logits.shape[1]), -torch.inf)
    return logits


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best logit of each row and the lowest id that has it, [R, 1] both; NaN where the row holds one."""
    # By blocks, because a search for the place of a maximum is not vectorised and that for its value is.
    width = gcd(logits.shape[1], 128)
    blocks = logits.reshape(len(logits), -1, width)
    best, block = blocks.amax(dim=2).max(dim=1, keepdim=True)
    place = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, width)).argmax(dim=2)
    return best, block * width + place


def _shares(gaps: Tensor) -> Tensor:
    """int64 [R, V] in proportion to the probabilities: UNIT where the gap is 0."""
    return (torch.exp2(-gaps) * UNIT).long()


def _filtered(shares: Tensor, gaps: Tensor, d: Draw) -> Tensor:
    """Shares [R, V] with 0 for the tokens that the filters rule out; the likeliest token always stays."""
    # Without the sign, which NaN may have.
    images = gaps.view(torch.int32) & 0x7FFFFFFF
    ranks = torch.where(d.top_k > 0, d.top_k, shares.shape[1]).long()
    limit = _threshold(images, torch.ones_like(shares), ranks.unsqueeze(1))
    limit = torch.minimum(limit, d.min_p.log2().abs().view(torch.int32).unsqueeze(1))
    shares = shares * (images <= limit)
    total = shares.sum(dim=1, keepdim=True)
    wanted = torch.where(d.top_p < 1, d.top_p.double() * REACHED, 1.0).unsqueeze(1)
    needed = (wanted * total).long()
    return shares * (images <= _threshold(images, shares, needed))


def _threshold(images: Tensor, amounts: Tensor, needed: Tensor) -> Tensor:
    """The least integer, int32 [R, 1], such that the `amounts` int64 [R, V] of the `images` int32 [R, V] up
    to it reach `needed` int64 [R, 1]; one above all images if they never do. Two histograms find it: of the
    images' high bits, then of the low bits of those that share the high bits of the threshold."""
    high, needed = _reaching(images >> LOW_BITS, amounts, needed, 1 << (31 - LOW_BITS))
    low = images ^ (high << LOW_BITS)
    # The others come behind, in several bins because additions to a single one would wait for each other.
    low = torch.minimum(low, (low & 63) + (1 << LOW_BITS))
    return (high << LOW_BITS) | _reaching(low, amounts, needed, (1 << LOW_BITS) + 64)[0]


def _reaching(bins: Tensor, amounts: Tensor, needed: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first of `size` bins, int32 [R, 1], up to which amounts reach `needed`, and what it must give."""
    histogram = torch.zeros(len(bins), size, dtype=torch.int64, device=bins.device)
    sums = histogram.scatter_add_(1, bins.long(), amounts).cumsum(dim=1)
    first = torch.searchsorted(sums, needed).clamp(max=size - 1)
    before = sums.gather(1, first) - histogram.gather(1, first)
    return first.int(), needed - before


def _inverted(shares: Tensor, u: Tensor) -> Tensor:
    """The tokens [R, 1] at which the running sum of shares [R, V] passes `u` [R, 1] times the total."""
    sums = shares.cumsum(dim=1)
    # Below the total, because u is at most 1 - 2^-24 and the product is rounded to 53 bits.
    passed = ((u.double() + HALF_STEP) * sums.narrow(1, shares.shape[1] - 1, 1)).long()
    return torch.searchsorted(sums, passed, right=True).clamp(max=shares.shape[1] - 1)


def _logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """The log probabilities [R] of `tokens` [R, 1], then ids and log probabilities [R, n] of the best."""
    vocabulary = logits.shape[1]
    best = logits.amax(dim=1, keepdim=True)
    total = _shares((best - logits) * LOG2_E).sum(dim=1, keepdim=True)
    offset = best.double() + torch.log(total.double() / UNIT)
    # Keys that no two tokens share, so that equal logits come in the order of their ids on every device.
    bits = (logits + 0.0).view(torch.int32)
    images = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    backwards = torch.arange(vocabulary - 1, -1, -1, device=logits.device)
    keys = ((images.long() << 32) + backwards).topk(min(top, vocabulary), dim=1).values
    ids = vocabulary - 1 - (keys & 0xFFFFFFFF)
    wanted = torch.cat([tokens.clamp(min=0), ids], dim=1)
    values = (logits.gather(1, wanted).double() - offset).float()
    values = torch.where(tokens >= 0, values, 0.0)
    return values.select(1, 0), ids, values.narrow(1, 1, ids.shape[1])
