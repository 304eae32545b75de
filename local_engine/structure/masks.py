"""Bitmaps over the vocabulary: int32[6284], bit `t % 32` of word `t // 32` says that token t may come."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from local_engine.harmony.tokens import FIRST_SPECIAL, VOCABULARY_SIZE

Mask = NDArray[np.int32]

WORDS = -(-VOCABULARY_SIZE // 32)
_LAST_ORDINARY_WORD, _ORDINARY_BITS = divmod(FIRST_SPECIAL, 32)


def check(mask: Mask) -> None:
    """Raises `ValueError` unless `mask` is one row that may be written through its address."""
    if mask.shape != (WORDS,) or mask.dtype != np.int32 or not mask.flags.c_contiguous:
        raise ValueError(f"a mask must be int32[{WORDS}] without gaps, not {mask.dtype}{list(mask.shape)}")


def allow(mask: Mask, tokens: Iterable[int]) -> None:
    """Sets the bits of some tokens."""
    words = mask.view(np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)


def allow_only(mask: Mask, tokens: Iterable[int]) -> None:
    """Sets the bits of some tokens and clears all others."""
    mask.fill(0)
    allow(mask, tokens)


def clear_specials(mask: Mask) -> None:
    """Clears the bits of all special tokens, named and reserved."""
    mask[_LAST_ORDINARY_WORD] &= (1 << _ORDINARY_BITS) - 1
    mask[_LAST_ORDINARY_WORD + 1 :] = 0


def ordinary_tokens() -> Mask:
    """A read-only mask of every token that is not special."""
    mask = np.full(WORDS, -1, dtype=np.int32)
    clear_specials(mask)
    mask.flags.writeable = False
    return mask


def tokens_of(mask: Mask) -> list[int]:
    """The allowed tokens in ascending order."""
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]
