"""Pinned keys come from a PEM file, a JWK or a JWK set, and from nothing that could be taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.receipts.jwk import NotCanonical, base64url, from_base64url, jwks
from gateway.receipts.keys import SigningKeyInvalid, create_key
from gateway.receipts.pinned import load_pinned

from .samples import key

calm = settings(deadline=None, max_examples=150)  # a busy machine is not a bug

ONE, TWO, DEMO = key(1).public, key(2).public, key(3, demo=True).public


def pinned(tmp_path: Path, content: bytes | str | dict[str, Any]) -> Path:
    path = tmp_path / "pinned"
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("public", [ONE, DEMO], ids=["real", "demo"])
def test_a_public_pem_and_a_jwk_are_pinned(tmp_path: Path, public: Any) -> None:
    assert load_pinned(pinned(tmp_path, public.pem())) == {public.thumbprint: public}
    assert load_pinned(pinned(tmp_path, public.jwk())) == {public.thumbprint: public}


def test_every_key_of_a_set_is_pinned(tmp_path: Path) -> None:
    path = pinned(tmp_path, jwks([ONE, TWO, DEMO]))

    assert load_pinned(path) == {key.thumbprint: key for key in (ONE, TWO, DEMO)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no public key in PEM form"),
        ("hello", "holds no public key in PEM form"),
        ("{", "is not a JWK set"),
        ('{"keys":[],"keys":[]}', "`keys` stands twice"),
        ({"keys": []}, "`keys`"),
        ({}, r"`keys\.0\.kty`"),
        ({"keys": [{**ONE.jwk(), "kty": "RSA"}]}, r"`keys\.0\.kty`"),
        ({"keys": [{**ONE.jwk(), "alg": "none"}]}, r"`keys\.0\.alg`"),
        ({"keys": [{**ONE.jwk(), "d": "secret"}]}, r"`keys\.0\.d`"),
        ({"keys": [{**ONE.jwk(), "x": base64url(b"short")}]}, r"`keys\.0\.x`"),
        ({"keys": [{**ONE.jwk(), "x": ONE.jwk()["x"] + "="}]}, r"`keys\.0\.x`"),
        ({"keys": [{**ONE.jwk(), "kid": TWO.kid}]}, "the `kid` of a key is not its own"),
        ({"keys": [{**DEMO.jwk(), "demo": False}]}, "the `kid` of a key is not its own"),
        ("[" * 100_000, "holds no public key"),
        ('{"a":' + "[" * 100_000, "is not a JWK set"),
    ],
)
def test_anything_else_is_refused_and_says_what_is_wrong(
    tmp_path: Path, content: str | dict[str, Any], message: str
) -> None:
    with pytest.raises(SigningKeyInvalid, match=message):
        load_pinned(pinned(tmp_path, content))


def test_a_private_key_is_not_pinned(tmp_path: Path) -> None:
    create_key(tmp_path / "receipt.pem")

    with pytest.raises(
        SigningKeyInvalid, match=r"is a private key; give the public one \(`douane receipt public-key"
    ):
        load_pinned(tmp_path / "receipt.pem")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyInvalid, match=r"`.*gone` cannot be read: No such file or directory"):
        load_pinned(tmp_path / "gone")


@calm
@given(st.binary())
def test_of_all_spellings_of_bytes_in_base64url_only_one_is_read(data: bytes) -> None:
    text = base64url(data)
    assert from_base64url(text) == data

    for other in (text + "=", text + "\n", " " + text, text + "A"):
        try:
            assert from_base64url(other) != data
        except NotCanonical:
            continue


@pytest.mark.parametrize("text", ["A", "AB", "é", "A+/A", "AA==", "AA\n"])
def test_what_is_not_canonical_base64url_is_refused(text: str) -> None:
    with pytest.raises(NotCanonical):
        from_base64url(text)
