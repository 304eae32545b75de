"""The goals of the gateway (`docs/performance.md`), each held against what was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One goal. `value` None: not measured, and `note` says why."""

    what: str
    value: float | None
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str | None = None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {self.unit}".strip()
        return f"≥ {self.at_least:g} {self.unit}".strip()

    def told(self) -> dict[str, object]:
        """For the JSON output."""
        value = self.value
        if value is not None:
            value = round(value, 3) if value >= 1 else float(f"{value:.3g}")
        told: dict[str, object] = {
            "what": self.what,
            "value": value,
            "unit": self.unit,
            "goal": self.goal,
            "met": self.met,
        }
        return {**told, "note": self.note} if self.note else told


HEADER = ("what", "measured", "goal", "met")


def table(rows: list[Row]) -> str:
    """The rows for people."""
    lines = [HEADER, *((row.what, measured(row), row.goal, word(row.met)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    lines.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    padded = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    notes = [f"{row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*padded, *notes])


def measured(row: Row) -> str:
    return "-" if row.value is None else f"{shown(row.value)} {row.unit}".strip()


def word(met: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[met]


def shown(value: float) -> str:
    """Two places, or two digits of what is too small for them."""
    return f"{value:.2f}" if not value or abs(value) >= 0.1 else f"{value:.2g}"
