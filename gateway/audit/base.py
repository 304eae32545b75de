"""The audit's contract: records go in, and each comes out sealed into the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record's place in the chain of its replica: `hash` covers the record and the hash before it."""

    sequence: int
    hash: str  # hex SHA-256


class AuditSink(Protocol):
    async def append(self, kind: str, fields: Mapping[str, Any]) -> Sealed:
        """Seals `fields` (JSON values) as a record of `kind` (`begin`, `end`, `policy_loaded`, …).

        Returns when the record is as durable as the sink promises (`written` or `synced`).
        Raises `gateway.errors.RecordUnavailable` when it cannot be written.
        """
        ...

    @property
    def replica(self) -> str:
        """Names the chain that this process writes; every record and every receipt carries it."""
        ...

    @property
    def head(self) -> Sealed:
        """The last record; sequence 0 and 64 zeros before the first."""
        ...

    async def aclose(self) -> None: ...
