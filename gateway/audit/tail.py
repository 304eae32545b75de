"""Where a chain goes on after a restart: its last whole record, and what a crash left half written."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audit.base import Sealed
from gateway.audit.chain import GENESIS, RECORD_BYTES_MAX, NotARecord, unseal
from gateway.audit.directory import AuditUnusable, ClaimedChain
from gateway.audit.segments import closed_segments, end_link
from gateway.whole_files import sync_directory

_BLOCK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a chain file: `end` is the length in bytes of its whole lines, `torn` what follows them."""

    head: Sealed
    end: int
    torn: bytes
    kind: str = ""  # of the last record


def read_tail(chain: ClaimedChain) -> Tail:
    """Raises AuditUnusable when the last whole line is not an intact record of this replica."""
    size = os.fstat(chain.descriptor).st_size
    block = b""
    start = size
    while start > 0 and block.count(b"\n") < 2 and len(block) <= 2 * RECORD_BYTES_MAX:
        start = max(0, start - _BLOCK_BYTES)
        block = os.pread(chain.descriptor, size - start, start)
    whole, newline, torn = block.rpartition(b"\n")
    if not newline:
        if start > 0:
            raise AuditUnusable(_altered(chain.path, "it has no line end where a record must have ended"))
        return Tail(_before(chain), 0, torn)
    line = whole.rpartition(b"\n")[2]
    try:
        link = unseal(line)
    except NotARecord as error:
        raise AuditUnusable(_altered(chain.path, str(error))) from error
    if not link.intact:
        raise AuditUnusable(_altered(chain.path, "its hash does not fit its content"))
    if link.replica != chain.replica:
        raise AuditUnusable(_altered(chain.path, f"it is of replica `{link.replica}`"))
    return Tail(Sealed(link.sequence, link.hash), size - len(torn), torn, link.kind)


def _before(chain: ClaimedChain) -> Sealed:
    """What an empty file goes on from: the last closed file of its chain, if there is one."""
    closed = closed_segments(chain.path.parent, chain.replica)
    if not closed:
        return GENESIS
    link = end_link(closed[-1].path, last=True)
    if link is None or not link.intact:
        raise AuditUnusable(_altered(closed[-1].path, "its last line is no intact record"))
    return Sealed(link.sequence, link.hash)


def set_aside(chain: ClaimedChain, tail: Tail) -> Path:
    """Moves the torn bytes to a file of their own beside the chain and cuts them off; returns that file.

    Safe to be cut short at any point: the copy is on the disk before the chain is cut, and a second try
    finds the same bytes and gives the copy the same name.
    """
    name = f"{chain.replica}.torn-{hashlib.sha256(tail.torn).hexdigest()[:16]}"
    kept = chain.path.with_name(name)
    descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as copy:
        copy.write(tail.torn)
        copy.flush()
        os.fsync(copy.fileno())
    sync_directory(kept.parent)
    os.ftruncate(chain.descriptor, tail.end)
    return kept


def _altered(path: Path, reason: str) -> str:
    return (
        f"the last record of `{path}` cannot be continued: {reason}; "
        f"look at it with `douane audit verify {path}`, then move the file to a safe place: "
        "a new chain begins at the next start"
    )
