"""What the stages of the GPU bench report, how it is kept, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured or checked: what, and its numbers by unit. `failed` says that a check did not hold;
    `met` whether a goal was reached, None where there is none."""

    what: str
    values: Mapping[str, Value]
    failed: bool = False
    met: bool | None = None


@dataclass(slots=True)
class Result:
    """What came of a stage. Until it has ended well, `missing` says why there is nothing, or not all."""

    number: int
    title: str
    missing: str | None = "not run"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether the stage ran to its end and all its checks held."""
        return self.missing is None


def encode(row: Row) -> str:
    """A row as a line."""
    return json.dumps(asdict(row))


def decode(line: str) -> Row:
    """The row of a line. Raises `ValueError` for one that was cut short."""
    found: dict[str, Any] = json.loads(line)
    return Row(**found)


def store(path: Path, about: Mapping[str, Any], results: list[Result]) -> None:
    """Writes all that is known so far, in one go: a reader finds the last state or this one."""
    text = json.dumps({**about, "stages": [asdict(one) for one in results]}, indent=1)
    fresh = path.with_suffix(".part")
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(path)


def lines(about: Mapping[str, Any], results: list[Result]) -> Iterator[str]:
    """The table, for a person."""
    if about["rehearsal"]:
        yield "REHEARSAL on the host with tiny shapes: no number below is a measurement of anything."
    yield ", ".join(f"{key} {value}" for key, value in about.items() if key != "rehearsal")
    for result in results:
        yield ""
        yield f"{result.number}. {result.title} ({result.seconds:.0f} s)"
        yield from (f"   {_line(row)}" for row in result.rows)
        if result.missing is not None:
            yield f"   {'the rest ' if result.rows else ''}not measured: {result.missing}"


def _line(row: Row) -> str:
    shown = "  ".join(f"{_number(value)} {unit}" for unit, value in row.values.items())
    mark = " FAILED" if row.failed else {None: "", True: " (goal met)", False: " (goal not met)"}[row.met]
    return f"{row.what:<58} {shown}{mark}"


def _number(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
