"""Batches by hand, over block tables that are plain lists, and models without files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from local_engine.batch import Batch, Group, Run
from local_engine.checkpoint import Checkpoint, Origin
from local_engine.config import ModelConfig
from local_engine.kv import BLOCK_TOKENS
from local_engine.model import KV, Model, forward, load_model, new_kv
from local_engine.ops import Ops
from local_engine.presets import Preset, random_tensor
from local_engine.sampling import Draw
from local_engine.tensors import TensorSpec, tensor_specs

Piece = tuple[int, Sequence[int], int]
"""Which sequence, tokens, position of the first of them."""


def no_draw() -> Draw:
    """For batches whose logits are looked at, not drawn from."""
    return greedy(0, 1)


def greedy(rows: int, vocabulary: int, device: str = "cpu") -> Draw:
    """Draws the likeliest token of each of R rows."""

    def row(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    return Draw(
        uniform=row(0.5),
        temperature=row(0),
        top_k=row(0, torch.int32),
        top_p=row(1),
        min_p=row(0),
        presence=row(0),
        frequency=row(0),
        repetition=row(1),
        slot=row(0, torch.int64),
        counts=torch.zeros(1, vocabulary, dtype=torch.int32, device=device),
        bias_ids=torch.zeros(rows, 300, dtype=torch.int64, device=device),
        bias=torch.zeros(rows, 300, device=device),
        mask=torch.full((rows, -(-vocabulary // 32)), -1, dtype=torch.int32, device=device),
        penalised=False,
        biased=False,
        masked=False,
        logprobs=None,
    )


@dataclass(frozen=True)
class Tables:
    """Every sequence's blocks, from the first token on: physical[group][sequence][logical block].

    With a `window`, tables of the window group begin where a row's window does.
    """

    full: list[list[int]]
    sliding: list[list[int]]
    window: int | None = None

    @classmethod
    def of(
        cls, sequences: int, tokens: int, *, shuffled: int | None = None, window: int | None = None
    ) -> Tables:
        """Room for `tokens` a sequence, in the order of the pool or in one drawn with the seed `shuffled`."""
        columns = -(-tokens // BLOCK_TOKENS)

        def group(seed: int) -> list[list[int]]:
            generator = torch.Generator().manual_seed(seed)
            count = sequences * columns
            order = torch.arange(count) if shuffled is None else torch.randperm(count, generator=generator)
            blocks: list[list[int]] = (order + 1).view(sequences, columns).tolist()
            return blocks

        return cls(group(shuffled or 0), group((shuffled or 0) + 1), window)

    @property
    def blocks(self) -> int:
        """Blocks a pool must have, the scratch block included."""
        return len(self.full) * len(self.full[0]) + 1

    def batch(self, pieces: Sequence[Piece], rows: Sequence[int] | None = None) -> Batch:
        """Pieces one behind the other; logits of all rows, or of the given ones."""
        runs: list[Run] = []
        tokens: list[int] = []
        bases = [0] * len(self.full)
        for sequence, piece, position in pieces:
            runs.append(Run(len(tokens), len(piece), position, sequence))
            tokens.extend(piece)
            if self.window is not None:
                bases[sequence] = max(0, position - self.window + 1) // BLOCK_TOKENS
        where = [(run.sequence, run.position + n) for run in runs for n in range(run.rows)]
        wanted = range(len(tokens)) if rows is None else rows
        return Batch(
            tokens=torch.tensor(tokens),
            positions=torch.tensor([position for _, position in where]),
            sequence=torch.tensor([sequence for sequence, _ in where]),
            full=_group(self.full, [0] * len(self.full), where),
            window=_group(self.sliding, bases, where),
            rows=torch.tensor(list(wanted), dtype=torch.int64),
            runs=tuple(runs),
            window_base=tuple(bases),
            draw=no_draw(),
        )


def _group(physical: list[list[int]], bases: list[int], where: list[tuple[int, int]]) -> Group:
    columns = len(physical[0])
    tables = [
        blocks[base:] + [0] * (columns - len(blocks[base:]))
        for blocks, base in zip(physical, bases, strict=True)
    ]
    slots = [
        physical[sequence][position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
        for sequence, position in where
    ]
    return Group(torch.tensor(tables), torch.tensor(bases), torch.tensor(slots))


def kv_for(model: Model, tables: Tables) -> KV:
    """Pools that the tables' blocks fit into."""
    return new_kv(model, tables.blocks, tables.blocks)


def logits_of(
    model: Model,
    ops: Ops,
    prompts: Sequence[Sequence[int]],
    *,
    chunk: int = 1 << 30,
    tables: Tables | None = None,
) -> list[torch.Tensor]:
    """Logits [T, V] of each prompt; every step takes `chunk` tokens of each that is not at its end."""
    longest = max(len(prompt) for prompt in prompts)
    tables = tables or Tables.of(len(prompts), longest)
    kv = kv_for(model, tables)
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for at in range(0, longest, chunk):
        pieces = [(n, prompt[at : at + chunk], at) for n, prompt in enumerate(prompts) if prompt[at:]]
        logits = forward(model, tables.batch(pieces), kv, ops)
        for (n, _, _), part in zip(pieces, torch.split(logits, [len(p[1]) for p in pieces]), strict=True):
            found[n].append(part)
    return [torch.cat(parts) for parts in found]


def load(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    decoded_experts_bytes: int = 256 << 20,
    *,
    dense_int8: bool = False,
) -> Model:
    """On the host, with room for 512 tokens."""
    return load_model(
        checkpoint,
        dtype,
        max_context_tokens=512,
        decoded_experts_bytes=decoded_experts_bytes,
        dense_int8=dense_int8,
    )


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Every tensor in a value of tensors, dataclasses and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in tensors_of(getattr(value, field.name))]
    return []


class _Drawn:
    """Stands for an open file of tensors that nobody wrote."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._specs = {spec.name: spec for spec in tensor_specs(config)}
        self._preset = Preset("drawn", config, _loud)
        self._seed = seed

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, drawn anew."""
        return self._preset.tensor(self._specs[name], self._seed)


class _Empty:
    """Stands for an open file whose tensors have a shape and no content."""

    def __init__(self, config: ModelConfig) -> None:
        self._specs = {spec.name: spec for spec in tensor_specs(config)}

    def tensor(self, name: str) -> torch.Tensor:
        """Memory of the right shape and type; no memory at all where tensors are fake."""
        spec = self._specs[name]
        return torch.empty(spec.shape, dtype=torch.uint8 if spec.dtype == "U8" else torch.bfloat16)


def _loud(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    return random_tensor(spec, generator, (121, 125))


def drawn_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Random weights as those of the `tiny` preset, of any shape."""
    return _checkpoint(config, _Drawn(config, seed))


def empty_checkpoint(config: ModelConfig) -> Checkpoint:
    """Weights of any shape without values."""
    return _checkpoint(config, _Empty(config))


def _checkpoint(config: ModelConfig, source: _Drawn | _Empty) -> Checkpoint:
    specs = list(tensor_specs(config))
    return Checkpoint(
        path=Path("drawn"),
        config=config,
        format="original",
        origin=Origin(None, None),
        dense=frozenset(),
        _parts={spec.name: [spec] for spec in specs},
        _sources={spec.name: source for spec in specs},
    )
