"""Compact JWS (RFC 7515) with Ed25519 (RFC 8037): what is signed here and checked offline has this one form.

What a signature is about stands in its header's `typ`, so that one of a receipt is none of a policy.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.receipts.jwk import DEMO_PREFIX, PublicKey, base64url

ALGORITHM: Final = "EdDSA"
JWS_BYTES_MAX: Final = 64 * 1024


class JwsMalformed(ValueError):
    """The text is no JWS of the kind that is expected, whoever signed it."""


class NotGenuine(Exception):
    """A signed text, but not one that a believed key has signed."""


class ForeignAlgorithm(NotGenuine):
    """A JWS that is not signed with Ed25519; nothing else is ever accepted."""


class NotCanonical(ValueError):
    """Text that is not base64url as RFC 7515 wants it: unpadded, and with no spare bits set."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A compact JWS taken apart; nobody has vouched for any of it yet."""

    signed: bytes
    header: Mapping[str, Any]
    payload: bytes
    signature: bytes


def header_of(kid: str, typ: str) -> str:
    """The encoded header of everything that the key `kid` signs for one purpose."""
    return base64url(orjson.dumps({"alg": ALGORITHM, "kid": kid, "typ": typ}))


def seal(header: str, payload: bytes, private: Ed25519PrivateKey) -> str:
    """The compact JWS over an encoded header and a payload."""
    signed = f"{header}.{base64url(payload)}"
    return f"{signed}.{base64url(private.sign(signed.encode()))}"


def open_signed(jws: str, typ: str, pinned: Mapping[str, PublicKey]) -> tuple[dict[str, Any], str]:
    """The claims that one of the `pinned` keys (by thumbprint) has signed, and the key's `kid`.

    Raises JwsMalformed, or NotGenuine for a foreign key or algorithm or a signature that does not fit.
    """
    parts = split(jws)
    kid = kid_of(parts.header, typ)
    key = pinned.get(kid.removeprefix(DEMO_PREFIX))
    if key is None:
        raise NotGenuine(f"it names the key `{kid}`, which is not among the pinned ones")
    if not fits(parts, key):
        raise NotGenuine(f"the signature does not fit: it was altered, or not made by `{kid}`")
    if key.demo and not kid.startswith(DEMO_PREFIX):
        raise NotGenuine(f"it hides that `{key.kid}` is a demo key")
    return json_object(parts.payload, "payload"), kid


def open_unverified(jws: str, typ: str) -> tuple[dict[str, Any], str]:
    """The claims of a text that nobody has vouched for, and the `kid` that it names.

    Raises JwsMalformed, or NotGenuine at a foreign algorithm.
    """
    parts = split(jws)
    kid = kid_of(parts.header, typ)
    return json_object(parts.payload, "payload"), kid


def split(jws: str) -> Parts:
    """Takes a JWS apart without believing it. Raises JwsMalformed."""
    if len(jws) > JWS_BYTES_MAX:
        raise JwsMalformed(f"it has {len(jws)} bytes; what is signed here has at most {JWS_BYTES_MAX}")
    pieces = jws.split(".")
    if len(pieces) != 3:
        raise JwsMalformed("it is not a compact JWS: three parts with dots between")
    decoded = []
    for name, piece in zip(("header", "payload", "signature"), pieces, strict=True):
        try:
            decoded.append(from_base64url(piece))
        except NotCanonical as error:
            raise JwsMalformed(f"its {name} is {error}") from None
    header = json_object(decoded[0], "header")
    return Parts(f"{pieces[0]}.{pieces[1]}".encode(), header, decoded[1], decoded[2])


def kid_of(header: Mapping[str, Any], typ: str) -> str:
    """The key that a header names. Raises ForeignAlgorithm, or JwsMalformed for any header but our own."""
    if header.get("alg") != ALGORITHM:
        raise ForeignAlgorithm(f"its header's `alg` is not `{ALGORITHM}`; nothing else is accepted")
    if header.get("typ") != typ:
        raise JwsMalformed(f"its header's `typ` is not `{typ}`")
    if set(header) != {"alg", "kid", "typ"} or not isinstance(header["kid"], str):
        raise JwsMalformed("its header has other members than `alg`, `kid` and `typ`")
    return str(header["kid"])


def fits(parts: Parts, key: PublicKey) -> bool:
    """Whether `key` made this signature over these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(parts.signature, parts.signed)
    except InvalidSignature:
        return False
    return True


def from_base64url(text: str) -> bytes:
    """Strict: of two spellings of the same bytes only one is taken. Raises NotCanonical."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        raise NotCanonical("not base64url") from None
    if base64url(data) != text:
        raise NotCanonical("not base64url without padding, in its one canonical spelling")
    return data


def json_object(text: bytes, name: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice. Raises JwsMalformed, which names it `name`."""
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=_no_constant
        )
    except RecursionError:
        raise JwsMalformed(f"its {name} is nested too deep") from None
    except ValueError as error:
        raise JwsMalformed(f"its {name} is not JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise JwsMalformed(f"its {name} is not a JSON object")
    return value


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: raises ValueError where a name stands twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for name, _ in pairs if sum(other == name for other, _ in pairs) > 1)
        raise ValueError(f"`{twice}` stands twice in one object")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"`{name}` is no JSON number")


def _reason(error: ValueError) -> str:
    """Without the text that a decoding error would quote."""
    return "it cannot be decoded" if isinstance(error, UnicodeDecodeError) else str(error)
