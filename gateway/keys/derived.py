"""From a tenant's data key to the keys that are used, one for each purpose: HKDF-SHA256 (RFC 5869). Pure."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class DerivedKeys:
    """One tenant's keys, ready to use. `key_id` names the data key that they come from, and tells nothing of
    it."""

    key_id: str
    cipher: AESGCM = field(repr=False)
    commitment: hmac.HMAC = field(
        repr=False
    )  # that has read the key and nothing else: copied for each digest
    salt: str = field(repr=False)

    @classmethod
    def of(cls, data_key: bytes, tenant: str) -> DerivedKeys:
        return cls(
            key_id_of(data_key),
            AESGCM(derive(data_key, "seal", tenant, 32)),
            hmac.new(derive(data_key, "commit", tenant, 32), digestmod="sha256"),
            derive(data_key, "prefix-cache-salt", tenant, 16).hex(),
        )


def derive(data_key: bytes, purpose: str, tenant: str, length_bytes: int) -> bytes:
    # The purposes hold no NUL, so no pair of purpose and tenant can be read as another.
    info = b"douane/v2\x00" + purpose.encode() + b"\x00" + tenant.encode()
    return HKDF(algorithm=SHA256(), length=length_bytes, salt=None, info=info).derive(data_key)


def key_id_of(data_key: bytes) -> str:
    """16 hex characters that tell one data key from another."""
    return hashlib.sha256(b"douane/key-id\x00" + data_key).hexdigest()[:16]
