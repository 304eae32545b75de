"""Memory on a device and the host's arrays that it is filled from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
import torch

ALIGNED_BYTES = 64
"""A part of an arena begins at a multiple of this, so that a device may read it as widely as it likes."""

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Mirror:
    """A device tensor and the host array it is filled from. On the CPU both are the same memory."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        staging = torch.zeros(shape, dtype=dtype)
        self.host: Array = staging.numpy()
        self.device = staging if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self._staging = staging

    def send(self, count: int) -> None:
        """Brings the first `count` entries to the device."""
        if self.device is not self._staging:
            self.device[:count].copy_(self._staging[:count], non_blocking=True)

    def send_part(self, row: int, start: int, end: int) -> None:
        """Brings the entries start .. end - 1 of one row to the device."""
        if self.device is not self._staging and start < end:
            self.device[row, start:end].copy_(self._staging[row, start:end], non_blocking=True)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an arena: a device tensor and the host array it is filled from."""

    host: Array
    device: torch.Tensor


class Arena:
    """Named parts side by side, so that one copy sends many. On the CPU host and device are the same memory.

    `numbers` is the device's memory as i64.
    """

    def __init__(self, shapes: Mapping[str, tuple[Shape, torch.dtype]], device: torch.device) -> None:
        sizes = (prod(shape) * dtype.itemsize for shape, dtype in shapes.values())
        ends = [*accumulate(-(-size // ALIGNED_BYTES) * ALIGNED_BYTES for size in sizes)]
        self._bounds = dict(zip(shapes, pairwise([0, *ends]), strict=True))
        self._staging = torch.zeros(ends[-1], dtype=torch.uint8)
        self._memory = self._staging if device.type == "cpu" else self._staging.to(device)
        self.numbers = self._memory.view(torch.int64)

        def part(memory: torch.Tensor, name: str) -> torch.Tensor:
            shape, dtype = shapes[name]
            start = self._bounds[name][0]
            return memory[start : start + prod(shape) * dtype.itemsize].view(dtype).view(shape)

        self._parts = {
            name: Part(part(self._staging, name).numpy(), part(self._memory, name)) for name in shapes
        }

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def place(self, name: str) -> int:
        """Where a part of i64 begins in `numbers`."""
        return self._bounds[name][0] // torch.int64.itemsize

    def send(self, first: str, last: str) -> None:
        """Brings everything from the part `first` to the part `last` to the device."""
        if self._memory is not self._staging:
            start, end = self._bounds[first][0], self._bounds[last][1]
            self._memory[start:end].copy_(self._staging[start:end], non_blocking=True)
