"""A signature counts for the very bundle that it is about, by the very key that is trusted, or not at all."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.policy.signatures import TYPE, Judged, Standing, Statement, judge, sign
from gateway.policy.source.directory import Files
from gateway.receipts.jws import header_of
from gateway.receipts.jws import sign as seal
from gateway.receipts.signer import TYPE as RECEIPT_TYPE
from tests.policy_signing.signing import ANN, BOB, EVE, SIGNED_AT, bundle, signature

FILES = bundle()
GOOD = signature(FILES, ANN)
TRUSTED = {ANN.public.thumbprint: ANN.public}
PAYLOAD = {"v": 1, "policy_revision": FILES.revision, "serial": 1, "signed_at": SIGNED_AT}


def judged(content: bytes, files: Files = FILES, serial: int | None = 1) -> Judged:
    return judge("signatures/x.jws", content, TRUSTED, files.revision, serial)


def part(value: Any) -> str:
    return urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def test_a_good_signature_says_who_signed_what_and_when() -> None:
    assert judged(GOOD) == Judged(
        "signatures/x.jws",
        Standing.GOOD,
        f"signed by `{ANN.kid}` at {SIGNED_AT}",
        ANN.kid,
        Statement(FILES.revision, 1, SIGNED_AT),
    )


def test_it_is_a_compact_jws_that_holds_the_hash_of_the_bundle_and_nothing_of_it() -> None:
    header, payload, _ = GOOD.decode().strip().split(".")

    assert header == part({"alg": "EdDSA", "kid": ANN.kid, "typ": "douane-policy+jws"})
    assert payload == part(PAYLOAD)
    assert len(GOOD) < 500


def test_no_character_of_a_signature_can_be_changed() -> None:
    text = GOOD.decode().strip()
    for position, character in enumerate(text):
        other = "A" if character != "A" else "B"
        changed = f"{text[:position]}{other}{text[position + 1 :]}".encode()
        assert not judged(changed).good, position


@pytest.mark.parametrize("name", sorted(FILES.content))
def test_a_bundle_of_which_one_byte_was_changed_after_signing_is_another_bundle(name: str) -> None:
    content = FILES.content[name]
    position = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % len(content)
    changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]

    assert judged(GOOD, Files({**FILES.content, name: changed})).standing is Standing.OTHER_BUNDLE


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {**content, "residency/99-more.yaml": b""},
        lambda content: {**content, "adopted/gdpr/pack.yaml": b""},
        lambda content: {**content, "tests/more.yaml": b""},
        lambda content: {name: text for name, text in content.items() if name != "claims.yaml"},
        lambda content: {name.replace("claims", "detectors2"): text for name, text in content.items()},
        lambda content: {
            **content,
            "places.yaml": content["routes.yaml"],
            "routes.yaml": content["places.yaml"],
        },
    ],
    ids=["a rule file more", "a pack more", "an example more", "claims less", "another name", "two swapped"],
)
def test_a_file_more_or_less_or_under_another_name_is_another_bundle(
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
) -> None:
    changed = Files(change(dict(FILES.content)))

    assert judged(GOOD, changed).standing is Standing.OTHER_BUNDLE


def test_a_signature_that_was_moved_from_another_bundle_names_both() -> None:
    other = bundle(serial=2)
    found = judged(signature(other, ANN, 2))

    assert found.standing is Standing.OTHER_BUNDLE
    assert f"`{other.revision}` (serial 2)" in found.said
    assert f"this is `{FILES.revision}`" in found.said


def test_a_signature_by_a_foreign_key_does_not_count() -> None:
    assert judged(signature(FILES, EVE)).standing is Standing.FOREIGN_KEY


def test_a_foreign_key_that_takes_a_trusted_name_does_not_count() -> None:
    forged = seal(header_of(ANN.kid, TYPE), PAYLOAD, EVE.private)

    assert judged(forged.encode()).standing is Standing.ALTERED


def test_the_statement_of_one_signature_under_the_seal_of_another_does_not_count() -> None:
    header, _, seal_ = GOOD.decode().strip().split(".")
    payload = signature(bundle(serial=2), ANN, 2).decode().split(".")[1]

    assert judged(f"{header}.{payload}.{seal_}".encode(), bundle(serial=2), 2).standing is Standing.ALTERED


def test_a_serial_that_is_not_the_bundles_does_not_count_once_that_is_known() -> None:
    other = signature(FILES, ANN, serial=9)

    assert judged(other, serial=None).good
    assert judged(other, serial=1).standing is Standing.OTHER_SERIAL


def test_a_receipt_of_the_same_key_is_no_signature_of_a_policy() -> None:
    found = judged(seal(header_of(ANN.kid, RECEIPT_TYPE), PAYLOAD, ANN.private).encode())

    assert (found.standing, found.said) == (
        Standing.MALFORMED,
        "it is no signature of a policy: its header's `typ` is not `douane-policy+jws`",
    )


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"alg": "none", "kid": ANN.kid, "typ": TYPE}, "its header's `alg` is not `EdDSA`"),
        ({"alg": "HS256", "kid": ANN.kid, "typ": TYPE}, "its header's `alg` is not `EdDSA`"),
        ({"alg": "EdDSA", "kid": 7, "typ": TYPE}, "other members than"),
        ({"alg": "EdDSA", "kid": ANN.kid, "typ": TYPE, "jwk": EVE.public.jwk()}, "other members than"),
        ({"alg": "EdDSA", "kid": ANN.kid, "typ": TYPE, "crit": ["b64"]}, "other members than"),
        ({"alg": "EdDSA", "kid": "\x1b[2J", "typ": TYPE}, "its `kid` is not the thumbprint of a key"),
    ],
)
def test_no_other_header_is_accepted_whoever_signed(header: dict[str, Any], said: str) -> None:
    found = judged(seal(part(header), PAYLOAD, ANN.private).encode())

    assert found.standing is Standing.MALFORMED
    assert said in found.said


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({**PAYLOAD, "v": 2}, "its `v` is not 1"),
        ({**PAYLOAD, "v": True}, "its `v` is not 1"),
        ({**PAYLOAD, "serial": True}, "its `serial` is wrong"),
        ({**PAYLOAD, "serial": "1"}, "its `serial` is wrong"),
        ({**PAYLOAD, "policy_revision": "sha256:abc"}, "its `policy_revision` is not"),
        ({**PAYLOAD, "signed_at": "yesterday"}, "its `signed_at` is not a UTC time"),
        ({**PAYLOAD, "also": 1}, "its payload has other members"),
        ({name: value for name, value in PAYLOAD.items() if name != "serial"}, "has other members"),
        ([1], "its payload is not a JSON object"),
    ],
)
def test_no_other_statement_is_accepted_even_of_a_trusted_key(payload: Any, said: str) -> None:
    found = judged(seal(header_of(ANN.kid, TYPE), payload, ANN.private).encode())

    assert found.standing is Standing.MALFORMED
    assert said in found.said


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0" * 100, b"x" * 9000, "ä.ö.ü".encode(), b"a.b.c", b"..", b"[" * 5000, b"{}", GOOD + GOOD,
     part({"alg": "EdDSA"}).encode() + b"." + urlsafe_b64encode(b"[" * 12_000).rstrip(b"=") + b".AAAA"],
    ids=range(10),
)  # fmt: skip
def test_garbage_is_malformed_and_never_an_error(garbage: bytes) -> None:
    assert judged(garbage).standing is Standing.MALFORMED


def test_what_is_quoted_of_a_hostile_file_is_short_and_steers_no_terminal() -> None:
    name = "\x1b[2J" + "x" * 9000
    header = f'{{"{name}":1,"{name}":1}}'.encode().replace(b"\x1b", b"\\u001b")
    said = judged(urlsafe_b64encode(header).rstrip(b"=") + b".e30.AAAA").said

    assert "`?[2Jxxx" in said
    assert len(said) < 300


def test_two_signers_make_two_different_signatures_of_one_statement() -> None:
    statement = Statement(FILES.revision, 1, SIGNED_AT)
    ann, bob = sign(statement, ANN), sign(statement, BOB)

    assert ann.split(".")[1] == bob.split(".")[1]
    assert ann.split(".")[2] != bob.split(".")[2]
