"""Public keys as they are published: JWK (RFC 7517, RFC 8037), named by thumbprint (RFC 7638)."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DEMO_PREFIX: Final = "demo-"
DEMO_LINE: Final = b"# douane demo key: its receipts prove nothing to anybody\n"


def base64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class NotCanonical(ValueError):
    """Text that is not base64url as RFC 7515 wants it: unpadded, and with no spare bits set."""


def from_base64url(text: str) -> bytes:
    """Strict: of two spellings of the same bytes only one is taken. Raises NotCanonical."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        raise NotCanonical("not base64url") from None
    if base64url(data) != text:
        raise NotCanonical("not base64url without padding, in its one canonical spelling")
    return data


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: raises ValueError where a name stands twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for name, _ in pairs if sum(other == name for other, _ in pairs) > 1)
        raise ValueError(f"`{twice}` stands twice in one object")
    return members


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that receipts are checked with. `raw` is its 32 bytes."""

    raw: bytes
    demo: bool

    @property
    def thumbprint(self) -> str:
        """RFC 7638: SHA-256 of the JWK's required members in canonical JSON, base64url (43 characters)."""
        members = orjson.dumps({"crv": "Ed25519", "kty": "OKP", "x": base64url(self.raw)})
        return base64url(hashlib.sha256(members).digest())

    @property
    def kid(self) -> str:
        return DEMO_PREFIX + self.thumbprint if self.demo else self.thumbprint

    def jwk(self) -> dict[str, Any]:
        """RFC 8037's public form; a demo key carries `"demo": true`."""
        members = {"kty": "OKP", "crv": "Ed25519", "x": base64url(self.raw), "kid": self.kid}
        return {**members, "use": "sig", "alg": "EdDSA", **({"demo": True} if self.demo else {})}

    def pem(self) -> bytes:
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        text = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return DEMO_LINE + text if self.demo else text


def jwks(keys: Iterable[PublicKey]) -> dict[str, Any]:
    """The document for `/.well-known/jwks.json`: each key once, in the order given."""
    once: dict[bytes, PublicKey] = {}
    for key in keys:
        once.setdefault(key.raw, key)
    return {"keys": [key.jwk() for key in once.values()]}
