"""Reads the records of audit files, of whichever replicas, in order and one at a time.

A directory stands for its `*.jsonl`. A replica's closed files (`REPLICA-<number of their first
record>.jsonl`) come before the live one; what puts them in order is the first record of each. A line that is
still being written ends its file. A line that is no record, or was altered, is not shown: `problems` says
where it stands.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.audit.chain import RECORD_BYTES_MAX, Link, NotARecord, unseal

PROBLEMS_KEPT: Final = 100


class AuditUnreadable(Exception):
    """A path that is not there or cannot be read, or that holds no audit record at all."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record: the very bytes of its line (without line end), and what they say."""

    file: Path
    number: int  # from 1
    raw: bytes
    link: Link

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(slots=True)
class Reading:
    """Some audit files. `problems` fills while they are read; of more than are kept, `problems_count`
    tells.
    """

    files: dict[str, list[Path]]  # by replica, in the order of the chain
    problems: list[str] = field(default_factory=list)
    problems_count: int = 0

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Reading:
        """Raises AuditUnreadable."""
        found: dict[str, list[tuple[int, Path]]] = {}
        for path in expand(paths):
            first = first_link(path)
            if first is not None:
                found.setdefault(first.replica, []).append((first.sequence, path))
        return cls({replica: [path for _, path in sorted(found[replica])] for replica in sorted(found)})

    def in_order(self) -> Iterator[Line]:
        """One replica after the other, each in the order of its chain."""
        for replica in self.files:
            yield from self.of_replica(replica)

    def by_time(self) -> Iterator[Line]:
        """Of all replicas at once, the earlier first; each replica's own records stay in order."""
        each = (self.of_replica(replica) for replica in self.files)
        return heapq.merge(*each, key=lambda line: line.link.time)

    def of_replica(self, replica: str) -> Iterator[Line]:
        for path in self.files[replica]:
            yield from self._lines(path)

    def holding(self, text: str) -> Iterator[Line]:
        """In order, only the lines that hold `text` somewhere; the others are not looked at any further."""
        for paths in self.files.values():
            for path in paths:
                yield from self._lines(path, text.encode())

    def _lines(self, path: Path, needle: bytes = b"") -> Iterator[Line]:
        for number, raw in enumerate(whole_lines(path), start=1):
            if needle not in raw:
                continue
            try:
                link = unseal(raw)
            except NotARecord as error:
                self._note(f"{path}:{number}: not a record: {error}")
                continue
            if not link.intact:
                self._note(f"{path}:{number}: record {link.sequence} was altered")
                continue
            yield Line(path, number, raw, link)

    def _note(self, problem: str) -> None:
        self.problems_count += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def expand(paths: Sequence[Path]) -> list[Path]:
    """The files that these paths stand for, each once. Raises AuditUnreadable."""
    if not paths:
        raise AuditUnreadable("no audit file was named; name files or directories, such as `var/audit`")
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            there = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        except OSError as error:
            raise AuditUnreadable(f"`{path}` cannot be read: {error.strerror}") from error
        if not there:
            raise AuditUnreadable(f"`{path}` holds no `*.jsonl`; name the directory of the audit files")
        for file in there:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def first_link(path: Path) -> Link | None:
    """The first record of a file; None of a file that has none yet. Raises AuditUnreadable."""
    reason = ""
    for number, raw in enumerate(whole_lines(path), start=1):
        try:
            return unseal(raw)
        except NotARecord as error:
            reason = reason or f"line {number}: {error}"
    if reason:
        raise AuditUnreadable(f"`{path}` is not an audit file: {reason}")
    return None


def whole_lines(path: Path) -> Iterator[bytes]:
    """Each line without its end, cut at what a record may have; not a last one that has no end yet.

    Raises AuditUnreadable.
    """
    try:
        with path.open("rb") as file:
            while line := file.readline(RECORD_BYTES_MAX + 2):
                if line.endswith(b"\n"):
                    yield line[:-1]
                    continue
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(RECORD_BYTES_MAX)
                if rest:
                    yield line
    except OSError as error:
        raise AuditUnreadable(f"`{path}` cannot be read: {error.strerror}") from error
