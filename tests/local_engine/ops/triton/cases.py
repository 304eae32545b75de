"""Inputs of single operations: layers, pools and batches with random values, of sizes nothing divides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from local_engine.batch import Batch, LayerKV
from local_engine.kv import BLOCK_TOKENS
from local_engine.model import Model
from local_engine.presets import TINY
from tests.local_engine.batches import Tables, drawn_checkpoint, load
from tests.local_engine.ops.test_ops import ODD, TWO_LAYERS

UNEVEN = replace(ODD, hidden_size=224, vocab_size=301)
"""Besides `ODD`'s heads, a width that ends within a tile."""

GROUPED = replace(TINY, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=1, hidden_size=128)
"""Eight query heads for a key/value head of 64, as in the released models."""

SOME_ROWS = (2, 8, 17, 65)
"""One of each launch configuration."""

ROWS = (1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 130)
"""On both sides of every boundary between launch configurations, and more than one tile."""


def model_of(name: str) -> Model:
    """A model with random weights; `norm`s and biases are as different from 1 and 0 as in a trained one."""
    return load(drawn_checkpoint({"uneven": UNEVEN, "grouped": GROUPED, "tiny": TWO_LAYERS}[name], seed=7))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normally distributed values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pool_of(model: Model, blocks: int, seed: int = 1) -> LayerKV:
    """Keys and values everywhere."""
    config = model.config
    shape = (blocks, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
    return LayerKV(random(*shape, seed=seed), random(*shape, seed=seed + 1))


def batch_of(runs: Sequence[tuple[int, int]], window: int | None, seed: int = 3) -> tuple[Batch, int]:
    """A batch of runs (position, rows), each of a sequence of its own, in another order than the tables', and
    how many blocks its pools have. Window tables begin where a window does."""
    longest = max(position + rows for position, rows in runs)
    tables = Tables.of(len(runs), longest, shuffled=seed, window=window)
    order = torch.randperm(len(runs), generator=torch.Generator().manual_seed(seed)).tolist()
    pieces = [
        (sequence, [0] * rows, position) for sequence, (position, rows) in zip(order, runs, strict=True)
    ]
    return tables.batch(pieces), tables.blocks
