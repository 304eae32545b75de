"""Host memory that a step's numbers are gathered in, and how they get to the device: in one copy.

A device would take a dozen small copies a step one after the other, a few microseconds each. On the CPU both
sides are the same memory and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

ALIGNMENT = 16

Array = np.ndarray[Any, Any]


class Part:
    """One array of a `Staging`: the host's, and the device's once it is sent. Both are there once placed."""

    host: Array
    device: torch.Tensor

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        self.size = int(np.prod(shape)) * dtype.itemsize

    def place(self, host: torch.Tensor, device: torch.Tensor) -> None:
        """Takes `size` bytes on both sides."""
        self.host = host.view(self._dtype).view(self._shape).numpy()
        self.device = device.view(self._dtype).view(self._shape)

    def put(self, values: Iterable[float] | Array, count: int) -> torch.Tensor:
        """Writes the first `count` entries and returns where they will be on the device."""
        self.host[:count] = values
        return self.device[:count]


class Staging:
    """Arrays that are sent together.

    What is sent lies in one of two pinned buffers until the device has fetched it, so the host's arrays may
    be written again at once and keep what was not.
    """

    def __init__(self, device: torch.device) -> None:
        self._on = device
        self._parts: list[Part] = []
        self._flights: list[_Flight] = []

    def part(self, *shape: int, dtype: torch.dtype = torch.int64) -> Part:
        """One more array of zeros, to be placed by `allocate`."""
        self._parts.append(Part(shape, dtype))
        return self._parts[-1]

    def allocate(self) -> None:
        """Gives every part its place."""
        starts = [0]
        for part in self._parts:
            starts.append(starts[-1] + -(-part.size // ALIGNMENT) * ALIGNMENT)
        self._host = torch.zeros(starts[-1], dtype=torch.uint8)
        self._device = self._beyond(self._host)
        for part, start in zip(self._parts, starts, strict=False):
            end = start + part.size
            part.place(self._host[start:end], self._device[start:end])
        if self._device is not self._host:
            self._flights = [_Flight(starts[-1], self._on.type == "cuda") for _ in range(2)]

    def _beyond(self, host: torch.Tensor) -> torch.Tensor:
        """As much memory on the device."""
        return host if self._on.type == "cpu" else torch.zeros_like(host, device=self._on)

    def send(self) -> None:
        """Brings all parts to the device, behind whatever it is doing."""
        if self._flights:
            self._flights.reverse()
            self._flights[0].send(self._host, self._device)


class _Flight:
    """A buffer that the device reads from by itself, and whether it has."""

    def __init__(self, size: int, pinned: bool) -> None:
        self._buffer = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        self._fetched = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    def send(self, host: torch.Tensor, device: torch.Tensor) -> None:
        if self._fetched is not None:
            self._fetched.synchronize()
        self._buffer.copy_(host)
        device.copy_(self._buffer, non_blocking=True)
        if self._fetched is not None:
            self._fetched.record()


class Mirror:
    """A device tensor and the host array it is filled from. On the CPU both are the same memory."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, pinned: bool = False
    ) -> None:
        # What is not pinned is copied once more on the way, and may be written again at once.
        staging = torch.zeros(shape, dtype=dtype, pin_memory=pinned and device.type == "cuda")
        self.host: Array = staging.numpy()
        self.device = staging if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self._staging = staging

    def send(self, count: int) -> None:
        """Brings the first `count` entries to the device."""
        if self.device is not self._staging:
            self.device[:count].copy_(self._staging[:count], non_blocking=True)

    def send_part(self, row: int, start: int, end: int) -> None:
        """Brings the entries start .. end - 1 of one row to the device.

        Where the host's array is pinned, they may be written again before the device has fetched them: a row
        gets another sequence's blocks only once nobody wants what the step under way makes of its last owner.
        """
        if self.device is not self._staging and start < end:
            self.device[row, start:end].copy_(self._staging[row, start:end], non_blocking=True)
