"""A chain in several files: the one that grows, and the closed ones before it.

`<replica>.jsonl` is the file that is written. When it is full it gets the name of its first record,
`<replica>-<twelve digits>.jsonl`, and is never written again; a new file takes its place and begins with a
checkpoint, which names the last record before it: so what is left after old files are gone still verifies.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from gateway.audit.chain import RECORD_BYTES_MAX, Link, NotARecord, time_text, unseal

_CLOSED: Final = re.compile(r"(?P<replica>[0-9a-f]{16})-(?P<first>\d{12})\.jsonl")


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed file; `first` is the number of its first record."""

    path: Path
    first: int


def closed_segments(directory: Path, replica: str) -> tuple[Segment, ...]:
    """The closed files of a chain, the oldest first."""
    found = [
        Segment(path, int(named["first"]))
        for path in directory.iterdir()
        if (named := _CLOSED.fullmatch(path.name)) and named["replica"] == replica
    ]
    return tuple(sorted(found, key=lambda segment: segment.first))


def closed_path(live: Path, first: int) -> Path:
    """The name that the live file gets when it is closed; `first` is the number of its first record."""
    return live.with_name(f"{live.stem}-{first:012d}.jsonl")


def draft_path(live: Path) -> Path:
    """Where the next live file is prepared."""
    return live.with_name(f"{live.name}.next")


def undo_unfinished(live: Path) -> None:
    """Takes back a change of files that a crash cut short; the caller holds the live file's lock.

    Up to the last step the live file has its old content, under two names or one.
    """
    draft_path(live).unlink(missing_ok=True)
    status = live.stat()
    for segment in closed_segments(live.parent, live.stem):
        if os.path.samestat(segment.path.stat(), status):
            segment.path.unlink()


def begin_file(live: Path, line: bytes) -> int:
    """A new file, prepared beside the live one: on the disk, locked, with `line` in it. Its descriptor.

    Raises OSError.
    """
    draft = draft_path(live)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.write(descriptor, line) != len(line):
            raise OSError(f"`{draft}` could not be written whole")
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
        raise
    return descriptor


def change_files(live: Path, first: int) -> None:
    """Closes the live file under its own name and puts the prepared one in its place. Raises OSError.

    There is no moment without a live file: another process would begin to write one.
    """
    closed = closed_path(live, first)
    os.link(live, closed)
    try:
        draft_path(live).replace(live)
    except OSError:
        closed.unlink()
        raise


def end_link(path: Path, *, last: bool) -> Link | None:
    """The first or the last record of a file; None where there is no whole one. Raises OSError."""
    with path.open("rb") as file:
        if last:
            file.seek(max(0, path.stat().st_size - 2 * RECORD_BYTES_MAX))
            lines = file.read().splitlines(keepends=True)
            line = next((one for one in reversed(lines) if one.endswith(b"\n")), b"")
        else:
            line = file.readline(RECORD_BYTES_MAX + 1)
    try:
        return unseal(line[:-1]) if line.endswith(b"\n") else None
    except NotARecord:
        return None


def expired(segments: Sequence[Segment], live: Path, before: datetime) -> tuple[Segment, ...]:
    """The oldest closed files all of whose records are from before that moment. Raises OSError.

    A file that does not read as one of a chain, and all after it, are kept: somebody must look at it.
    """
    found: list[Segment] = []
    following = (*(segment.path for segment in segments[1:]), live)
    for segment, after in zip(segments, following, strict=True):
        link = end_link(after, last=False)  # written later than all that is in `segment`
        if link is None or link.time >= time_text(before):
            break
        found.append(segment)
    return tuple(found)
