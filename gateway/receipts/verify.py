"""Checking a receipt offline: with a pinned public key, and with what the client sent and got."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from gateway.receipts.digest import body_digest, transcript_digest
from gateway.receipts.jwk import DEMO_PREFIX, PublicKey
from gateway.receipts.pinned import NotCanonical, from_base64url, unique_members
from gateway.receipts.receipt import VERSION, Receipt
from gateway.receipts.signer import ALGORITHM, TYPE

JWS_BYTES_MAX: Final = 64 * 1024
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


class ReceiptMalformed(ValueError):
    """The text is not a receipt, whoever signed it."""


class ReceiptNotGenuine(Exception):
    """A signed text, but not a receipt that one of the pinned keys has signed."""


@dataclass(frozen=True, slots=True)
class OpenedReceipt:
    """A receipt's content. Whether to believe it depends on which of the two functions gave it."""

    receipt: Receipt
    kid: str
    demo: bool


@dataclass(frozen=True, slots=True)
class _Parts:
    signed: bytes
    header: dict[str, Any]
    payload: bytes
    signature: bytes


def verify_receipt(jws: str, pinned: Mapping[str, PublicKey]) -> OpenedReceipt:
    """The content of a receipt that one of the `pinned` keys (by thumbprint) has signed.

    Raises ReceiptMalformed, or ReceiptNotGenuine for a foreign key or algorithm or a signature that does
    not fit.
    """
    parts = _split(jws)
    kid = _kid(parts.header)
    key = pinned.get(kid.removeprefix(DEMO_PREFIX))
    if key is None:
        raise ReceiptNotGenuine(f"it names the key `{kid}`, which is not among the pinned ones")
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(parts.signature, parts.signed)
    except InvalidSignature:
        raise ReceiptNotGenuine(
            f"the signature does not fit: it was altered, or not made by `{kid}`"
        ) from None
    if key.demo and not kid.startswith(DEMO_PREFIX):
        raise ReceiptNotGenuine(f"it hides that `{key.kid}` is a demo key")
    return _open(parts.payload, kid)


def read_unverified(jws: str) -> OpenedReceipt:
    """The content of a receipt that nobody has vouched for: to look at, not to believe.

    Raises ReceiptMalformed, or ReceiptNotGenuine for an algorithm that no receipt is signed with.
    """
    parts = _split(jws)
    return _open(parts.payload, _kid(parts.header))


def request_matches(receipt: Receipt, body: bytes) -> bool:
    """Whether `body` is the request that the receipt is about, byte for byte."""
    return receipt.request.sha256 == body_digest(body)


def answer_matches(receipt: Receipt, answer: bytes) -> bool:
    """Whether `answer`, a saved body or the saved transcript of a stream, is what was delivered."""
    of = transcript_digest if receipt.answer.form == "stream" else body_digest
    return receipt.answer.sha256 == of(answer)


def nonce_matches(receipt: Receipt, nonce: str) -> bool:
    """Whether `nonce` is the mark that the client sent with the request."""
    return receipt.nonce == nonce


def _split(jws: str) -> _Parts:
    if len(jws) > JWS_BYTES_MAX:
        raise ReceiptMalformed(f"it has {len(jws)} bytes; a receipt has at most {JWS_BYTES_MAX}")
    pieces = jws.split(".")
    if len(pieces) != 3:
        raise ReceiptMalformed("it is not a compact JWS: three parts with dots between")
    decoded = []
    for name, piece in zip(("header", "payload", "signature"), pieces, strict=True):
        try:
            decoded.append(from_base64url(piece))
        except NotCanonical as error:
            raise ReceiptMalformed(f"its {name} is {error}") from None
    header = _object(decoded[0], "header")
    return _Parts(f"{pieces[0]}.{pieces[1]}".encode(), header, decoded[1], decoded[2])


def _kid(header: dict[str, Any]) -> str:
    if header.get("alg") != ALGORITHM:
        raise ReceiptNotGenuine(f"its header's `alg` is not `{ALGORITHM}`; nothing else is accepted")
    if header.get("typ") != TYPE:
        raise ReceiptMalformed(f"its header's `typ` is not `{TYPE}`")
    if set(header) != {"alg", "kid", "typ"} or not isinstance(header["kid"], str):
        raise ReceiptMalformed("its header has other members than `alg`, `kid` and `typ`")
    return str(header["kid"])


def _open(payload: bytes, kid: str) -> OpenedReceipt:
    claims = _object(payload, "payload")
    version, demo, emulated = claims.pop("v", None), claims.pop("demo", None), claims.pop("emulated", None)
    if type(version) is not int or version != VERSION:
        raise ReceiptMalformed(f"its `v` is not {VERSION}; check it with a douane that knows its version")
    try:
        receipt = TypeAdapter(Receipt).validate_json(json.dumps(claims))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReceiptMalformed(f"its claim `{where}` is wrong: {first['msg'].lower()}") from None
    if not _TIME.fullmatch(receipt.issued_at):
        raise ReceiptMalformed("its claim `issued_at` is not a UTC time with microseconds")
    if demo is not kid.startswith(DEMO_PREFIX):
        raise ReceiptMalformed("its claim `demo` does not fit the key that it names")
    if emulated is not receipt.emulated:
        raise ReceiptMalformed(
            "its claim `emulated` does not fit its attempts and its cached answer's origin"
        )
    return OpenedReceipt(receipt, kid, demo)


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=_no_constant
        )
    except RecursionError:
        raise ReceiptMalformed(f"its {name} is nested too deep") from None
    except ValueError as error:
        raise ReceiptMalformed(f"its {name} is not JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise ReceiptMalformed(f"its {name} is not a JSON object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"`{name}` is no JSON number")


def _reason(error: ValueError) -> str:
    """Without the text that a decoding error would quote."""
    return "it cannot be decoded" if isinstance(error, UnicodeDecodeError) else str(error)
