"""The same chain, kept in the process: for tests, and for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.audit.base import Sealed
from gateway.audit.chain import GENESIS, Link, seal, unseal
from gateway.clock import Clock, SystemClock
from gateway.errors import RecordUnavailable


class MemoryAudit:
    """An `AuditSink` whose lines can be read back; set `writable` to False to see what a full disk does."""

    def __init__(self, replica: str = "memory", clock: Clock | None = None) -> None:
        self.replica = replica
        self.lines: list[bytes] = []
        self.writable = True
        self._clock = clock or SystemClock()
        self._head = GENESIS

    async def append(self, kind: str, fields: Mapping[str, Any]) -> Sealed:
        """See `AuditSink.append`."""
        if not self.writable:
            raise RecordUnavailable("the audit record cannot be written, so nothing was processed; try again")
        line, self._head = seal(self.replica, self._head, kind, self._clock.now(), fields)
        self.lines.append(line)
        return self._head

    @property
    def head(self) -> Sealed:
        return self._head

    @property
    def records(self) -> tuple[Link, ...]:
        """Every record so far, read back from its line."""
        return tuple(unseal(line[:-1]) for line in self.lines)

    async def aclose(self) -> None:
        """Nothing to close."""
