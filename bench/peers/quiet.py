"""What the rest of the machine does meanwhile. Standard library only: every peer uses it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
BUSY = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""Columns of the first line of `/proc/stat`; guests are part of `user`."""
RESTING = ("idle", "iowait")


class Watch:
    """From its making on: which share of all CPUs went to others than this process.

    What a hypervisor gives to other machines (`steal`) counts as theirs.
    """

    def __init__(
        self,
        stat: Path = Path("/proc/stat"),
        *,
        own_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
        cpus: int | None = None,
    ) -> None:
        self._stat = stat
        self._own_s = own_s
        self._clock = clock
        self._cpus = cpus or os.cpu_count() or 1
        self._began = self._now()

    def others(self) -> float:
        """The share so far, between 0 and 1."""
        busy_s, own_s, at_s = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return max(0.0, busy_s - own_s) / max(self._cpus * at_s, TICK_S)

    def _now(self) -> tuple[float, float, float]:
        columns = self._stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        ticks = zip(BUSY, map(int, columns), strict=False)
        busy = sum(count for name, count in ticks if name not in RESTING)
        return busy * TICK_S, self._own_s(), self._clock()
