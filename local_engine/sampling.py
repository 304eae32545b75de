"""From logits to one token per row, reproducibly and without waiting for the device.

The randomness of a token is a pure function of (seed, choice, position), so a request gives the same tokens
whatever else the engine did before or beside it, and can be continued anywhere.

Probabilities are fixed-point numbers: exp(-gap) in units of 2^-44, where a token's gap is how far its logit lies
below the row's best one. Sums of integers do not depend on their order, drown no small share and are exact, so
neither a row's neighbours nor the device's way to add can move a boundary between two tokens. Gaps are never
negative, and so compare as the integers that their fp32 bits spell: `top_k` and `top_p` look for a threshold
among those integers, bit by bit, where others sort the vocabulary.

The order of the stages is penalties (repetition, then presence and frequency), `logit_bias`, grammar, temperature,
`top_k` and `min_p`, `top_p`: up to the grammar as SGLang has it, from the temperature on as vLLM has it, so that
`top_p` counts the mass which `top_k` and `min_p` left. Tokens as likely as the last one kept are all kept.
Greedy takes the best token after the grammar. Logprobs are the model's own: of the raw logits, before any stage.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from local_engine.harmony.tokens import STOP_TOKENS

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

DIGITS = ((20, 2048), (10, 1024), (0, 1024))
"""(lowest bit, values) of the digits in which a gap's 31 bits are searched, highest digit first."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request samples.

    `max_tokens` counts every sampled token, reasoning included. `temperature` 0 is greedy. `top_p` keeps the
    smallest set of likeliest tokens whose probability reaches it, `top_k` the k likeliest (0 = all), `min_p`
    those at least `min_p` times as likely as the likeliest. Presence and frequency penalties count the tokens of
    the answer, the repetition penalty those of prompt and answer. `top_logprobs` None asks for no logprobs.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    stop_tokens: frozenset[int] = field(default=STOP_TOKENS)

    @property
    def filtered(self) -> bool:
        """Whether some tokens are ruled out by their rank or their probability."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def penalised(self) -> bool:
        """Whether tokens that occurred are more or less likely for it."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logs of the model's own probabilities (temperature 1, before any stage) of the token chosen and
    of the likeliest ones, best first, the lower id first among equals."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """What the sampling of R rows needs, on the device. Tensors are views of buffers that stay where they are.

    uniform, temperature, top_p, min_p, presence, frequency, repetition: fp32 [R]; top_k: int32 [R].
    slot: int64 [R], the row's line of `counts`. counts: int32 [slots, V], how often the answer has the token,
    plus PROMPTED if the prompt has it. bias_ids: int64 [R, 300], no id twice, and bias: fp32 [R, 300], padded
    with id 0, bias 0. mask: int32 [R, ceil(V / 32)], bit v % 32 of word v // 32 set = token v is allowed.

    The flags say which stages any row needs; the others are not run, and rows that need none of a stage that runs
    hold its neutral values (see `empty_draw`). logprobs: the most top logprobs that any row wants, None if no row
    wants any.
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

    def rows(self, first: int, last: int) -> Draw:
        """Views of rows [first, last); `counts` and the flags are those of the whole."""
        return replace(
            self,
            uniform=self.uniform[first:last],
            temperature=self.temperature[first:last],
            top_k=self.top_k[first:last],
            top_p=self.top_p[first:last],
            min_p=self.min_p[first:last],
            presence=self.presence[first:last],
            frequency=self.frequency[first:last],
            repetition=self.repetition[first:last],
            slot=self.slot[first:last],
            bias_ids=self.bias_ids[first:last],
            bias=self.bias[first:last],
            mask=self.mask[first:last],
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of R rows: int64 [R], -1 where the logits gave none. With logprobs: chosen fp32 [R], top_ids
    int64 [R, n] and top fp32 [R, n], best first; all 0.0 in a row without a token."""

    tokens: Tensor
    chosen: Tensor | None = None
    top_ids: Tensor | None = None
    top: Tensor | None = None


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) fixed by the three; `position` is the drawn token's place in its sequence. It has 24
    random bits, so that it is the same number in fp32 and never rounds to 1."""
    key = struct.pack("<QQQ", seed & (2**64 - 1), choice, position)
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 40) / 2**24


def empty_draw(rows: int, vocabulary: int, slots: int, device: torch.device | str = "cpu") -> Draw:
    """Buffers for up to `rows` rows, at the values that change nothing: temperature 1, no filter, no penalty, no
    bias, every token allowed. The smaller draws of a run are views of it (`Draw.rows`)."""

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
    """Adds sampled `tokens` int64 [R] to the lines `slots` int64 [R] of `counts`, in place; -1 adds nothing."""
    places = slots * counts.shape[1] + tokens.clamp(min=0)
    counts.view(-1).scatter_add_(0, places, (tokens >= 0).to(counts.dtype))


def draw(logits: Tensor, d: Draw) -> Drawn:
    """One token for each row of `logits` fp32 [R, V], V at most 2^18; `logits` stay as they are.

    A row whose logits hold NaN or +inf, or nothing finite that bias and grammar left, draws -1. A row's result is
    the same to the bit whatever the other rows hold. Nothing here waits for the device.
    """
    assert logits.shape[1] <= 1 << 18, "a larger vocabulary overflows the sum of the shares"
    if logits.device.type != "cpu" or logits.shape[0] <= 1:
        return _draw(logits, d)
    # Vectorised exp may round the end of a tensor differently from its middle, so here each row is a tensor of
    # its own; one row at a time also stays within the cache.
    drawn = [_draw(logits[row : row + 1], d.rows(row, row + 1)) for row in range(logits.shape[0])]
    tokens = torch.cat([one.tokens for one in drawn])
    return Drawn(tokens, *(_joined([getattr(one, name) for one in drawn]) for name in ("chosen", "top_ids", "top")))


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of one field of `Drawn`: all have it or none has."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None


def _draw(logits: Tensor, d: Draw) -> Drawn:
    """`draw` of all rows at once."""
    adjusted = _adjusted(logits, d)
    best, likeliest = adjusted.max(dim=1, keepdim=True)
    usable = torch.isfinite(best) & (logits.amax(dim=1, keepdim=True) < torch.inf)
    gaps = (best - adjusted) / d.temperature.clamp(min=COLDEST)[:, None]
    shares = _shares(gaps)
    if d.filtered:
        shares = _filtered(shares, gaps, d)
    tokens = torch.where(d.temperature[:, None] == 0, likeliest, _inverted(shares, d.uniform[:, None]))
    tokens = torch.where(usable, tokens, -1)
    if d.logprobs is None:
        return Drawn(tokens[:, 0])
    return Drawn(tokens[:, 0], *_logprobs(logits, tokens, d.logprobs))


def _adjusted(logits: Tensor, d: Draw) -> Tensor:
    """Logits [R, V] after penalties, bias and grammar; `logits` themselves where no row needs any of them."""
    if d.penalised:
        counts = d.counts.index_select(0, d.slot)
        factors = torch.where(counts > 0, d.repetition[:, None], 1.0)
        logits = torch.where(logits > 0, logits / factors, logits * factors)
        times = counts & (PROMPTED - 1)
        logits = logits - d.presence[:, None] * (times > 0) - d.frequency[:, None] * times
    if d.biased:
        logits = logits.scatter_add(1, d.bias_ids, d.bias)
    if d.masked:
        bits = torch.arange(32, dtype=torch.int32, device=logits.device)
        forbidden = ((d.mask[:, :, None] >> bits) & 1) == 0
        logits = logits.masked_fill(forbidden.flatten(1)[:, : logits.shape[1]], -torch.inf)
    return logits


def _shares(gaps: Tensor) -> Tensor:
    """int64 [R, V] in proportion to the probabilities: UNIT where the gap is 0."""
    return (torch.exp(-gaps) * UNIT).long()


def _filtered(shares: Tensor, gaps: Tensor, d: Draw) -> Tensor:
    """Shares [R, V] with 0 for the tokens that the filters rule out; the likeliest token stays in any case."""
    images = gaps.view(torch.int32)
    ranks = torch.where(d.top_k > 0, d.top_k, shares.shape[1]).clamp(max=shares.shape[1]).long()
    limit = _threshold(images, torch.ones_like(shares), ranks[:, None])
    limit = torch.minimum(limit, d.min_p.log().abs().view(torch.int32)[:, None])
    shares = shares * (images <= limit)
    total = shares.sum(dim=1, keepdim=True)
    wanted = torch.where(d.top_p < 1, d.top_p.double() * REACHED, 1.0)[:, None]
    needed = (wanted * total).long().clamp(min=1)
    return shares * (images <= _threshold(images, shares, torch.minimum(needed, total)))


def _threshold(images: Tensor, amounts: Tensor, needed: Tensor) -> Tensor:
    """The least integers [R, 1] for which the `amounts` int64 [R, V] of `images` int32 [R, V] up to them reach
    `needed` int64 [R, 1], which is at least 1. Images are not negative; those of unusable rows may be anything.
    """
    low = torch.zeros_like(needed, dtype=torch.int32)
    for bit, values in DIGITS:
        # Bins of the histogram: 0 for all images below `low`, then the digit's values, then all above them.
        bins = ((images - low) >> bit).clamp(-1, values) + 1
        sums = torch.zeros(len(images), values + 2, dtype=torch.int64, device=images.device)
        sums = sums.scatter_add_(1, bins.long(), amounts).cumsum(dim=1)
        low = low + ((torch.searchsorted(sums, needed) - 1) << bit).int()
    return low


def _inverted(shares: Tensor, u: Tensor) -> Tensor:
    """The tokens [R, 1] at which the running sum of shares [R, V] passes `u` [R, 1] times the total."""
    sums = shares.cumsum(dim=1)
    # u is at most 1 - 2^-24, which the rounding of this product to 53 bits cannot lift to the total.
    passed = (u.double() * sums[:, -1:]).long()
    return torch.searchsorted(sums, passed, right=True).clamp(max=shares.shape[1] - 1)


def _logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """The log probabilities [R] of `tokens` [R, 1], then ids and log probabilities [R, n] of the likeliest."""
    vocabulary = logits.shape[1]
    best = logits.amax(dim=1, keepdim=True)
    total = _shares(best - logits).sum(dim=1, keepdim=True)
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
    return values[:, 0], ids, values[:, 1:]
