"""Key files: private from the first byte, refused when they are not, and published by thumbprint."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.receipts.jwk import PublicKey, from_base64url, jwks
from gateway.receipts.keys import (
    SigningKeyInvalid,
    create_key,
    load_retired,
    load_signer,
    load_signing_key,
    read_public_pem,
)

from .samples import FULL, key

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


def test_a_thumbprint_is_that_of_rfc_8037_appendix_a_3() -> None:
    public = PublicKey(from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"), demo=False)

    assert public.thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert public.jwk() == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        "use": "sig",
        "alg": "EdDSA",
    }


def test_a_new_key_is_a_private_file_that_loads_again(tmp_path: Path) -> None:
    made = create_key(tmp_path / "keys" / "receipt.pem")

    loaded = load_signing_key(tmp_path / "keys" / "receipt.pem")
    assert (loaded.public, loaded.demo) == (made.public, False)
    assert stat.S_IMODE((tmp_path / "keys" / "receipt.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_two_new_keys_differ(tmp_path: Path) -> None:
    assert create_key(tmp_path / "a").kid != create_key(tmp_path / "b").kid


def test_a_demo_key_stays_one_through_its_file_its_public_half_and_the_jwks(tmp_path: Path) -> None:
    made = create_key(tmp_path / "demo.pem", demo=True)

    loaded = load_signing_key(tmp_path / "demo.pem")
    assert loaded.demo
    assert loaded.kid == made.kid == "demo-" + made.public.thumbprint
    assert read_public_pem(loaded.public.pem(), tmp_path) == loaded.public
    (jwk,) = jwks([loaded.public])["keys"]
    assert (jwk["demo"], jwk["kid"]) == (True, made.kid)


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "receipt.pem").write_text("precious")

    with pytest.raises(SigningKeyInvalid, match=r"`.*receipt\.pem` exists already"):
        create_key(tmp_path / "receipt.pem")
    assert (tmp_path / "receipt.pem").read_text() == "precious"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o700, 0o601])
def test_a_key_that_others_may_have_read_is_refused(tmp_path: Path, mode: int) -> None:
    create_key(tmp_path / "receipt.pem")
    (tmp_path / "receipt.pem").chmod(mode)

    with pytest.raises(SigningKeyInvalid, match=f"has mode {mode:04o}.*run `chmod 600"):
        load_signing_key(tmp_path / "receipt.pem")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_only_its_owner_can_read_is_taken(tmp_path: Path, mode: int) -> None:
    made = create_key(tmp_path / "receipt.pem")
    (tmp_path / "receipt.pem").chmod(mode)

    assert load_signing_key(tmp_path / "receipt.pem").kid == made.kid


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_files_that_hold_no_usable_key_say_why(tmp_path: Path) -> None:
    secret = Ed25519PrivateKey.generate()
    locked = secret.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x"))
    other = rsa.generate_private_key(65537, 2048).private_bytes(PEM, PKCS8, serialization.NoEncryption())
    cases = {
        "locked": (locked, "is protected by a passphrase"),
        "rsa": (other, "is not an Ed25519 key; make one with `douane receipt new-key PATH`"),
        "text": (b"hello", "holds no private key in PEM form"),
        "public": (key(1).public.pem(), "holds no private key in PEM form"),
        "empty": (b"", "holds no private key in PEM form"),
    }
    for name, (content, reason) in cases.items():
        with pytest.raises(SigningKeyInvalid) as caught:
            load_signing_key(private_file(tmp_path / name, content))
        assert f"`{tmp_path / name}` {reason}" in str(caught.value)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyInvalid) as caught:
        load_signing_key(tmp_path / "gone.pem")
    assert str(caught.value) == (
        f"there is no key file `{tmp_path / 'gone.pem'}`; "
        f"make one with `douane receipt new-key {tmp_path / 'gone.pem'}`"
    )


def test_a_directory_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyInvalid, match="is not a regular file; make one"):
        load_signing_key(tmp_path)


def test_the_private_half_shows_in_no_text(tmp_path: Path) -> None:
    made = create_key(tmp_path / "receipt.pem")
    raw = made.private.private_bytes_raw()

    shown = f"{made!r} {made} {vars(load_signer(tmp_path / 'receipt.pem', tmp_path / 'none')).keys()}"
    assert "private=" not in shown
    assert raw.hex() not in shown
    assert repr(raw)[2:-1] not in shown


def test_retired_keys_stay_published_after_the_one_that_signs(tmp_path: Path) -> None:
    create_key(tmp_path / "receipt.pem")
    (tmp_path / "retired").mkdir()
    for seed in (2, 3):
        (tmp_path / "retired" / f"{seed}.pem").write_bytes(key(seed).public.pem())
    (tmp_path / "retired" / "README").write_text("not a key")

    signer = load_signer(tmp_path / "receipt.pem", tmp_path / "retired")

    assert [jwk["kid"] for jwk in signer.jwks()["keys"]] == [signer.kid, key(2).kid, key(3).kid]
    assert signer.sign(FULL).count(".") == 2


def test_a_key_that_is_both_in_use_and_retired_is_published_once(tmp_path: Path) -> None:
    made = create_key(tmp_path / "receipt.pem")
    (tmp_path / "retired").mkdir()
    (tmp_path / "retired" / "same.pem").write_bytes(made.public.pem())

    assert len(load_signer(tmp_path / "receipt.pem", tmp_path / "retired").jwks()["keys"]) == 1


def test_no_directory_of_retired_keys_means_none(tmp_path: Path) -> None:
    assert load_retired(tmp_path / "gone") == ()


def test_a_private_key_among_the_retired_ones_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path / "old.pem")

    with pytest.raises(SigningKeyInvalid, match=r"is a private key; give the public one"):
        load_retired(tmp_path)


def test_what_is_no_public_key_is_refused(tmp_path: Path) -> None:
    other = rsa.generate_private_key(65537, 2048).public_key()
    text = other.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(SigningKeyInvalid, match="is not an Ed25519 key"):
        read_public_pem(text, tmp_path)
    with pytest.raises(SigningKeyInvalid, match="holds no public key"):
        read_public_pem(b"hello", tmp_path)
