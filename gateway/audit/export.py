"""Writes records to one new file: whole or not at all, and never over one that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gateway.audit.reading import Line, Reading
from gateway.audit.search import Filter, entries
from gateway.whole_files import sync_directory


class NotExported(Exception):
    """The file cannot be written; says why and what to do."""


def chosen(reading: Reading, wanted: Filter) -> Iterator[Line]:
    """Without a filter every record, replica by replica, so that each chain stays one. With one: the
    beginning and the end of each request that fits, as it is found."""
    if not wanted.asks:
        yield from reading.in_order()
        return
    for entry in entries(reading.by_time(), wanted):
        yield from entry.lines


@contextmanager
def draft_of(path: Path) -> Iterator[IO[bytes]]:
    """A draft beside `path` that takes its name when the block ends well, and is removed when it does not.

    Raises NotExported when the file is there already or cannot be made.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists():
            raise FileExistsError
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise NotExported(f"`{path}` is there already; name a new file, or move it away") from None
    except OSError as error:
        raise NotExported(f"`{path}` cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename it never takes the place of a file
        sync_directory(path.parent)
    except FileExistsError:
        raise NotExported(f"`{path}` was made meanwhile; name a new file") from None
    except OSError as error:
        raise NotExported(
            f"`{path}` cannot be written: {error.strerror}; make room, then try again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def write_lines(lines: Iterable[Line], path: Path) -> int:
    """The very lines of the chain, in the order given; returns how many. Raises NotExported."""
    count = 0
    with draft_of(path) as file:
        for line in lines:
            file.write(line.raw + b"\n")
            count += 1
    return count
