"""Files that only their owner can read, each up to a size, and only so many of them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

OPEN: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class SinkUnusable(Exception):
    """A sink's directory or file cannot be used as it is: the gateway does not start; says how to fix it."""


class RotatedFiles:
    """`<name>-000001.jsonl`, `<name>-000002.jsonl`, … in one directory; the last one is being written.

    One writer a name: the gateway's is that of the audit chain which its process alone holds. A line that
    cannot be written whole is cut off again.
    """

    def __init__(self, directory: Path, name: str, file_bytes_max: int, files_max: int) -> None:
        """Makes the directory if need be. Raises `SinkUnusable`."""
        self._directory = directory
        self._file = re.compile(rf"{re.escape(name)}-(\d{{6,}})\.jsonl")
        self._name = name
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(directory.stat().st_mode)
            if mode & 0o077:
                raise SinkUnusable(
                    f"`content_log` {directory} has mode {mode:04o}, so other users can reach it; "
                    f"run `chmod 700 {directory}`"
                )
            self._number = max(self._numbers(), default=1)
            self._descriptor = self._open()
        except OSError as error:
            reason = (error.strerror or "it is no directory").lower()
            raise SinkUnusable(
                f"`content_log` {directory} cannot be written: {reason}; "
                "give the user that runs douane a directory of its own with mode 0700"
            ) from error

    def write(self, line: bytes) -> None:
        """Appends one line, to a new file when this one would grow over its bound. Raises `OSError`."""
        status = os.fstat(self._descriptor)
        size = status.st_size
        if status.st_nlink == 0 or (size and size + len(line) > self._file_bytes_max):
            self._next()
            size = 0
        written = 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            if written:
                os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        """Closes the last file; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _next(self) -> None:
        descriptor, self._number = self._descriptor, self._number + 1
        self._descriptor = self._open()
        os.close(descriptor)
        for number in sorted(self._numbers())[: -self._files_max]:
            self._path(number).unlink(missing_ok=True)

    def _open(self) -> int:
        descriptor = os.open(self._path(self._number), OPEN, 0o600)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            os.close(descriptor)
            raise SinkUnusable(
                f"`{self._path(self._number)}` has mode {mode:04o}, so other users can read it; "
                f"run `chmod 600 {self._path(self._number)}`"
            )
        return descriptor

    def _numbers(self) -> list[int]:
        named = (self._file.fullmatch(path.name) for path in self._directory.iterdir())
        return [int(match[1]) for match in named if match]

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._name}-{number:06d}.jsonl"
