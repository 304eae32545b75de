"""Attention on the host, and what surrounds it, in C++, over the pools where they are: nothing is gathered.

A prompt's rows and single rows are the same to it: it looks at sequences and positions, not at `Batch.runs`.
Scores and sums are in fp32. In bf16 the shares are rounded before they weigh values, where the processor
multiplies pairs of bf16; a result does not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from local_engine.kv import BLOCK_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

    from local_engine.batch import Batch, Group, LayerKV
    from local_engine.model import Rope

PARTS = 16
"""A single row's context is cut into so many at most; the sums of each are kept until the last is done."""

POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


class Paged(ctypes.Structure):
    """As in paged.h."""

    _fields_ = (
        *((name, POINTER) for name in ("q", "keys", "values", "sinks", "heard")),
        *((name, POINTER) for name in ("tables", "base", "positions", "sequence")),
        *((name, ctypes.c_int64) for name in ("columns", "rows", "heads", "kv_heads", "dim", "window")),
    )


class Attention:
    """The kernels of attention behind `compiled.load`, for contiguous tensors of one dtype, fp32 or bf16.

    `level` is the instruction set, 0 the portable one. Raises `ValueError` for pools of other blocks than the
    kernels are made for.
    """

    def __init__(self, kernels: ctypes.CDLL, level: int) -> None:
        self._attend, self._rotate, self._choose = kernels.attend, kernels.rotate, kernels.choose
        self._attend.argtypes = [INT] * 3 + [POINTER]
        self._rotate.argtypes = [INT] * 3 + [LONG] * 4 + [POINTER] * 8
        self._choose.argtypes = [INT] * 2 + [LONG] * 3 + [POINTER] * 3
        for function in (self._attend, self._rotate, self._choose):
            function.restype = None
        self._level = level

    def attend(
        self, q: Tensor, kv: LayerKV, group: Group, batch: Batch, sinks: Tensor, window: int | None
    ) -> Tensor:
        """See `Ops.attend`."""
        rows, heads, dim = q.shape
        if kv.keys.shape[1] != BLOCK_TOKENS:
            raise ValueError(f"blocks hold {kv.keys.shape[1]} positions, but the kernels want {BLOCK_TOKENS}")
        heard = torch.empty_like(q)
        given = Paged(
            q.data_ptr(),
            kv.keys.data_ptr(),
            kv.values.data_ptr(),
            sinks.data_ptr(),
            heard.data_ptr(),
            group.tables.data_ptr(),
            group.base.data_ptr(),
            batch.positions.data_ptr(),
            batch.sequence.data_ptr(),
            group.tables.stride(0),
            rows,
            heads,
            kv.keys.shape[2],
            dim,
            window or 0,
        )
        self._attend(self._level, torch.get_num_threads(), 8 * q.element_size(), ctypes.byref(given))
        return heard

    def rotate(self, projected: Tensor, rope: Rope, positions: Tensor, kv: LayerKV, slots: Tensor) -> Tensor:
        """projected [T, (N + 2 K) D] -> rotated queries [T, N, D]; keys, rotated, and values go to slots."""
        (rows, width), (kv_heads, dim) = projected.shape, kv.keys.shape[-2:]
        heads = width // dim - 2 * kv_heads
        q = torch.empty(rows, heads, dim, dtype=projected.dtype)
        self._rotate(
            self._level,
            torch.get_num_threads(),
            8 * q.element_size(),
            rows,
            heads,
            kv_heads,
            dim,
            projected.data_ptr(),
            rope.cos.data_ptr(),
            rope.sin.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            q.data_ptr(),
            kv.keys.data_ptr(),
            kv.values.data_ptr(),
        )
        return q

    def choose(self, logits: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """logits [T, E] -> the `top` experts of each row, i64 [T, top], and the softmax over those."""
        rows, experts = logits.shape
        ids = torch.empty(rows, top, dtype=torch.int64)
        shares = torch.empty(rows, top, dtype=logits.dtype)
        self._choose(
            self._level,
            8 * logits.element_size(),
            rows,
            experts,
            top,
            logits.data_ptr(),
            ids.data_ptr(),
            shares.data_ptr(),
        )
        return ids, shares
