"""What a signed receipt is, checked without the code that verifies receipts."""

from __future__ import annotations

import base64
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.receipts.jwk import base64url
from gateway.receipts.receipt import AttemptClaim, Receipt, new_receipt_id
from gateway.receipts.signer import ReceiptSigner

from .samples import BEDROCK, CACHED, ENGINE, FULL, KEY, REFUSED, SIGNER, UPSTREAM, key

HEADER = b'{"alg":"EdDSA"}'


def decoded(piece: str) -> bytes:
    return base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4))


def claims_of(jws: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(decoded(jws.split(".")[1]))
    return claims


def test_base64url_and_ed25519_are_those_of_rfc_8037_appendix_a_4() -> None:
    private = Ed25519PrivateKey.from_private_bytes(decoded("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"))
    signed = f"{base64url(HEADER)}.{base64url(b'Example of Ed25519 signing')}"

    assert signed == "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    assert base64url(private.sign(signed.encode())) == (
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


def test_a_receipt_is_a_compact_jws_that_any_ed25519_library_can_check() -> None:
    header, payload, signature = SIGNER.sign(FULL).split(".")

    assert json.loads(decoded(header)) == {"alg": "EdDSA", "kid": KEY.kid, "typ": "douane-receipt+jws"}
    public = Ed25519PublicKey.from_public_bytes(KEY.public.raw)
    public.verify(decoded(signature), f"{header}.{payload}".encode())


def test_the_claims_are_all_there() -> None:
    assert claims_of(SIGNER.sign(FULL)) == {
        "v": 1,
        "id": "rcpt_" + "0" * 32,
        "issued_at": "2026-11-23T15:19:03.123456Z",
        "outcome": "answered",
        "status": 200,
        "request": {
            "id": "req_" + "0" * 32,
            "sha256": "9224888e82d352bbc056447e8fb88a68a3bc9c5303623faa4d71e274ebf9e702",
            "bytes": 70,
        },
        "answer": {"form": "body", "sha256": FULL.answer.sha256, "bytes": 41},
        "tenant": "acme-de",
        "labels": ["confidential", "personal"],
        "policy": {
            "revision": "sha256:" + "b" * 64, "serial": 7, "rules": ["infer-anywhere", "personal-stays"],
        },
        "gateway": {"place": "gateway", "country": "DE", "operator": "self"},
        "attempts": [
            {
                "place": "local-engine",
                "kind": "engine",
                "country": "DE",
                "zones": ["DE", "EEA", "EU"],
                "operator": "self",
                "place_source": "declared",
                "host": None,
                "region": None,
                "upstream_request_id": None,
                "emulated": False,
                "outcome": "saturated",
                "reason": "first",
                "redacted": {},
            },
            {
                "place": "bedrock-frankfurt",
                "kind": "bedrock",
                "country": "DE",
                "zones": ["DE", "EEA", "EU"],
                "operator": "aws",
                "place_source": "derived",
                "host": "bedrock-runtime.eu-central-1.amazonaws.com",
                "region": "eu-central-1",
                "upstream_request_id": "5d0e3f1c",
                "emulated": False,
                "outcome": "answered",
                "reason": "spill",
                "redacted": {},
            },
        ],
        "cache": {"status": "miss", "place": "store-redis", "origin": None},
        "model": {"requested": "gpt-oss-20b", "answered": "gpt-oss-20b"},
        "usage": {
            "prompt_tokens": 11, "completion_tokens": 22, "reasoning_tokens": 3, "cached_tokens": 4,
        },
        "audit": {
            "replica": "0123456789abcdef", "sequence": 41, "hash": "c" * 64,
            "end": {"sequence": 43, "hash": "d" * 64},
        },
        "nonce": "client-mark-of-24-letters",
        "emulated": False,
        "demo": False,
    }  # fmt: skip


@pytest.mark.parametrize("receipt", [FULL, CACHED, REFUSED], ids=lambda receipt: str(receipt.outcome))
def test_no_field_of_a_receipt_goes_unsigned(receipt: Receipt) -> None:
    names = {field.name for field in fields(receipt)}

    assert set(claims_of(SIGNER.sign(receipt))) == names | {"v", "emulated", "demo"}


def test_a_demo_key_marks_the_header_and_the_claims_whatever_the_receipt_says() -> None:
    jws = ReceiptSigner(key(1, demo=True)).sign(FULL)

    assert json.loads(decoded(jws.split(".")[0]))["kid"] == "demo-" + KEY.kid
    assert claims_of(jws)["demo"] is True


def test_an_emulator_in_any_attempt_marks_the_receipt() -> None:
    emulated = AttemptClaim.of(BEDROCK, "throttled", replace(UPSTREAM, emulated=True), "first")
    attempts = (emulated, AttemptClaim.of(ENGINE, "answered", None, "fallback"))

    assert claims_of(SIGNER.sign(replace(FULL, attempts=attempts)))["emulated"] is True


def test_an_answer_that_an_emulator_made_stays_marked_when_it_comes_from_the_cache() -> None:
    assert claims_of(SIGNER.sign(CACHED))["emulated"] is True


def test_an_attempt_says_the_host_that_answered_not_the_one_that_was_planned() -> None:
    other = replace(UPSTREAM, host="bedrock-runtime-fips.eu-central-1.amazonaws.com")

    assert AttemptClaim.of(BEDROCK, "answered", other, "first").host == other.host
    assert AttemptClaim.of(BEDROCK, "unreachable", None, "first").host == BEDROCK.host


def test_receipt_ids_do_not_repeat() -> None:
    ids = {new_receipt_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(one) == 37 and one.startswith("rcpt_") for one in ids)
