"""How often a candidate disagreed, and about what: bounded, without content, added up over workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.shadow.disagreement import Disagreement, Kind
from gateway.whole_files import replace_file

GROUPS_MAX: Final = 200
FOLDER: Final = "shadow"


@dataclass(slots=True)
class Group:
    count: int
    first: str  # UTC, as in the audit
    last: str
    request: str | None  # one of them, where the audit may hold it


@dataclass(slots=True)
class Tally:
    """What one worker has counted since the candidate, or the live bundle, last changed.

    `unlisted` counts disagreements that are in no group: one too many, or of a request of which nothing may
    be recorded. `failed` counts requests that could not be judged for a fault of this program.
    """

    live: str
    candidate: str
    serial: int
    judged: int = 0
    failed: int = 0
    kinds: dict[Kind, int] = field(default_factory=dict)
    groups: dict[Disagreement, Group] = field(default_factory=dict)
    unlisted: int = 0

    @property
    def disagreements(self) -> int:
        return sum(self.kinds.values())

    def add(self, found: Disagreement | None, now: str, request: str | None, *, listed: bool) -> None:
        """Counts one judged request; `listed`: its facts may be recorded here."""
        self.judged += 1
        if found is None:
            return
        self.kinds[found.kind] = self.kinds.get(found.kind, 0) + 1
        group = self.groups.get(found) if listed else None
        if group is not None:
            group.count, group.last = group.count + 1, now
        elif listed and len(self.groups) < GROUPS_MAX:
            self.groups[found] = Group(1, now, now, request)
        else:
            self.unlisted += 1

    def saved(self) -> SavedTally:
        groups = tuple(
            SavedGroup(**asdict(found), count=group.count, first=group.first, last=group.last,
                       request=group.request)
            for found, group in self.groups.items()
        )  # fmt: skip
        return SavedTally(
            live=self.live, candidate=self.candidate, serial=self.serial, judged=self.judged,
            failed=self.failed, kinds=dict(self.kinds), groups=groups, unlisted=self.unlisted,
        )  # fmt: skip


class SavedGroup(BaseModel):
    """A group as it is written down; the fields of `Disagreement`, and its count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    model: str | None
    zone: str | None
    labels: tuple[str, ...]
    live: str
    live_rule: str | None
    candidate: str
    candidate_rule: str | None
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    count: Annotated[int, Field(ge=1)]
    first: str
    last: str
    request: str | None

    @property
    def key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in Disagreement.__dataclass_fields__)


class SavedTally(BaseModel):
    """A worker's file, or several added up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    live: str
    candidate: str
    serial: int
    judged: int = 0
    failed: int = 0
    kinds: dict[Kind, int] = Field(default_factory=dict)
    groups: tuple[SavedGroup, ...] = ()
    unlisted: int = 0

    @property
    def disagreements(self) -> int:
        return sum(self.kinds.values())


def save(directory: Path, replica: str, tally: SavedTally) -> None:
    """Replaces the worker's file in one step. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(directory / f"{replica}.json", tally.model_dump_json(indent=1).encode())


def read_tallies(directory: Path) -> tuple[SavedTally, ...]:
    """The files of all workers; one that does not read is left out. Raises OSError."""
    found = []
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else ():
        try:
            found.append(SavedTally.model_validate_json(path.read_bytes()))
        except (ValidationError, FileNotFoundError):
            continue
    return tuple(found)


def added_up(tallies: Iterable[SavedTally], live: str, candidate: str, serial: int) -> SavedTally:
    """Those about this candidate beside this live bundle, as one; the most frequent groups first."""
    total = SavedTally(live=live, candidate=candidate, serial=serial)
    groups: dict[tuple[object, ...], SavedGroup] = {}
    kinds: dict[Kind, int] = {}
    for tally in tallies:
        if (tally.live, tally.candidate) != (live, candidate):
            continue
        for kind, count in tally.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
        for group in tally.groups:
            known = groups.get(group.key)
            groups[group.key] = group if known is None else joined(known, group)
        total = total.model_copy(
            update={
                "judged": total.judged + tally.judged,
                "failed": total.failed + tally.failed,
                "unlisted": total.unlisted + tally.unlisted,
            }
        )
    ordered = tuple(sorted(groups.values(), key=lambda group: -group.count))
    return total.model_copy(update={"kinds": kinds, "groups": ordered})


def joined(one: SavedGroup, other: SavedGroup) -> SavedGroup:
    return one.model_copy(
        update={
            "count": one.count + other.count,
            "first": min(one.first, other.first),
            "last": max(one.last, other.last),
            "request": one.request or other.request,
        }
    )
