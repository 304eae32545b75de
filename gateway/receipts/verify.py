"""Checking a receipt offline: with a pinned public key, and with what the client sent and got."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from gateway.receipts.digest import body_digest, transcript_digest
from gateway.receipts.jwk import DEMO_PREFIX, PublicKey
from gateway.receipts.jws import Malformed, NotGenuine, open_signed, open_unverified
from gateway.receipts.receipt import VERSION, Receipt
from gateway.receipts.signer import TYPE

ReceiptMalformed = Malformed
ReceiptNotGenuine = NotGenuine

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class OpenedReceipt:
    """A receipt's content. Whether to believe it depends on which of the two functions gave it."""

    receipt: Receipt
    kid: str
    demo: bool


def verify_receipt(jws: str, pinned: Mapping[str, PublicKey]) -> OpenedReceipt:
    """The content of a receipt that one of the `pinned` keys (by thumbprint) has signed.

    Raises ReceiptMalformed, or ReceiptNotGenuine for a foreign key or algorithm or a signature that does
    not fit.
    """
    statement = open_signed(jws, TYPE, pinned)
    return _open(statement.claims, statement.kid)


def read_unverified(jws: str) -> OpenedReceipt:
    """The content of a receipt that nobody has vouched for: to look at, not to believe.

    Raises ReceiptMalformed, or ReceiptNotGenuine for an algorithm that no receipt is signed with.
    """
    statement = open_unverified(jws, TYPE)
    return _open(statement.claims, statement.kid)


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


def _open(claims: dict[str, Any], kid: str) -> OpenedReceipt:
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
