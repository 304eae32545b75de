"""Putting a candidate's directory in the place of the live one, or aside.

Where the live path is a symbolic link, the link is made to point to the candidate in one step. Where it is a
directory, it is moved aside and the candidate takes its place: two renames, between which a gateway that
looks finds nothing, keeps the bundle it has, and looks again.
"""

from __future__ import annotations

import os
from pathlib import Path


def promote(live: Path, candidate: Path, serial: int) -> Path | None:
    """Makes `candidate` the live bundle; where the one before is kept, for a directory. Raises OSError.

    `serial` is the live bundle's, for the name that it is kept under.
    """
    if live.is_symlink():
        draft = live.with_name(f".{live.name}.next")
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.path.relpath(candidate.resolve(strict=True), live.parent.resolve()))
        draft.replace(live)
        if candidate.is_symlink():
            candidate.unlink()
        return None
    kept = unused(live.with_name(f"{live.name}.previous-{serial}"))
    source = candidate.resolve(strict=True)
    live.rename(kept)
    try:
        source.rename(live)
    except OSError:
        kept.rename(live)
        raise
    if candidate.is_symlink():
        candidate.unlink()
    return kept


def drop(candidate: Path, revision: str) -> Path | None:
    """Moves the candidate aside; where it is then, for a directory. A link is removed. Raises OSError."""
    if candidate.is_symlink():
        candidate.unlink()
        return None
    aside = unused(candidate.with_name(f"{candidate.name}.dropped-{revision.removeprefix('sha256:')[:12]}"))
    candidate.rename(aside)
    return aside


def unused(path: Path) -> Path:
    """The path, or the first of it with a number that is not there."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in range(2, 1000))
    return path if not path.exists() else next(one for one in numbered if not one.exists())
