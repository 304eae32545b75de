"""A receipt is believed only as it was signed, by a key that was pinned; everything else is turned away."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.receipts.jwk import base64url
from gateway.receipts.jws import JWS_BYTES_MAX
from gateway.receipts.receipt import Receipt
from gateway.receipts.signer import ReceiptSigner
from gateway.receipts.verify import (
    ReceiptMalformed,
    ReceiptNotGenuine,
    answer_matches,
    read_unverified,
    request_matches,
    verify_receipt,
)

from .samples import ANSWER, CACHED, FULL, KEY, PINNED, REFUSED, REQUEST, SIGNER, key

calm = settings(deadline=None, max_examples=150)  # a busy machine is not a bug

JWS = SIGNER.sign(FULL)
HEADER = {"alg": "EdDSA", "kid": KEY.kid, "typ": "douane-receipt+jws"}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def signed(payload: bytes, header: Any = None) -> str:
    """Anything at all, signed with the genuine key."""
    head = json.dumps(HEADER if header is None else header).encode()
    text = f"{base64url(head)}.{base64url(payload)}"
    return f"{text}.{base64url(KEY.private.sign(text.encode()))}"


def claims(**changes: Any) -> dict[str, Any]:
    return {**asdict(FULL), "v": 1, "demo": False, "emulated": False, **changes}


def test_the_helper_above_makes_a_genuine_receipt() -> None:
    assert verify_receipt(signed(json.dumps(claims()).encode()), PINNED).receipt == FULL


@pytest.mark.parametrize("receipt", [FULL, CACHED, REFUSED], ids=lambda receipt: str(receipt.outcome))
def test_what_was_signed_is_what_is_read(receipt: Receipt) -> None:
    opened = verify_receipt(SIGNER.sign(receipt), PINNED)

    assert (opened.receipt, opened.kid, opened.demo) == (receipt, KEY.kid, False)


def test_a_receipt_of_an_earlier_version_still_verifies() -> None:
    """It says neither in which record its request ended, nor why each attempt was made."""
    earlier = claims()
    del earlier["audit"]["end"]
    for attempt in earlier["attempts"]:
        del attempt["reason"], attempt["redacted"]

    receipt = verify_receipt(signed(json.dumps(earlier).encode()), PINNED).receipt

    assert receipt.audit is not None
    assert (receipt.audit.sequence, receipt.audit.end) == (41, None)
    assert [attempt.reason for attempt in receipt.attempts] == [None, None]


@calm
@given(position=st.integers(0, len(JWS) - 1), letter=st.sampled_from(ALPHABET + ".=+/ \n\x00é"))
def test_no_change_of_a_character_goes_unnoticed(position: int, letter: str) -> None:
    altered = JWS[:position] + letter + JWS[position + 1 :]
    if altered == JWS:
        return

    with pytest.raises((ReceiptMalformed, ReceiptNotGenuine)):
        verify_receipt(altered, PINNED)


def test_every_single_character_counts() -> None:
    unnoticed = []
    for position, letter in enumerate(JWS):
        other = ALPHABET[(ALPHABET.find(letter) + 1) % 64]  # also flips bits that base64 may leave unused
        try:
            verify_receipt(JWS[:position] + other + JWS[position + 1 :], PINNED)
            unnoticed.append(position)
        except (ReceiptMalformed, ReceiptNotGenuine):
            continue

    assert unnoticed == []


@calm
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    with pytest.raises((ReceiptMalformed, ReceiptNotGenuine)):
        verify_receipt(text, PINNED)
    with pytest.raises((ReceiptMalformed, ReceiptNotGenuine)):
        verify_receipt(f"{base64url(json.dumps(HEADER).encode())}.{text}", PINNED)


@calm
@given(payload=st.binary(max_size=300))
def test_no_signed_payload_makes_it_fail_in_another_way(payload: bytes) -> None:
    with pytest.raises(ReceiptMalformed):
        verify_receipt(signed(payload), PINNED)


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS256", "RS256", "Ed25519", "eddsa", "", None, 1, ["EdDSA"]]
)
def test_no_other_algorithm_is_accepted(algorithm: Any) -> None:
    text = signed(json.dumps(claims()).encode(), {**HEADER, "alg": algorithm})

    with pytest.raises(ReceiptNotGenuine, match="`alg` is not `EdDSA`"):
        verify_receipt(text, PINNED)
    with pytest.raises(ReceiptNotGenuine, match="`alg` is not `EdDSA`"):
        read_unverified(text)


def test_a_receipt_without_a_signature_is_not_genuine() -> None:
    with pytest.raises(ReceiptNotGenuine, match="the signature does not fit"):
        verify_receipt(JWS.rsplit(".", 1)[0] + ".", PINNED)


def test_another_key_is_not_believed_even_under_the_pinned_name() -> None:
    stranger = key(2)
    with pytest.raises(
        ReceiptNotGenuine, match=f"names the key `{stranger.kid}`, which is not among the pinned"
    ):
        verify_receipt(ReceiptSigner(stranger).sign(FULL), PINNED)

    text = f"{base64url(json.dumps(HEADER).encode())}.{JWS.split('.')[1]}"
    forged = f"{text}.{base64url(stranger.private.sign(text.encode()))}"
    with pytest.raises(ReceiptNotGenuine, match="the signature does not fit"):
        verify_receipt(forged, PINNED)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({**HEADER, "typ": "JWT"}, "`typ` is not"),
        ({**HEADER, "crit": ["b64"], "b64": False}, "other members than"),
        ({**HEADER, "jwk": {}}, "other members than"),
        ({**HEADER, "kid": 1}, "other members than"),
        ({"alg": "EdDSA", "typ": "douane-receipt+jws"}, "other members than"),
        ([], "header is not a JSON object"),
        ("EdDSA", "header is not a JSON object"),
    ],
)
def test_a_header_has_exactly_its_three_members(header: Any, message: str) -> None:
    with pytest.raises(ReceiptMalformed, match=message):
        verify_receipt(signed(json.dumps(claims()).encode(), header), PINNED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": 2}, "its `v` is not 1"),
        ({"v": True}, "its `v` is not 1"),
        ({"v": "1"}, "its `v` is not 1"),
        ({"extra": 1}, "its claim `extra` is wrong: unexpected"),
        ({"id": 1}, "its claim `id` is wrong"),
        ({"status": "200"}, "its claim `status` is wrong"),
        ({"status": True}, "its claim `status` is wrong"),
        ({"status": 200.0}, "its claim `status` is wrong"),
        ({"outcome": "granted"}, "its claim `outcome` is wrong"),
        ({"labels": "personal"}, "its claim `labels` is wrong"),
        ({"usage": {"prompt_tokens": 1}}, r"its claim `usage\.\w+` is wrong"),
        ({"answer": {"form": "body", "sha256": "a", "bytes": 1, "x": 1}}, r"its claim `answer\.x` is wrong"),
        ({"issued_at": "yesterday"}, "`issued_at` is not a UTC time"),
        ({"issued_at": "2026-11-23T15:19:03.123456+01:00"}, "`issued_at` is not a UTC time"),
        ({"demo": True}, "`demo` does not fit the key"),
        ({"demo": None}, "`demo` does not fit the key"),
        ({"emulated": True}, "`emulated` does not fit"),
        ({"emulated": 0}, "`emulated` does not fit"),
    ],
)
def test_a_genuine_signature_over_wrong_claims_is_refused_and_the_claim_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReceiptMalformed, match=message):
        verify_receipt(signed(json.dumps(claims(**changes)).encode()), PINNED)


def test_a_missing_claim_is_named() -> None:
    lacking = {name: value for name, value in claims().items() if name != "tenant"}

    with pytest.raises(ReceiptMalformed, match="its claim `tenant` is wrong"):
        verify_receipt(signed(json.dumps(lacking).encode()), PINNED)


def test_a_name_that_stands_twice_is_refused_at_every_depth() -> None:
    text = json.dumps(claims())
    outer = text.replace('"tenant": "acme-de"', '"tenant": "acme-de", "tenant": "globex-us"')
    inner = text.replace('"form": "body"', '"form": "stream", "form": "body"')
    doubled = json.dumps(HEADER).replace("{", '{"kid":"x",')
    header = f"{base64url(doubled.encode())}.{JWS.split('.', 1)[1]}"

    for payload, name in ((outer, "tenant"), (inner, "form")):
        with pytest.raises(ReceiptMalformed, match=f"`{name}` stands twice"):
            verify_receipt(signed(payload.encode()), PINNED)
    with pytest.raises(ReceiptMalformed, match="header is not JSON: `kid` stands twice"):
        verify_receipt(header, PINNED)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "payload is not JSON"),
        (b"\xff\xfe", "payload is not JSON: it cannot be decoded"),
        (b"[]", "payload is not a JSON object"),
        (b'{"a":NaN}', "`NaN` is no JSON number"),
        (b"[" * 20_000, "nested too deep|not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "payload is not JSON"),
        (json.dumps(claims()).replace("acme-de", "\\ud800").encode(), "is wrong"),
    ],
)
def test_a_signed_payload_that_is_no_object_of_claims_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(ReceiptMalformed, match=message):
        verify_receipt(signed(payload), PINNED)


def test_a_text_that_is_too_long_is_not_even_decoded() -> None:
    with pytest.raises(ReceiptMalformed, match=f"a receipt has at most {JWS_BYTES_MAX}"):
        verify_receipt("A" * (JWS_BYTES_MAX + 1), PINNED)


@pytest.mark.parametrize("jws", ["", "a", "a.b", "a.b.c.d", "..", JWS + ".", JWS.replace(".", "=.", 1)])
def test_a_text_that_is_no_compact_jws_is_said_to_be_none(jws: str) -> None:
    with pytest.raises(ReceiptMalformed):
        verify_receipt(jws, PINNED)


def test_a_demo_receipt_is_genuine_and_says_what_it_is() -> None:
    demo = key(1, demo=True)

    opened = verify_receipt(ReceiptSigner(demo).sign(FULL), {demo.public.thumbprint: demo.public})

    assert (opened.demo, opened.kid) == (True, demo.kid)


def test_the_demo_mark_cannot_be_taken_off() -> None:
    demo = key(1, demo=True)
    pinned = {demo.public.thumbprint: demo.public}

    with pytest.raises(ReceiptNotGenuine, match="hides that"):
        verify_receipt(JWS, pinned)  # made with the same key, without its mark
    marked = signed(json.dumps(claims()).encode(), {**HEADER, "kid": demo.kid})
    with pytest.raises(ReceiptMalformed, match="`demo` does not fit the key"):
        verify_receipt(marked, pinned)


def test_without_a_key_a_receipt_can_be_read_but_is_not_verified() -> None:
    forged = SIGNER.sign(replace(FULL, tenant="globex-us")).rsplit(".", 1)[0] + "." + JWS.rsplit(".", 1)[1]

    assert read_unverified(forged).receipt.tenant == "globex-us"
    with pytest.raises(ReceiptNotGenuine):
        verify_receipt(forged, PINNED)


def test_the_digests_match_what_was_sent_and_delivered_and_nothing_else() -> None:
    assert request_matches(FULL, REQUEST)
    assert answer_matches(FULL, ANSWER)
    assert not request_matches(FULL, REQUEST + b"\n")
    assert not answer_matches(FULL, ANSWER.replace(b"[]", b"[ ]"))
    assert not request_matches(REFUSED, b"")
