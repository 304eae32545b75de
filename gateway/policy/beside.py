"""One line of what a reviewer must see of two bundles beside what becomes allowed or denied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Beside:
    """One change, in words. `file` is the file that says it; `loosens` that it counts as newly allowing,
    because what it allows cannot be told request by request."""

    file: str
    text: str
    loosens: bool = False

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {"file": self.file, "text": self.text, "newly_allows": self.loosens}


def named(file: str, what: str, before: Collection[str], after: Collection[str]) -> Iterator[Beside]:
    """What has come and what has gone, by name."""
    for name in sorted(set(after) - set(before)):
        yield Beside(file, f"a new {what} `{name}`")
    for name in sorted(set(before) - set(after)):
        yield Beside(file, f"the {what} `{name}` is gone")


def members(file: str, about: str, before: Iterable[str], after: Iterable[str]) -> Iterator[Beside]:
    """What a set of names has gained and lost."""
    was, now = set(before), set(after)
    if was != now:
        parts = [f"gained `{words(now - was)}`"] * bool(now - was)
        parts += [f"lost `{words(was - now)}`"] * bool(was - now)
        yield Beside(file, f"{about} {' and '.join(parts)}")


def words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
