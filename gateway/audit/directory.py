"""Which chain a process writes: one growing file per replica, and one process per file.

A process takes the first chain of its directory that no other process holds (an exclusive `flock` says so)
and continues it; where every chain is held, or none is there, it begins one under a new random replica id.
So one process restarts into its own chain, and several workers in one directory never share one.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audit.segments import undo_unfinished
from gateway.whole_files import sync_directory

_CHAIN_FILE: Final = re.compile(r"(?P<replica>[0-9a-f]{16})\.jsonl")
_OPEN: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditUnusable(Exception):
    """The audit directory cannot be written as it is, so the gateway does not start; says how to fix it."""


@dataclass(frozen=True, slots=True)
class ClaimedChain:
    """A chain file that this process alone holds, until it closes the descriptor."""

    path: Path
    replica: str
    descriptor: int


def claim_chain(directory: Path) -> ClaimedChain:
    """Makes the directory if need be and locks a chain in it. Raises AuditUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(directory, directory.stat(), 0o700)
        for path in sorted(directory.iterdir()):
            named = _CHAIN_FILE.fullmatch(path.name)
            if named and (descriptor := _try_lock(path)) is not None:
                undo_unfinished(path)
                return ClaimedChain(path, named["replica"], descriptor)
        return _begin_chain(directory)
    except OSError as error:
        raise AuditUnusable(
            f"the audit directory `{directory}` cannot be used: {error.strerror}; "
            "give the user that runs douane a directory of its own with mode 0700"
        ) from error


def _begin_chain(directory: Path) -> ClaimedChain:
    replica = secrets.token_hex(8)
    path = directory / f"{replica}.jsonl"
    os.close(os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600))
    descriptor = _try_lock(path)
    if descriptor is None:  # another process found the new file first and holds it now
        return claim_chain(directory)
    sync_directory(directory)
    return ClaimedChain(path, replica, descriptor)


def _try_lock(path: Path) -> int | None:
    descriptor = os.open(path, _OPEN)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _require_private(path, os.fstat(descriptor), 0o600)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):  # its owner has closed it meanwhile
            os.close(descriptor)
            return None
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_private(path: Path, status: os.stat_result, wanted: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise AuditUnusable(
            f"`{path}` has mode {mode:04o}, so other users can reach the audit records; "
            f"run `chmod {wanted:o} {path}`"
        )
