"""What a check found: one row of the doctor's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a check ended. What could not be looked at is `unknown`, and never counts as good."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `region` is None for this machine; `fix` is empty if all is well."""

    check: str
    region: str | None
    status: Status
    seen: str
    fix: str = ""
    emulated: bool = False

    @property
    def where(self) -> str:
        """The region, marked where an emulator stood in for it; `here` for this machine."""
        return f"{self.region or 'here'}{' (emulated)' if self.emulated else ''}"

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding, this machine's first, then region by region."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed and everything could be looked at; warnings are allowed."""
        return not any(each.status in (Status.FAIL, Status.UNKNOWN) for each in self.findings)

    @property
    def emulated(self) -> bool:
        return any(each.emulated for each in self.findings)

    def count(self, status: Status) -> int:
        return sum(each.status is status for each in self.findings)

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "healthy": self.healthy,
            "emulated": self.emulated,
            "summary": {status.value: self.count(status) for status in Status},
            "findings": [each.wire() for each in self.findings],
        }
