"""One step's rows as the model sees them: what to compute, where it belongs, where its keys and values are.

Shapes: T rows, R of them sampled, S sequences, n columns of a block table, K key/value heads, D head
dimension. Integers are i64 and live on the model's device, except those of `Run` and `window_base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from local_engine.sampling import Draw


@dataclass(frozen=True, slots=True)
class LayerKV:
    """One layer's pool of rotated keys and of values: [blocks, block tokens, K, D] in the model's dtype.

    Block 0 is scratch: rows that only fill up a batch write there, and nobody reads it unmasked.
    """

    keys: torch.Tensor
    values: torch.Tensor


class Run(NamedTuple):
    """Consecutive rows of a batch that are consecutive tokens of one sequence."""

    row: int
    rows: int
    position: int
    """Of the first row."""
    sequence: int
    """Row of the block tables."""


@dataclass(frozen=True, slots=True)
class Group:
    """Where the keys and values of one group of layers are.

    `tables` [S, n] holds the physical block of logical block `base` [S] + column, 0 where there is none.
    `slots` [T] says where each row's own key and value go: block * block tokens + offset.
    """

    tables: torch.Tensor
    base: torch.Tensor
    slots: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """T rows: `tokens`, `positions`, `sequence` [T], the rows whose logits are wanted [R], and how to draw.

    `runs` and `window_base` are the host's view of the same, for operations that go sequence by sequence; a
    batch whose step is captured has no `runs`. `window_base` is the window group's `base`; the full group's
    is always 0.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    sequence: torch.Tensor
    full: Group
    window: Group
    rows: torch.Tensor
    runs: tuple[Run, ...]
    window_base: tuple[int, ...]
    draw: Draw
