"""The folder of wrapped data keys: one small file for each tenant, or the mark that its key was destroyed.

Whoever shares a store shares this folder: it is what keeps the workers of all machines at one key. A file is
named after a digest of its tenant's id, and appears whole or not at all; of two workers that make a key for
the same tenant at once, one wins and both use the winner's.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.audit.chain import time_text
from gateway.keys.wrapping import KeyFileInvalid
from gateway.whole_files import replace_file

LOCK: Final = "shelf.lock"
ID: Final = "shelf.id"


class Kept(BaseModel):
    """A tenant's wrapped data key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    state: Literal["kept"] = "kept"
    tenant: str
    key_id: str
    wrapped_by: str
    wrapped: str = Field(repr=False)  # base64
    made_at: str

    @property
    def data(self) -> bytes:
        return base64.b64decode(self.wrapped)


class Shredded(BaseModel):
    """What stands in a key's place once it is destroyed. `recorded`: an audit says so already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    state: Literal["shredded"] = "shredded"
    tenant: str
    key_id: str | None
    shredded_at: str
    recorded: bool = False


Entry = Kept | Shredded
Fingerprint = tuple[tuple[str, int, int], ...]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    entry: Annotated[Entry, Field(discriminator="state")]


class Shelf(Protocol):
    def find(self, tenant: str) -> Entry | None: ...

    def keep(self, kept: Kept) -> Entry:
        """Keeps a new key; what is in force then, which is another's where that came first."""
        ...


class MemoryShelf:
    """A `Shelf` that is gone with the process: for tests, and for nothing else."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def find(self, tenant: str) -> Entry | None:
        return self._entries.get(tenant)

    def keep(self, kept: Kept) -> Entry:
        return self._entries.setdefault(kept.tenant, kept)


class FileShelf:
    """A `Shelf` in a folder with mode 0700."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def open(cls, directory: Path) -> FileShelf:
        """Makes the folder if need be. Raises `KeyFileInvalid`."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_private(directory, directory.stat(), 0o700)
            shelf = cls(directory)
            with shelf._locked():
                if not (directory / ID).exists():
                    shelf._write(ID, secrets.token_hex(16))
            return shelf
        except OSError as error:
            raise unusable(directory, error) from None

    @classmethod
    def existing(cls, directory: Path) -> FileShelf:
        """A folder that a gateway has made. Raises `KeyFileInvalid`: an operator who names the wrong one must
        not believe that anything was done."""
        if not (directory / ID).exists():
            raise KeyFileInvalid(
                f"no gateway keeps keys in `{directory}`; name its state directory with `--state-dir`, "
                "or its keys folder with DOUANE_KEYS_DIR"
            )
        return cls.open(directory)

    @property
    def id(self) -> str:
        """A random name that the folder was given: another one is another folder. Raises `KeyFileInvalid`."""
        try:
            return (self.directory / ID).read_text()
        except OSError as error:
            raise unusable(self.directory, error) from None

    def find(self, tenant: str) -> Entry | None:
        """Raises `KeyFileInvalid` for a file that cannot be read or is not one of ours."""
        return self._read(self.directory / name_of(tenant))

    def keep(self, kept: Kept) -> Entry:
        """Raises `KeyFileInvalid`."""
        try:
            with self._locked():
                found = self.find(kept.tenant)
                if found is not None:
                    return found
                self._write(name_of(kept.tenant), _File(entry=kept).model_dump_json(indent=1))
                return kept
        except OSError as error:
            raise unusable(self.directory, error) from None

    def shred(self, tenant: str, now: datetime) -> Shredded:
        """Overwrites and removes the tenant's key, and leaves the mark in its place; what was there stays
        where it is when it is such a mark already. Raises `KeyFileInvalid`."""
        path = self.directory / name_of(tenant)
        try:
            with self._locked():
                found = self._found_or_damaged(tenant)
                if isinstance(found, Shredded):
                    return found
                key_id = found.key_id if found is not None else None
                mark = Shredded(tenant=tenant, key_id=key_id, shredded_at=time_text(now))
                if path.exists():
                    overwrite(path)
                self._write(path.name, _File(entry=mark).model_dump_json(indent=1))
                return mark
        except OSError as error:
            raise unusable(path, error) from None

    def renew(self, tenant: str) -> bool:
        """Takes the mark away, so that the tenant's next request makes a new key; False without a mark.

        Raises `KeyFileInvalid`.
        """
        try:
            with self._locked():
                if not isinstance(self.find(tenant), Shredded):
                    return False
                (self.directory / name_of(tenant)).unlink()
                return True
        except OSError as error:
            raise unusable(self.directory, error) from None

    def claim_record(self, tenant: str) -> Shredded | None:
        """The mark, for the one worker that is to record it; None for others. Raises `KeyFileInvalid`."""
        try:
            with self._locked():
                found = self.find(tenant)
                if not isinstance(found, Shredded) or found.recorded:
                    return None
                mark = found.model_copy(update={"recorded": True})
                self._write(name_of(tenant), _File(entry=mark).model_dump_json(indent=1))
                return mark
        except OSError as error:
            raise unusable(self.directory, error) from None

    def entries(self) -> tuple[Entry, ...]:
        """Every tenant's, by tenant. Raises `KeyFileInvalid`."""
        found = (self._read(path) for path in sorted(self.directory.glob("*.json")))
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.tenant))

    def readable(self) -> dict[str, Entry]:
        """The entries that read, by tenant: one that is damaged must not hide the others."""
        found: dict[str, Entry] = {}
        for path in sorted(self.directory.glob("*.json")):
            with suppress(KeyFileInvalid):
                entry = self._read(path)
                if entry is not None:
                    found[entry.tenant] = entry
        return found

    def fingerprint(self) -> Fingerprint:
        """Changes whenever an entry does. Raises `KeyFileInvalid`."""
        try:
            found = []
            for path in sorted(self.directory.glob("*.json")):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((path.name, status.st_ino, status.st_mtime_ns))
            return tuple(found)
        except OSError as error:
            raise unusable(self.directory, error) from None

    def _found_or_damaged(self, tenant: str) -> Entry | None:
        """None for a file that does not read as well."""
        try:
            return self.find(tenant)
        except KeyFileInvalid:
            return None

    def _read(self, path: Path) -> Entry | None:
        try:
            with path.open("rb") as file:
                require_private(path, os.fstat(file.fileno()), 0o600)
                return _File.model_validate_json(file.read()).entry
        except FileNotFoundError:
            return None
        except ValidationError:
            raise KeyFileInvalid(
                f"`{path}` is damaged: restore it from a backup, or shred its tenant's key"
            ) from None
        except OSError as error:
            raise unusable(path, error) from None

    def _write(self, name: str, text: str) -> None:
        replace_file(self.directory / name, text.encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def name_of(tenant: str) -> str:
    return hashlib.sha256(tenant.encode()).hexdigest()[:32] + ".json"


def overwrite(path: Path) -> None:
    """Writes over a file's bytes. What the disk beneath keeps of them is beyond a program's reach."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.write(secrets.token_bytes(size))
        file.flush()
        os.fsync(file.fileno())


def require_private(path: Path, status: os.stat_result, wanted: int) -> None:
    """Raises `KeyFileInvalid` when others can reach it."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileInvalid(
            f"`{path}` has mode `{mode:04o}`: others can reach keys; run `chmod {wanted:o} {path}`"
        )


def unusable(path: Path, error: OSError) -> KeyFileInvalid:
    return KeyFileInvalid(
        f"`{path}` cannot be used: {(error.strerror or 'unknown').lower()}; "
        "give the user that runs douane a folder of its own with mode 0700"
    )
