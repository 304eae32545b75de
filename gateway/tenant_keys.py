"""Keys of each tenant, derived from one master key.

Every stored value is sealed with AES-256-GCM under its tenant's own key, and every digest that leaves the
process is keyed by the tenant: equal prompts of two tenants look unrelated, and a stolen store is noise.
Derivation is HKDF-SHA256 (RFC 5869), one key for each purpose.
"""

from __future__ import annotations

import hmac
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.hidden import HiddenBytes

MASTER_BYTES = 32
NONCE_BYTES = 12
FORMAT = b"\x01"


class KeyFileInvalid(ValueError):
    """The master key file is missing, of the wrong size, or readable by others; says how to fix it."""


class Unsealable(ValueError):
    """A sealed value that this key, or this additional data, does not open. Never says what was inside."""


class Keyring(Protocol):
    """What the gateway asks of keys. One with wrapped keys can destroy a tenant's by dropping them."""

    def seal(self, tenant: str, aad: bytes, plaintext: bytes) -> bytes:
        """Encrypts; opens again only with the same tenant and the same `aad`."""
        ...

    def open_(self, tenant: str, aad: bytes, sealed: bytes) -> bytes:
        """The plaintext. Raises `Unsealable`."""
        ...

    def commit(self, tenant: str, data: bytes) -> str:
        """A digest of `data` that only this tenant's key can make: 64 hex characters."""
        ...

    def salt(self, tenant: str) -> str:
        """The tenant's salt of prefix caches: 32 hex characters, the same wherever the master key is."""
        ...


@dataclass(frozen=True, slots=True)
class DerivedKeys:
    """One tenant's keys, ready to use."""

    cipher: AESGCM
    commitment: hmac.HMAC  # that has read the key and nothing else: copied for each digest
    salt: str = field(repr=False)


class TenantKeys:
    """A `Keyring` that derives everything from one master key of 32 bytes.

    Nonces are random: below 2³² sealed values a tenant, the chance of one repeated nonce is under 2⁻³².
    """

    def __init__(self, master: bytes) -> None:
        if len(master) != MASTER_BYTES:
            raise KeyFileInvalid(f"the master key has {len(master)} bytes; it must have {MASTER_BYTES}")
        self._master = master
        self._derived: dict[str, DerivedKeys] = {}  # grows with the bundle's tenants, not with requests

    @classmethod
    def from_file(cls, path: Path) -> TenantKeys:
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
    def create(cls, path: Path) -> TenantKeys:
        """Writes a new master key with mode 0600. Raises `FileExistsError` rather than replace one."""
        master = HiddenBytes(os.urandom(MASTER_BYTES))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(master)
            file.flush()
            os.fsync(file.fileno())
        return cls(master)

    def seal(self, tenant: str, aad: bytes, plaintext: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._keys(tenant).cipher.encrypt(nonce, plaintext, FORMAT + aad)

    def open_(self, tenant: str, aad: bytes, sealed: bytes) -> bytes:
        if sealed[:1] != FORMAT or len(sealed) < 1 + NONCE_BYTES:
            raise Unsealable("the sealed value has an unknown format")
        nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._keys(tenant).cipher.decrypt(nonce, ciphertext, FORMAT + aad)
        except InvalidTag:
            raise Unsealable("the sealed value does not open with this tenant's key and name") from None

    def commit(self, tenant: str, data: bytes) -> str:
        digest = self._keys(tenant).commitment.copy()
        digest.update(data)
        return digest.hexdigest()

    def salt(self, tenant: str) -> str:
        return self._keys(tenant).salt

    def __repr__(self) -> str:
        return "TenantKeys(…)"  # the master key must not reach a log by way of a traceback

    def _keys(self, tenant: str) -> DerivedKeys:
        keys = self._derived.get(tenant)
        if keys is None:
            keys = self._derived[tenant] = DerivedKeys(
                cipher=AESGCM(self._derive("seal", tenant, 32)),
                commitment=hmac.new(self._derive("commit", tenant, 32), digestmod="sha256"),
                salt=self._derive("prefix-cache-salt", tenant, 16).hex(),
            )
        return keys

    def _derive(self, purpose: str, tenant: str, length_bytes: int) -> bytes:
        # The purposes hold no NUL, so no pair of purpose and tenant can be read as another.
        info = b"douane/v1\x00" + purpose.encode() + b"\x00" + tenant.encode()
        return HKDF(algorithm=SHA256(), length=length_bytes, salt=None, info=info).derive(self._master)
