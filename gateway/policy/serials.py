"""The highest serial that was ever in force on this machine, so that an older bundle cannot come back.

One small JSON file in the state directory, shared by the workers of a machine. It says which revision had
that serial: a signed bundle that says the same serial of other rules is refused as well.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.policy.problems import PolicyUntrusted, Problem
from gateway.whole_files import replace_file

FILE: Final = "policy-serial.json"


class Highest(BaseModel):
    """The file's content."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: int = Field(default=1, ge=1, le=1)
    serial: int = Field(ge=1)
    revision: str


class Serials(Protocol):
    """Raises PolicyUntrusted, with the reason `serial`, for a bundle that may not come after another."""

    def check(self, revision: str, serial: int) -> None:
        """Changes nothing."""

    def advance(self, revision: str, serial: int) -> Highest | None:
        """Checks once more and remembers, in one step; what was remembered before."""

    def withdraw(self, revision: str, before: Highest | None) -> None:
        """Takes back an `advance` to `revision`, where that could not be put in force after all."""


@dataclass(frozen=True, slots=True)
class NoSerials:
    """Nothing is signed, so nothing is remembered: any serial may come after any other."""

    def check(self, revision: str, serial: int) -> None:
        """Never refuses."""

    def advance(self, revision: str, serial: int) -> None:
        """Remembers nothing."""

    def withdraw(self, revision: str, before: Highest | None) -> None:
        """There is nothing to take back."""


@dataclass(frozen=True, slots=True)
class SerialFile:
    """`Serials` in a state directory."""

    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / FILE

    def check(self, revision: str, serial: int) -> None:
        require_higher(self.path, read_highest(self.path), revision, serial)

    def advance(self, revision: str, serial: int) -> Highest | None:
        with self._locked():
            before = read_highest(self.path)
            require_higher(self.path, before, revision, serial)
            self._write(Highest(serial=serial, revision=revision))
            return before

    def withdraw(self, revision: str, before: Highest | None) -> None:
        with self._locked():
            now = read_highest(self.path)
            if now is None or now.revision != revision:
                return  # another worker has gone on meanwhile
            if before is None:
                self.path.unlink(missing_ok=True)
            else:
                self._write(before)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps the machine's other workers out while the file is read and written again."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.directory / f"{FILE}.lock", flags, 0o600)
        except OSError as error:
            raise unusable(self.path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, highest: Highest) -> None:
        """Replaces the file in one step: after a crash either the old or the new content is there."""
        try:
            replace_file(self.path, highest.model_dump_json().encode())
        except OSError as error:
            raise unusable(self.path, error) from None


def read_highest(path: Path) -> Highest | None:
    """What the file remembers; None before the first. Raises PolicyUntrusted when it cannot be told."""
    try:
        return Highest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(path, error) from None
    except ValidationError:
        message = f"`{path}` is damaged, so that it cannot be told whether a newer bundle was in force"
        hint = "restore it, or remove it once you know that none was"
        raise refused(message, hint) from None


def require_higher(path: Path, before: Highest | None, revision: str, serial: int) -> None:
    """Raises PolicyUntrusted for a serial below the highest, or for the same one with other rules."""
    if before is None or serial > before.serial or (serial, revision) == (before.serial, before.revision):
        return
    hint = f"to go back on purpose, give the bundle a serial above {before.serial} and sign it"
    if serial < before.serial:
        message = (
            f"the serial {serial} is lower than {before.serial}, which was in force here "
            f"(`{before.revision}`, says `{path}`)"
        )
    else:
        message = (
            f"the serial {serial} was in force here with other content (`{before.revision}`, says `{path}`)"
        )
        hint = f"give the changed bundle a serial above {before.serial} and sign it"
    raise refused(message, hint)


def unusable(path: Path, error: OSError) -> PolicyUntrusted:
    said = (error.strerror or "it cannot be used").lower()
    return refused(f"the serial in force cannot be kept in `{path}`: {said}", "make it readable and writable")


def refused(message: str, hint: str) -> PolicyUntrusted:
    return PolicyUntrusted("serial", [Problem("bundle.yaml", 0, None, message, hint)])
