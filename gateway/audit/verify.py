"""Whether audit files still are what was written, and if not, which lines tell.

Found from the files alone: a record edited, dropped, moved, doubled or put in. A hash needs no secret, so a
whole chain can be written anew: that takes the pinned key of its checkpoints to be seen, and, where the one
who wrote it anew holds the key, an anchor: something signed that was kept outside. `limits` says what each
leaves open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.audit.alterations import Finding, Row, find_alterations, own_replica
from gateway.audit.anchors import Anchor
from gateway.audit.base import Sealed
from gateway.audit.chain import GENESIS, RECORD_BYTES_MAX, Link, NotARecord, unseal
from gateway.audit.records import Begin, CheckpointMade, End, Recovered, SegmentsDropped
from gateway.audit.witnesses import Stamp, hear_anchors, hear_checkpoints, missing_replica
from gateway.receipts.jwk import PublicKey

LIMITS: Final = (
    "records cut off at the end of a chain, or added there",
    "a chain that was written anew as a whole, with new hashes throughout",
    "a replica's files that are missing altogether",
)
LIMITS_WITH_KEY: Final = (
    "records cut off at the end of a chain",
    "records after the last checkpoint that were changed or added",
    "a chain that was written anew and signed anew, by whoever holds the signing key",
    "a replica's files that are missing altogether",
)
LIMITS_WITH_ANCHOR: Final = (
    "what was done, by whoever holds the signing key, to records after the last one that an anchor names",
    "a replica's files that are missing altogether, where no anchor names that replica",
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
    None without a record. `signed` is the last record that a checkpoint vouches for, `anchored` the last one
    that an anchor does. Without files: an anchor names this replica.
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
    signed: int | None = None
    anchored: int | None = None

    @property
    def intact(self) -> bool:
        return not self.alterations


def limits(*, keyed: bool, anchored: bool) -> tuple[str, ...]:
    """What a check cannot find, with a pinned key or without, and with anchors or without."""
    return LIMITS_WITH_ANCHOR if anchored else LIMITS_WITH_KEY if keyed else LIMITS


def verify_files(
    paths: Sequence[Path],
    pinned: Mapping[str, PublicKey] | None = None,
    anchors: Sequence[Anchor] = (),
) -> tuple[ChainReport, ...]:
    """One report for each replica, in the order of their ids; `pinned` are the believed keys by thumbprint.

    Raises NotAnAuditFile.
    """
    chains: dict[str, list[_File]] = {}
    for path in chain_files(paths):
        read = _File(path)
        read.read()
        chains.setdefault(read.replica, []).append(read)
    reports = [
        _report(replica, files, pinned, [anchor for anchor in anchors if anchor.replica == replica])
        for replica, files in chains.items()
    ]
    absent = {anchor.replica: anchor for anchor in anchors if anchor.replica not in chains}
    reports += [
        ChainReport(replica, (), 0, None, None, None, (missing_replica(anchor),), (), ())
        for replica, anchor in absent.items()
    ]
    return tuple(sorted(reports, key=lambda report: report.replica))


def latest_checkpoints(paths: Sequence[Path]) -> dict[str, str | None]:
    """Replica -> the last checkpoint that stands in its chain, unverified. Raises NotAnAuditFile."""
    latest: dict[str, Stamp | None] = {}
    for path in chain_files(paths):
        read = _File(path)
        read.read()
        stamps = [stamp for stamp in (latest.get(read.replica), *read.stamps) if stamp is not None]
        latest[read.replica] = max(stamps, key=lambda stamp: stamp.sequence, default=None)
    return {replica: stamp.jws if stamp is not None else None for replica, stamp in sorted(latest.items())}


def chain_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The files, each once; of a directory, all that are named as a chain's. Raises NotAnAuditFile."""
    files: dict[tuple[int, int], Path] = {}
    for path in paths:
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise NotAnAuditFile(f"there is no audit file (`*.jsonl`) in `{path}`")
        for file in found:
            try:
                status = file.stat()
            except OSError as error:
                raise NotAnAuditFile(f"`{file}` cannot be read: {error.strerror}") from error
            # By inode: for a moment a file that is being closed stands there under two names.
            files.setdefault((status.st_dev, status.st_ino), file)
    return tuple(files.values())


@dataclass(slots=True)
class _File:
    """One file, read line by line; of each record only what the report needs is kept."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    begun: dict[str, Unfinished] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    stamps: list[Stamp] = field(default_factory=list)
    dropped: Sealed = GENESIS  # the last record that the chain itself says was dropped
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
        if link.kind == CheckpointMade.kind:
            jws = str(link.fields.get("jws"))
            self.stamps.append(Stamp(str(self.path), number, link.sequence, link.previous, jws))
        if link.kind == SegmentsDropped.kind:
            self._take_dropped(link)
        request = link.fields.get("request")
        if isinstance(request, str):
            if link.kind == Begin.kind:
                self.begun.setdefault(request, Unfinished(str(self.path), number, request))
            elif link.kind == End.kind:
                self.ended.add(request)

    def _take_dropped(self, link: Link) -> None:
        last, hash_ = link.fields.get("last"), link.fields.get("last_hash")
        if isinstance(last, int) and isinstance(hash_, str) and self.dropped.sequence < last < link.sequence:
            self.dropped = Sealed(last, hash_)


def _report(
    replica: str, files: list[_File], pinned: Mapping[str, PublicKey] | None, anchors: list[Anchor]
) -> ChainReport:
    files.sort(key=lambda file: file.first_sequence)
    rows = [row for file in files for row in file.rows]
    records = [row for row in rows if row.sequence]
    ended = frozenset[str]().union(*(file.ended for file in files))
    start = _start(rows, replica, max((file.dropped for file in files), key=lambda one: one.sequence))
    signed = hear_checkpoints(rows, [stamp for file in files for stamp in file.stamps], replica, pinned)
    anchored = hear_anchors(rows, anchors, start)
    standing = {(row.file, row.line): index for index, row in enumerate(rows)}
    alterations = (*find_alterations(rows, start), *signed.findings, *anchored.findings)
    return ChainReport(
        replica=replica,
        files=tuple(str(file.path) for file in files),
        records=len(records),
        first=records[0].sequence if records else None,
        last=records[-1].sequence if records else None,
        head=records[-1].hash if records else None,
        alterations=tuple(sorted(alterations, key=lambda one: standing.get((one.file, one.line), -1))),
        warnings=tuple(warning for file in files for warning in file.warnings),
        unfinished=tuple(
            begun for file in files for request, begun in file.begun.items() if request not in ended
        ),
        signed=signed.reaches,
        anchored=anchored.reaches,
    )


def _start(rows: Sequence[Row], replica: str, dropped: Sealed) -> Sealed:
    """The record before the first one that must be there.

    Files are removed after it was recorded that they would be, so some of what may be gone may still stand.
    """
    first = min(
        (row for row in rows if row.intact and row.replica == replica),
        key=lambda row: row.sequence,
        default=None,
    )
    if first is None or first.sequence > dropped.sequence:
        return dropped
    return Sealed(first.sequence - 1, first.previous)
