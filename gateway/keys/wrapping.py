"""What a tenant's data key is wrapped with while it rests: the master key in a file, or a key in AWS KMS."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.hidden import HiddenBytes
from gateway.keys.derived import derive

MASTER_BYTES: Final = 32
NONCE_BYTES: Final = 12


class KeyFileInvalid(ValueError):
    """A key file that is missing, wrong, or readable by others; says how to fix it."""


class Unwrappable(ValueError):
    """A wrapped key that this wrapping does not open."""


class WrappingUnavailable(Exception):
    """The service that wraps keys did not answer, or refused; says what it said."""


class Wrapping(Protocol):
    @property
    def name(self) -> str:
        """What a wrapped key says that it was wrapped by: `file` or `kms`."""
        ...

    def wrap(self, tenant: str, data_key: bytes) -> bytes:
        """May wait for a service. Raises `WrappingUnavailable`."""
        ...

    def unwrap(self, tenant: str, wrapped: bytes) -> bytes:
        """Raises `Unwrappable` for a key of another tenant or wrapping, and `WrappingUnavailable`."""
        ...


class MasterKey:
    """A `Wrapping` with AES-256-GCM, under a key derived from 32 bytes in a file."""

    name = "file"

    def __init__(self, master: bytes) -> None:
        if len(master) != MASTER_BYTES:
            raise KeyFileInvalid(f"the master key has {len(master)} bytes; it must have {MASTER_BYTES}")
        self._cipher = AESGCM(derive(master, "wrap", "", 32))

    @classmethod
    def from_file(cls, path: Path) -> MasterKey:
        """Reads a file of exactly 32 random bytes that only its owner can read. Raises `KeyFileInvalid`."""
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                master = HiddenBytes(file.read(MASTER_BYTES + 1))
        except FileNotFoundError:
            raise KeyFileInvalid(
                f"there is no master key at `{path}`; make one with `douane init --state-dir {path.parent}`"
            ) from None
        except OSError as error:
            raise KeyFileInvalid(f"the master key `{path}` cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise KeyFileInvalid(
                f"the master key `{path}` has mode `{mode:04o}`: others can read it; "
                f"run `chmod 600 {path}` if nobody has, else make a new one"
            )
        if len(master) != MASTER_BYTES:
            raise KeyFileInvalid(
                f"the master key `{path}` does not hold exactly {MASTER_BYTES} bytes; "
                f"write raw random bytes, not text"
            )
        return cls(master)

    @classmethod
    def create(cls, path: Path) -> MasterKey:
        """Writes a new master key with mode 0600. Raises `FileExistsError` rather than replace one."""
        master = HiddenBytes(os.urandom(MASTER_BYTES))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(master)
            file.flush()
            os.fsync(file.fileno())
        return cls(master)

    def wrap(self, tenant: str, data_key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data_key, tenant.encode())

    def unwrap(self, tenant: str, wrapped: bytes) -> bytes:
        try:
            nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
            return HiddenBytes(self._cipher.decrypt(nonce, sealed, tenant.encode()))
        except (InvalidTag, ValueError):
            raise Unwrappable(
                f"the key of tenant `{tenant}` does not open with this master key: it was wrapped by another"
            ) from None

    def __repr__(self) -> str:
        return "MasterKey(…)"  # it must not reach a log by way of a traceback
