"""Whether audit files still are what was written, and if not, which lines tell.

Found from the files alone: a record edited, dropped, moved, doubled or put in. A hash needs no secret, so
what `LIMITS` names is not found without something from outside, such as a receipt or a copy of the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.audit.alterations import Finding, Row, find_alterations, own_replica
from gateway.audit.chain import RECORD_BYTES_MAX, Link, NotARecord, unseal
from gateway.audit.records import Begin, End, Recovered

LIMITS: Final = (
    "records cut off at the end of a chain, or added there",
    "a chain that was written anew as a whole, with new hashes throughout",
    "a replica's files that are missing altogether",
)

_TORN: Final = (
    "the last line has no line end: it was just being written, or a crash cut it "
    "(the next start keeps it aside and records `recovered`)"
)


class NotAnAuditFile(Exception):
    """A file that cannot be read, or none of whose lines is an audit record."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A `begin` without an `end`: in flight when the file was read, or cut off by a crash."""

    file: str
    line: int
    request: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What was found about one replica's chain, which may span several files.

    `first` and `last` are sequence numbers and `head` the last record's hash, as the lines state them;
    None without a record.
    """

    replica: str
    files: tuple[str, ...]
    records: int
    first: int | None
    last: int | None
    head: str | None
    alterations: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    unfinished: tuple[Unfinished, ...]

    @property
    def intact(self) -> bool:
        return not self.alterations


def verify_files(paths: Sequence[Path]) -> tuple[ChainReport, ...]:
    """One report for each replica, in the order of their ids. Raises NotAnAuditFile."""
    chains: dict[str, list[_File]] = {}
    for path in {path.resolve(): path for path in paths}.values():
        read = _File(path)
        read.read()
        chains.setdefault(read.replica, []).append(read)
    return tuple(_report(replica, files) for replica, files in sorted(chains.items()))


@dataclass(slots=True)
class _File:
    """One file, read line by line; of each record only what the report needs is kept."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    begun: dict[str, Unfinished] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    replica: str = ""
    first_sequence: int = 0
    _latest: str = ""

    def read(self) -> None:
        reason = ""
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n") and len(line) <= RECORD_BYTES_MAX:
                self.warnings.append(Finding(str(self.path), number, "torn", _TORN))
                break
            try:
                link = unseal(line.removesuffix(b"\n"))
            except NotARecord as error:
                reason = reason or f"line {number}: {error}"
                self.rows.append(Row(str(self.path), number, reason=str(error)))
                continue
            self.rows.append(Row.of(str(self.path), number, link))
            self._take(number, link)
        if not self.replica and (self.rows or self.warnings):
            raise NotAnAuditFile(f"`{self.path}` is not an audit file: {reason or 'it has no whole line'}")
        self.replica = own_replica(self.rows) or self.replica or self.path.stem

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                # Bounded: a file without line ends must not be taken into memory whole.
                while line := file.readline(RECORD_BYTES_MAX + 1):
                    yield line
                    while line and not line.endswith(b"\n"):
                        line = file.readline(RECORD_BYTES_MAX + 1)
        except OSError as error:
            raise NotAnAuditFile(f"`{self.path}` cannot be read: {error.strerror}") from error

    def _take(self, number: int, link: Link) -> None:
        if not self.replica:
            self.replica, self.first_sequence = link.replica, link.sequence
        if link.time < self._latest:
            text = f"the clock went back: `{link.time}` follows `{self._latest}`"
            self.warnings.append(Finding(str(self.path), number, "clock", text))
        self._latest = max(self._latest, link.time)
        if link.kind == Recovered.kind:
            text = f"a crash had cut a line here; its bytes are in `{link.fields.get('kept_as')}`"
            self.warnings.append(Finding(str(self.path), number, "recovered", text))
        request = link.fields.get("request")
        if isinstance(request, str):
            if link.kind == Begin.kind:
                self.begun.setdefault(request, Unfinished(str(self.path), number, request))
            elif link.kind == End.kind:
                self.ended.add(request)


def _report(replica: str, files: list[_File]) -> ChainReport:
    files.sort(key=lambda file: file.first_sequence)
    rows = [row for file in files for row in file.rows]
    records = [row for row in rows if row.sequence]
    ended = frozenset[str]().union(*(file.ended for file in files))
    return ChainReport(
        replica=replica,
        files=tuple(str(file.path) for file in files),
        records=len(records),
        first=records[0].sequence if records else None,
        last=records[-1].sequence if records else None,
        head=records[-1].hash if records else None,
        alterations=find_alterations(rows),
        warnings=tuple(warning for file in files for warning in file.warnings),
        unfinished=tuple(
            begun for file in files for request, begun in file.begun.items() if request not in ended
        ),
    )
