"""Reading the content log's files, oldest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.keys.keyring import Keyring
from gateway.sinks.entry import EntryInvalid, Opened, open_line


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: an entry, or what is wrong with it."""

    where: str  # file:line
    entry: Opened | None
    problem: str | None = None


def read_entries(paths: Sequence[Path], keys: Keyring) -> Iterator[Line]:
    """The entries of files and of directories' files. Raises `OSError` for one that cannot be read."""
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    where = f"{file}:{number}"
                    try:
                        yield Line(where, open_line(line, keys))
                    except EntryInvalid as invalid:
                        yield Line(where, None, str(invalid))
