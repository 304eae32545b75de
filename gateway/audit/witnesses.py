"""What was signed about a chain, held against what stands in it. Pure.

Two kinds of witnesses: the checkpoints in the chain itself, and anchors that somebody kept outside. Hashes
alone need no secret; whoever rewrites records has to leave these behind, or forge them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.audit.alterations import Finding, Row
from gateway.audit.anchors import Anchor
from gateway.audit.base import Sealed
from gateway.audit.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from gateway.receipts.jwk import PublicKey
from gateway.receipts.jws import Malformed, NotGenuine


@dataclass(frozen=True, slots=True)
class Stamp:
    """A checkpoint's record as it stands in a chain; `jws` is what it claims to be signed."""

    file: str
    line: int
    sequence: int
    previous: str
    jws: str


@dataclass(frozen=True, slots=True)
class Testimony:
    """`reaches` is the last record that a witness vouches for; None without any."""

    reaches: int | None
    findings: tuple[Finding, ...]


def hear_checkpoints(
    rows: Sequence[Row], stamps: Iterable[Stamp], replica: str, pinned: Mapping[str, PublicKey] | None
) -> Testimony:
    """The chain's own checkpoints. Without `pinned` keys only what they say is checked, not who says it.

    A checkpoint vouches for every record before it, through the hashes; after the last one at most as many
    records may follow as it promised.
    """
    findings: list[Finding] = []
    last: tuple[Stamp, Checkpoint] | None = None
    for stamp in sorted(stamps, key=lambda stamp: stamp.sequence):
        try:
            point = read_checkpoint(stamp.jws) if pinned is None else verify_checkpoint(stamp.jws, pinned)
        except (Malformed, NotGenuine) as error:
            findings.append(_forged(stamp, f"nobody who is believed has signed it: {error}"))
            continue
        if (point.replica, point.sequence, point.hash) == (replica, stamp.sequence - 1, stamp.previous):
            last = stamp, point
            continue
        which = f"record {point.sequence}" + ("" if point.replica == replica else f" of {point.replica}")
        findings.append(_forged(stamp, f"what was signed is about {which} with hash {point.hash}"))
    if pinned is not None:
        findings += _unsigned(rows, last)
    return Testimony(last[1].sequence if last is not None else None, tuple(findings))


def hear_anchors(rows: Sequence[Row], anchors: Iterable[Anchor], start: Sealed) -> Testimony:
    """Anchors that name records of this chain, which begins after `start`.

    One that names an earlier record, dropped by retention, has nothing left to be held against.
    """
    standing: dict[int, list[Row]] = {}
    for row in rows:
        if row.intact:
            standing.setdefault(row.sequence, []).append(row)
    last = max(standing, default=start.sequence)
    reaches: int | None = None
    beyond: list[Anchor] = []
    other: list[Anchor] = []
    for anchor in anchors:
        if anchor.sequence < start.sequence:
            continue
        there = standing.get(anchor.sequence, [])
        if anchor.sequence > last:
            beyond.append(anchor)
        elif any(row.hash == anchor.hash for row in there) or anchor.hash == start.hash:
            reaches = max(reaches or 0, anchor.sequence)
        elif there:
            other.append(anchor)
    return Testimony(reaches, (*_rewritten(other, standing), *_cut(rows, beyond, last)))


def _rewritten(anchors: Sequence[Anchor], standing: Mapping[int, Sequence[Row]]) -> Iterable[Finding]:
    """One finding: what follows a record that is another one is another as well."""
    if not anchors:
        return
    first = min(anchors, key=lambda anchor: anchor.sequence)
    row = standing[first.sequence][0]
    text = f"record {first.sequence} is not the one that {_named(first)} names"
    later = {anchor.sequence for anchor in anchors if anchor.sequence > first.sequence}
    if later:
        text += f", nor are {len(later)} later ones those that other anchors name"
    yield Finding(row.file, row.line, "rewritten", text)


def _cut(rows: Sequence[Row], anchors: Sequence[Anchor], last: int) -> Iterable[Finding]:
    """One finding, at the chain's last line; an empty chain has none."""
    if not anchors:
        return
    furthest = max(anchors, key=lambda anchor: anchor.sequence)
    text = f"the chain ends at record {last}, and {_named(furthest)} names record {furthest.sequence}"
    at = rows[-1] if rows else furthest
    yield Finding(at.file, at.line, "cut", text)


def missing_replica(anchor: Anchor) -> Finding:
    """None of the files is of the chain that the anchor names."""
    text = f"no file of replica `{anchor.replica}` is there; {anchor.what} names its record {anchor.sequence}"
    return Finding(anchor.file, anchor.line, "missing", text)


def _unsigned(rows: Sequence[Row], last: tuple[Stamp, Checkpoint] | None) -> Iterable[Finding]:
    if not rows:
        return
    if last is None:
        text = "no checkpoint of this chain is signed by a pinned key: all of it may have been written anew"
        yield Finding(rows[0].file, rows[0].line, "unsigned", text)
        return
    stamp, point = last
    after = [row for row in rows if row.sequence > stamp.sequence]
    if len(after) > point.within:
        text = (
            f"{len(after)} records follow the last signed checkpoint, record {stamp.sequence}; "
            f"it promised another after {point.within}"
        )
        yield Finding(after[0].file, after[0].line, "unsigned", text)


def _forged(stamp: Stamp, reason: str) -> Finding:
    text = f"record {stamp.sequence} is no checkpoint of this chain: {reason}"
    return Finding(stamp.file, stamp.line, "forged", text)


def _named(anchor: Anchor) -> str:
    return f"{anchor.what} ({anchor.file}:{anchor.line})"
