"""Signing: a compact JWS (RFC 7515) with Ed25519 (RFC 8037)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint import CHECKPOINT_TYPE, Checkpoint
from gateway.receipts.jwk import PublicKey, jwks
from gateway.receipts.jws import header_of, sign
from gateway.receipts.receipt import VERSION, Receipt

TYPE: Final = "douane-receipt+jws"
_CLAIMS: Final = tuple(claim.name for claim in fields(Receipt))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that receipts are signed with; its private half never shows."""

    private: Ed25519PrivateKey = field(repr=False)
    public: PublicKey

    @property
    def kid(self) -> str:
        return self.public.kid

    @property
    def demo(self) -> bool:
        return self.public.demo


class ReceiptSigner:
    """Signs receipts with one key, and publishes it beside the retired ones that signed earlier receipts."""

    def __init__(self, key: SigningKey, retired: Iterable[PublicKey] = ()) -> None:
        self._private = key.private
        self._demo = key.demo
        self.public = key.public
        self.kid = key.kid
        self.published = (key.public, *retired)
        self._header = header_of(key.kid, TYPE)

    def sign(self, receipt: Receipt) -> str:
        """The compact JWS over the receipt's claims, `v`, `emulated` and `demo`; about 50 µs of CPU."""
        claims = {name: getattr(receipt, name) for name in _CLAIMS}
        claims.update(v=VERSION, emulated=receipt.emulated, demo=self._demo)
        return sign(self._header, claims, self._private)

    def sign_checkpoint(self, checkpoint: Checkpoint) -> str:
        """The compact JWS over where a chain of the audit stands."""
        return sign(header_of(self.kid, CHECKPOINT_TYPE), checkpoint.claims(), self._private)

    def jwks(self) -> dict[str, Any]:
        """The document for `/.well-known/jwks.json`: the signing key first."""
        return jwks(self.published)
