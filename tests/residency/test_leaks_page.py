"""`docs/leaks.md` names only guards and tests that exist, and leaves out no report."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "leaks.md").read_text(encoding="utf-8")
REPORTS = [
    "L#27784", "L#27777", "L#22966", "L#36193", "LD#814", "L#36535", "L#29531", "L#38572",
    "L#39998", "L#25276", "L#37531", "L#29955", "L#29957", "B#5769", "L#19575", "L#17190",
    "V#2134", "V#1581", "V#913", "B#3049", "L#41402", "L#16268", "L#39865", "P#1797",
    "B#597", "L#25843", "L#12152", "E#1866",
    "O#3740", "G#550", "G#534", "Q#1549", "PI#3486",
]  # fmt: skip


def test_every_report_has_a_row() -> None:
    assert [one for one in REPORTS if f"[{one}](" not in PAGE] == []


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(tests/\S+::\w+)`", PAGE))))
def test_a_test_that_is_named_exists(test: str) -> None:
    file, name = test.split("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("row", [line for line in PAGE.splitlines() if line.startswith("| [")])
def test_a_guard_that_is_named_exists(row: str) -> None:
    guard = row.split(" | ")[2]
    module, name = re.findall(r"`(gateway[\w.]*):(\w+)`", guard)[0]
    assert hasattr(importlib.import_module(module), name)
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    for quoted in re.findall(r"`([^`]+)`", guard):
        if not re.fullmatch(r"gateway[\w.]*:\w+", quoted):
            assert quoted in source, quoted
