"""What could not be told to the store while it was away, until it can."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MARKS_MAX: Final = 50_000
SETTLES_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Settle:
    tenant: str
    key_id: str
    reservation_id: str
    used_tokens: int
    used_usd_nano: int


@dataclass(slots=True)
class Owed:
    """Labels by tenant and mark, and reservations to settle. Both are bounded.

    Labels past the bound are not kept; their tenant's epoch is renewed instead, so that what was forgotten
    is unreadable rather than absent. Settles past the bound leave their estimates charged.
    """

    marks_max: int = MARKS_MAX
    settles_max: int = SETTLES_MAX
    labels: dict[str, dict[bytes, frozenset[str]]] = field(default_factory=dict)
    settles: dict[str, Settle] = field(default_factory=dict)
    renew: set[str] = field(default_factory=set)
    marks: int = 0

    def __bool__(self) -> bool:
        return bool(self.labels or self.settles or self.renew)

    def note(self, tenant: str, marks: Iterable[bytes], labels: frozenset[str]) -> None:
        of_tenant = self.labels.setdefault(tenant, {})
        for mark in marks:
            if mark in of_tenant:
                of_tenant[mark] |= labels
            elif self.marks < self.marks_max:
                of_tenant[mark] = labels
                self.marks += 1
            else:
                self.renew.add(tenant)

    def settle(self, settle: Settle) -> None:
        if len(self.settles) < self.settles_max:
            self.settles[settle.reservation_id] = settle

    def take(self) -> Owed:
        """Everything owed so far; this one is empty then."""
        taken = Owed(self.marks_max, self.settles_max, self.labels, self.settles, self.renew, self.marks)
        self.labels, self.settles, self.renew, self.marks = {}, {}, set(), 0
        return taken

    def give_back(self, taken: Owed) -> None:
        """Owes again what could not be paid."""
        self.renew |= taken.renew
        for tenant, of_tenant in taken.labels.items():
            for mark, labels in of_tenant.items():
                self.note(tenant, (mark,), labels)
        self.settles = {**taken.settles, **self.settles}
